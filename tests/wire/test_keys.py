"""Key names: each as the page gives it, all of a queue in one slot, no two the same."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from redis.crc import key_slot

from rqueue.errors import ConfigError
from rqueue.wire.keys import LEVELS, MAIN, Keys, QueueKeys, check_job_id, check_queue_name

PRINTABLE = st.characters(min_codepoint=0x21, max_codepoint=0x7E)
IDS = st.text(PRINTABLE, min_size=1, max_size=20)
NAMESPACES = st.text(PRINTABLE, min_size=1, max_size=20) | st.text("a{}:", min_size=1, max_size=6)
QUEUES = st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True)


def all_keys(keys: QueueKeys, one: str = "x") -> list[bytes]:
    """Every key of a queue, for one worker, producer and job of that name."""
    fixed = [keys.workers, keys.jobs, keys.scheduled, keys.messages, keys.dead, keys.letters, keys.counts]
    made = [keys.processing, keys.started, keys.settled, keys.card, keys.sent, keys.result]
    return [*keys.lists, *fixed, *(make(one) for make in made)]


def test_the_names():
    keys = Keys().queue("email")
    assert keys.name == "email"
    assert all_keys(keys, "w:1") == [
        b"rqueue:{email}",
        *(b"rqueue:{email}:p%d" % level for level in range(1, 11)),
        b"rqueue:{email}:workers",
        b"rqueue:{email}:jobs",
        b"rqueue:{email}:scheduled",
        b"rqueue:{email}:scheduled:messages",
        b"rqueue:{email}:dead",
        b"rqueue:{email}:dead:letters",
        b"rqueue:{email}:counts",
        b"rqueue:{email}:processing:w:1",
        b"rqueue:{email}:started:w:1",
        b"rqueue:{email}:settled:w:1",
        b"rqueue:{email}:worker:w:1",
        b"rqueue:{email}:sent:w:1",
        b"rqueue:{email}:result:w:1",
    ]
    assert Keys().queues == b"rqueue:queues"
    assert (Keys().control, Keys().reply("1f")) == (b"rqueue:control", b"rqueue:control:reply:1f")


def test_a_priority_is_the_index_of_its_list():
    keys = Keys().queue("email")
    assert keys.lists[MAIN] == keys.main
    assert [keys.lists[level] for level in LEVELS] == [b"rqueue:{email}:p%d" % level for level in LEVELS]


def test_a_namespace_comes_first_in_every_key():
    keys = Keys("shop")
    assert keys.queues == b"shop:queues"
    assert all(name.startswith(b"shop:{email}") for name in all_keys(keys.queue("email")))


@given(NAMESPACES, QUEUES, IDS)
@example("{}", "email", "x")
@example("{shop}", "email", "}{")
@example("a{b", "email", "x")
@example("a}b", "email", "x")
def test_all_keys_of_a_queue_share_a_slot(namespace: str, queue: str, one: str):
    """Else no script is legal on a cluster. A namespace that breaks this must be refused."""
    try:
        keys = Keys(namespace).queue(queue)
    except ConfigError:
        return
    assert len({key_slot(name) for name in all_keys(keys, one)}) == 1


def test_a_namespace_with_a_hash_tag_keeps_all_queues_in_one_slot():
    keys = Keys("{shop}")
    names = [keys.queues, *all_keys(keys.queue("email")), *all_keys(keys.queue("reports"))]
    assert len({key_slot(name) for name in names}) == 1


@given(QUEUES, QUEUES, IDS, IDS)
def test_no_two_keys_are_the_same(queue: str, other: str, one: str, two: str):
    keys = Keys()
    names = {(queue, one), (other, two)}
    made = [name for where, who in names for name in all_keys(keys.queue(where), who)[-6:]]
    assert len(set(made)) == len(made)
    queues = {queue, other}
    fixed = [name for where in queues for name in all_keys(keys.queue(where))[:-6]]
    assert len({*fixed, *made, keys.queues}) == len(fixed) + len(made) + 1


@given(QUEUES, IDS)
def test_a_worker_is_found_in_its_lists_name(queue: str, worker: str):
    keys = Keys().queue(queue)
    assert keys.worker_of(keys.processing(worker)) == worker


def test_a_key_is_taken_apart():
    keys = Keys("ns:x")
    email = keys.queue("email")
    made = {
        email.main: ("email", "", ""),
        email.lists[10]: ("email", "p10", ""),
        email.workers: ("email", "workers", ""),
        email.letters: ("email", "dead", "letters"),
        email.processing("h:1:a"): ("email", "processing", "h:1:a"),
        email.result("a:{b}"): ("email", "result", "a:{b}"),
        email.processing("\udcff"): ("email", "processing", "\udcff"),
    }
    assert {name: keys.parts_of(name) for name in made} == made
    others = [keys.queues, keys.paused, b"ns:x:{a b}:p1", b"ns:x:{a", b"ns:x:{a}b", b"ns:y:{a}", b"ns:x:{}:p1"]
    assert [keys.parts_of(name) for name in others] == [None] * len(others)


def test_the_keys_of_a_queue_are_made_once():
    keys = Keys()
    assert keys.queue("email") is keys.queue("email")


@given(QUEUES)
def test_a_queues_name_is_returned(name: str):
    assert check_queue_name(name) == name


@pytest.mark.parametrize(
    "name", ["", " ", "a b", "a{b}", "{a}", "a:b", "a\n", "ä", "a" * 65, "a/b", "*", None, 1, b"a", ["a"]], ids=repr
)
def test_what_is_no_queues_name_is_refused_with_what_is(name: object):
    text = re.escape(f"queue {name!r}: a queue's name is 1 to 64 of the characters A-Z a-z 0-9 . _ -")
    with pytest.raises(ConfigError, match=text):
        check_queue_name(name)
    if isinstance(name, str):
        with pytest.raises(ConfigError, match=text):
            Keys().queue(name)


@given(st.text(PRINTABLE, min_size=1, max_size=128).filter(lambda text: text != "-"))
def test_a_jobs_id_is_returned(job_id: str):
    assert check_job_id(job_id) == job_id


@pytest.mark.parametrize("job_id", ["", "-", " ", "a b", "a\n", "\x7f", "ä", "a" * 129, None, 1, b"a"], ids=repr)
def test_what_is_no_id_is_refused_with_what_is(job_id: object):
    with pytest.raises(ConfigError, match=re.escape(f"job_id {job_id!r}: an id is 1 to 128 printable ASCII")):
        check_job_id(job_id)


@pytest.mark.parametrize("namespace", ["", " ", "a b", "ä", "a\n", "a" * 129], ids=repr)
def test_what_is_no_namespace_is_refused(namespace: str):
    with pytest.raises(ConfigError, match=re.escape(f"namespace {namespace!r}")):
        Keys(namespace)
