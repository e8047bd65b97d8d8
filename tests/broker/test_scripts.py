"""The scripts' loader, and the lifecycle: one name, four times."""

import inspect
import re
from hashlib import sha1
from pathlib import Path

import pytest

from rqueue.broker import scripts
from rqueue.broker.broker import Broker
from rqueue.broker.scripts import SCRIPTS, check_schema
from rqueue.wire.state import LIFECYCLE, OTHER_VERBS, VERBS_WITHOUT_SCRIPT, WORKER_VERBS

VERBS = {move.verb for move in LIFECYCLE} | {*WORKER_VERBS, *OTHER_VERBS}


OTHER_TESTS = {
    *("broker", "calls", "cluster", "durable", "endpoint", "full", "link", "pulse", "router", "scripts", "sentinel"),
    *("subscription", "survey", "upkeep"),
}

GOOD = """\
-- move: what it does.
--
-- KEYS[1] source  LIST  what
-- KEYS[4..13] p1 … p10  LIST
-- ARGV[1] worker, ARGV[2] lane
-- ARGV[5..] ids
local source, worker = KEYS[1], ARGV[1]
"""


def test_each_verb_has_its_script():
    """One name, four times. Breaks when a verb has no file, or a file no row in the lifecycle."""
    folder = Path(scripts.__file__).with_name("lua")
    assert {path.stem for path in folder.glob("*.lua")} == VERBS - VERBS_WITHOUT_SCRIPT == set(SCRIPTS)


def test_each_verb_has_its_method_which_runs_its_script_and_no_other():
    """One name, four times. Breaks when a method runs another verb's script, or a verb has no method."""
    runs = {
        name: set(re.findall(r"""(?:_run\(|_store\(|\bscripts\[)\s*"(\w+)\"""", inspect.getsource(method)))
        for name, method in inspect.getmembers(Broker, inspect.isfunction)
        if not name.startswith("_")
    }
    assert {name: ran for name, ran in runs.items() if ran} == {verb: {verb} for verb in VERBS - VERBS_WITHOUT_SCRIPT}
    assert set(runs) >= VERBS_WITHOUT_SCRIPT


def test_each_verb_has_its_tests():
    """One name, four times. Breaks when a verb comes without tests, or tests outlive their verb."""
    files = {path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")}
    assert files - OTHER_TESTS == VERBS
    assert files >= OTHER_TESTS


def test_the_verbs_of_the_broker_stand_in_the_order_of_the_lifecycle():
    """The same verbs in the same order everywhere (settling: a job's life). Breaks when a method is put at random."""
    source = "".join(map(inspect.getsource, Broker.__bases__))
    order = ["enqueue", "claim", "block", "adopt", "start", "track", "ack", "record", "retry", "bury", "release"]
    places = [source.index(f"def {verb}(") for verb in order]
    assert places == sorted(places)


def test_a_script_is_known_by_the_sha_of_its_bytes():
    """Breaks when the source is changed between its file and the server."""
    for verb, script in SCRIPTS.items():
        assert script.verb == verb
        assert script.source == (Path(scripts.__file__).with_name("lua") / f"{verb}.lua").read_bytes()
        assert script.sha == sha1(script.source).hexdigest().encode()


@pytest.mark.parametrize(
    "line",
    [
        "redis.call('DEL', KEYS[1])",
        "redis.call('DEL', KEYS[4], KEYS[13])",
        "return ARGV[2]",
        "return ARGV[5] .. ARGV[6] .. ARGV[500]",
        "return 1 -- not KEYS[2]",
        "return KEYS[4 + level]",
    ],
)
def test_what_the_header_declares_may_be_used(line):
    """Breaks when the loader refuses a script that keeps to its header."""
    check_schema("move", GOOD + line)


@pytest.mark.parametrize(
    ("line", "index"),
    [
        ("redis.call('DEL', KEYS[2])", "KEYS[2]"),
        ("redis.call('DEL', KEYS[14])", "KEYS[14]"),
        ("return ARGV[3]", "ARGV[3]"),
        ("return ARGV[4]", "ARGV[4]"),
        ("return KEYS[0]", "KEYS[0]"),
    ],
)
def test_what_the_header_does_not_declare_is_refused(line, index):
    """A header is a script's schema. Breaks when an index, one in a gap, or one behind a closed range gets through."""
    with pytest.raises(ValueError, match=re.escape(index)):
        check_schema("move", GOOD + line)


@pytest.mark.parametrize("source", ["", "-- other: x\nreturn 1", "return 1", "-- move\nreturn 1"])
def test_a_script_that_does_not_name_its_verb_is_refused(source):
    """Breaks when a file is copied and its first line is forgotten."""
    with pytest.raises(ValueError, match=r"move\.lua"):
        check_schema("move", source)
