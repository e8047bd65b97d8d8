"""The names of `import rqueue`: all of them, when the first is asked for, and nothing before that."""

import subprocess
import sys

import pytest

import rqueue
from rqueue import public

LOOKS = """
import sys, rqueue
assert "rqueue.public" not in sys.modules and "redis" not in sys.modules
{what}
assert "rqueue.public" in sys.modules
"""


def test_every_name_is_what_its_module_has():
    assert sorted(public.__all__, key=str.lower) == sorted(set(public.__all__), key=str.lower)
    for name in public.__all__:
        assert getattr(rqueue, name) is getattr(public, name)


@pytest.mark.parametrize(
    "what",
    [
        "rqueue.RQueue",
        "from rqueue import RQueue",
        "from rqueue import *; RQueue, every",
        "rqueue.errors.JobFailed",
        "assert set(rqueue.__all__) < set(dir(rqueue))",
        "assert not hasattr(rqueue, 'absent')",
    ],
)
def test_they_are_loaded_when_the_first_is_asked_for(what):
    done = subprocess.run([sys.executable, "-c", LOOKS.format(what=what)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_is_not_there_is_said():
    with pytest.raises(AttributeError, match="module 'rqueue' has no attribute 'absent'"):
        rqueue.absent  # noqa: B018
