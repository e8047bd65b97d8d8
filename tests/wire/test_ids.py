"""New jobs' ids: no two are the same, whoever asks."""

import os
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from rqueue.wire.ids import new_id


def test_an_id_is_32_hexadecimal_digits():
    assert all(re.fullmatch(r"[0-9a-f]{32}", new_id()) for _ in range(1000))


def test_threads_are_never_given_the_same():
    """Breaks when a thread looks at what is in stock, and takes it in a second step."""
    with ThreadPoolExecutor(8) as pool:
        drawn = [each for ids in pool.map(lambda _: [new_id() for _ in range(2000)], range(8)) for each in ids]
    assert len(set(drawn)) == len(drawn) == 16_000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_is_not_given_its_parents():
    """Breaks when what is in stock at the fork is kept by both."""
    new_id()
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.write(write, "".join(new_id() for _ in range(100)).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        theirs = pipe.read()
    os.waitpid(child, 0)
    assert len(theirs) == 3200
    assert not {theirs[at : at + 32] for at in range(0, 3200, 32)} & {new_id() for _ in range(300)}
