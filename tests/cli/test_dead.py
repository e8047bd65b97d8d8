"""``dead list|show|edit|retry|purge``: what an operator sees and does, with its exit codes."""

import json

import pytest

from rqueue.broker.broker import Done
from rqueue.wire.message import Call, Header
from rqueue.wire.record import Failure, Letter

pytestmark = pytest.mark.usefixtures("on_redis", "directory")

FAILURE = Failure("ValueError", "no good", "Traceback: here\n")


def message(job_id, task, level=0):
    return Header(level=level, retries=3, losses=2, id=job_id).encode() + Call(task).encode()


LETTERS = [
    ("email", Letter("a1", "failed", message("a1", "shop.a"), "shop.a", FAILURE, died=1_000, retries=3)),
    ("email", Letter("b2", "worker lost", message("b2", "shop.b", 9), "shop.b", died=2_000, losses=3)),
    ("other", Letter("c3", "malformed", b"\xff{", None, Failure("MalformedMessage", "neither"), died=3_000)),
]


@pytest.fixture(autouse=True)
def letters(with_app):
    """Three dead letters in two queues."""

    async def bury(app):
        broker = app.session().broker
        for number, (queue, letter) in enumerate(LETTERS):
            keys = app.keys.queue(queue)
            await broker.announce(queue)
            await broker.register(keys, f"w:{number}:0", 60)
            await broker._link.call(b"LPUSH", keys.processing(f"w:{number}:0"), letter.raw)
            done = Done(letter.raw, letter.id, b'{"state":"FAILURE"}', "60")
            answer = await broker.bury(keys, f"w:{number}:0", 0, 1, done, letter.encode(), 100, 3600)
            assert answer == b"1"

    with_app(bury)


def ids(command, *arguments):
    return {letter["id"] for letter in json.loads(command("dead", "list", "--json", *arguments).stdout)}


def test_list_as_a_table(command):
    shown = command("dead", "list")
    assert shown.exit_code == 0
    (row,) = [line for line in shown.stdout.splitlines() if "a1" in line]
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert cells == ["a1", "email", "shop.a", "failed", "1970-01-01 00:00:01Z", "3", "0", "ValueError: no good"]


def test_list_as_json(command):
    found = {letter["id"]: letter for letter in json.loads(command("dead", "list", "--json").stdout)}
    assert found["a1"] == {
        "id": "a1",
        "queue": "email",
        "task": "shop.a",
        "reason": "failed",
        "died": "1970-01-01T00:00:01+00:00",
        "attempts": 4,
        "retries": 3,
        "losses": 0,
        "error": "ValueError: no good",
        "traceback": "Traceback: here\n",
        "retryable": True,
        "message": '1 - 2 3 0 a1 {"task":"shop.a"}',
    }
    assert found["c3"]["message"] == {"$bytes": "/3s="}
    assert found["c3"]["retryable"] is False


def test_list_takes_filters(command):
    assert ids(command) == {"a1", "b2", "c3"}
    assert ids(command, "--queue", "email") == {"a1", "b2"}
    assert ids(command, "--task", "shop.a") == {"a1"}
    assert ids(command, "--reason", "worker lost") == {"b2"}
    assert len(ids(command, "--limit", "2")) == 2


def test_show(command):
    shown = command("dead", "show", "a1")
    assert shown.exit_code == 0
    assert "error: ValueError: no good\n" in shown.stdout
    assert "Traceback: here\n" in shown.stdout
    assert shown.stdout.endswith('message: 1 - 2 3 0 a1 {"task":"shop.a"}\n')
    assert json.loads(command("dead", "show", "b2", "--json").stdout)["task"] == "shop.b"


def test_show_of_what_is_not_there(command):
    shown = command("dead", "show", "zz", "--json")
    assert (shown.exit_code, shown.stdout) == (4, "")
    assert shown.stderr == "rqueue: there is no dead letter zz\n"


def test_retry_puts_the_job_where_it_was_with_all_its_retries(command, store):
    shown = command("dead", "retry", "a1", "b2")
    assert (shown.exit_code, shown.stdout) == (0, "2 job(s) wait again\n")
    assert store.lrange("rqueue:{email}", 0, -1) == ['1 - 0 0 0 a1 {"task":"shop.a"}']
    assert store.lrange("rqueue:{email}:p9", 0, -1) == ['1 9 0 0 0 b2 {"task":"shop.b"}']
    assert ids(command) == {"c3"}


def test_retry_of_what_is_not_there_does_the_rest(command):
    shown = command("dead", "retry", "zz", "a1", "--json")
    assert shown.exit_code == 4
    assert json.loads(shown.stdout) == {"waiting": ["a1"], "alive": [], "unreadable": [], "missing": ["zz"]}
    assert shown.stderr == "rqueue: there is no dead letter zz\n"


def test_retry_of_what_cannot_be_read_says_so(command):
    shown = command("dead", "retry", "c3")
    assert shown.exit_code == 1
    assert "c3: its message cannot be read" in shown.stderr
    assert ids(command) == {"a1", "b2", "c3"}


def test_retry_while_a_job_of_that_id_is_alive(command):
    assert command("enqueue", "a.b", "--queue", "email", "--job-id", "a1").exit_code == 0
    shown = command("dead", "retry", "a1")
    assert shown.exit_code == 1
    assert "a1: a job of this id is alive" in shown.stderr
    assert "a1" in ids(command)


def test_retry_of_all_that_match(command):
    shown = command("dead", "retry", "--all", "--queue", "email", "--reason", "failed", "--json")
    assert json.loads(shown.stdout)["waiting"] == ["a1"]
    assert ids(command) == {"b2", "c3"}


@pytest.mark.parametrize("verb", ["retry", "purge"])
@pytest.mark.parametrize("arguments", [[], ["a1", "--all"]])
def test_ids_or_all_and_not_both(command, verb, arguments):
    shown = command("dead", verb, *arguments)
    assert shown.exit_code == 2
    assert "give the ids of dead letters, or --all" in shown.stderr
    assert ids(command) == {"a1", "b2", "c3"}


def test_purge_by_id(command):
    assert command("dead", "purge", "a1").stdout == "1 dead letter(s) thrown away\n"
    assert ids(command) == {"b2", "c3"}
    shown = command("dead", "purge", "a1", "--json")
    assert (shown.exit_code, json.loads(shown.stdout)) == (4, {"purged": 0})


def test_purge_of_all_asks_first(command):
    assert command("dead", "purge", "--all", input="n\n").exit_code == 1
    assert ids(command) == {"a1", "b2", "c3"}
    assert command("dead", "purge", "--all", "--queue", "email", input="y\n").exit_code == 0
    assert ids(command) == {"c3"}
    assert json.loads(command("dead", "purge", "--all", "--yes", "--json").stdout) == {"purged": 1}
    assert ids(command) == set()


def test_filters_by_error_and_age(command):
    assert ids(command, "--error", "NO good") == {"a1"}
    assert ids(command, "--older-than", "3d") == {"a1", "b2", "c3"}
    assert ids(command, "--newer-than", "1h") == set()
    assert len(ids(command, "--offset", "2")) == 1
    assert command("dead", "list", "--older-than", "soon").stderr == (
        "rqueue: age 'soon': write it as 90s, 15m, 3h or 7d\n"
    )
    assert json.loads(command("dead", "purge", "--all", "--yes", "--error", "neither", "--json").stdout) == {
        "purged": 1
    }
    assert ids(command) == {"a1", "b2"}


def test_show_in_full(command):
    shown = command("dead", "show", "a1").stdout
    assert "attempts: 4\n" in shown
    assert "args: []\n" in shown
    assert command("dead", "show", "c3", "--raw").stdout_bytes == b"\xff{"


def test_edit_by_options(command, store):
    shown = command("dead", "edit", "a1", "--args", '[1,{"$bytes":"/w=="}]', "--kwargs", '{"b":2}', "--priority", "3")
    assert (shown.exit_code, shown.stdout) == (0, "a1: changed\n")
    message = json.loads(command("dead", "show", "a1", "--json").stdout)["message"]
    assert message == '1 3 2 3 0 a1 {"task":"shop.a","args":[1,{"$bytes":"/w=="}],"kwargs":{"b":2}}'
    shown = command("dead", "edit", "a1", "--priority", "0", "--retry", "--json")
    assert json.loads(shown.stdout) == {"id": "a1", "answer": "waiting"}
    assert store.lrange("rqueue:{email}", 0, -1) == [message.replace("1 3 2 3", "1 - 0 0", 1)]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["zz", "--args", "[]"], 4),
        (["c3", "--args", "[]"], 1),
        (["a1", "--args", "{}"], 2),
        (["a1", "--args", "nonsense"], 2),
        (["a1", "--kwargs", "[]"], 2),
        (["a1", "--args", "[99999999999999999999]"], 2),
        (["a1", "--args", "[NaN]"], 2),
        (["a1", "--args", '[{"$bytes":"?"}]'], 2),
        (["a1"], 2),
        (["zz"], 4),
        (["c3"], 1),
    ],
)
def test_edit_of_what_cannot_be(command, arguments, code):
    before = command("dead", "list", "--json").stdout
    shown = command("dead", "edit", *arguments)
    assert (shown.exit_code, shown.stderr.startswith("rqueue: ")) == (code, True)
    assert command("dead", "list", "--json").stdout == before


@pytest.mark.parametrize(
    ("after", "code"),
    [
        ('{"args": [5], "kwargs": {}, "priority": 4}', 0),
        ('{"args": [], "kwargs": {}, "priority": null}', 1),
        ('{"args": []}', 2),
        ("[]", 2),
        ('{"args": [99999999999999999999], "kwargs": {}, "priority": null}', 2),
        ("nonsense", 2),
    ],
)
def test_edit_by_hand(command, monkeypatch, after, code):
    """At a terminal; only what is different from what was shown is changed."""
    shown_to = []

    def edited(text, suffix):
        shown_to.append((json.loads(text), suffix))
        return after

    monkeypatch.setattr("rqueue.cli.editor.is_there", lambda: True)
    monkeypatch.setattr("rqueue.cli.editor.edited", edited)
    assert command("dead", "edit", "a1").exit_code == code
    assert shown_to == [({"args": [], "kwargs": {}, "priority": None}, ".json")]
    if not code:
        message = json.loads(command("dead", "show", "a1", "--json").stdout)["message"]
        assert message == '1 4 2 3 0 a1 {"task":"shop.a","args":[5]}'


def test_retry_with_other_options(command, store):
    shown = command("dead", "retry", "a1", "--priority", "9", "--max-retries", "1", "--time-limit", "5")
    assert shown.exit_code == 0
    (message,) = store.lrange("rqueue:{email}:p9", 0, -1)
    assert message == '1 9 0 0 0 a1 {"task":"shop.a","max_retries":1,"time_limit":5.0}'


@pytest.mark.parametrize("age", ["-5s", "x", "nan", "5w", ""])
def test_an_age_that_is_none(command, age):
    """Breaks when an age is not looked at before somebody is asked whether all of it may go."""
    shown = command("dead", "purge", "--all", "--older-than", age)
    assert (shown.exit_code, shown.stderr) == (2, f"rqueue: age {age!r}: write it as 90s, 15m, 3h or 7d\n")


def test_an_expiry_in_the_past(command):
    assert command("dead", "edit", "a1", "--expires", "-5").exit_code == 2
    assert command("dead", "retry", "a1", "--expires", "-5").exit_code == 2
