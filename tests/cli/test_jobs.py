"""``enqueue`` and ``result``: with an app, without one, to the end of a job, and each exit code."""

import json

import pytest

pytestmark = pytest.mark.usefixtures("on_redis", "project")


def stored(store, key="rqueue:{default}"):
    """The one message in a list: its header's fields, its object."""
    (raw,) = store.lrange(key, 0, -1)
    header, _, body = raw.partition("{")
    return header.split(), json.loads("{" + body)


@pytest.fixture
def worker(start_worker):
    """A worker for the app, which has started."""
    process = start_worker("-c", "10")
    process.event("worker started")
    return process


def test_enqueue_prints_the_id(command, store):
    shown = command("enqueue", "tasks.add", "[1, 2]")
    header, body = stored(store)
    assert (shown.exit_code, shown.stdout) == (0, f"{header[5]}\n")
    assert (body["task"], body["args"]) == ("tasks.add", [1, 2])


def test_enqueue_as_json(command, store):
    document = json.loads(command("enqueue", "tasks.add", "[1, 2]", "--job-id", "mine", "--json").stdout)
    assert (document["id"], document["queue"], document["state"]) == ("mine", "default", "PENDING")


def test_enqueue_takes_the_apps_routes_and_short_names(command, store):
    command("enqueue", "send", '["you"]')
    assert stored(store, "rqueue:{email}")[1]["task"] == "tasks.send"


def test_enqueue_with_options(command, store):
    command(
        *("enqueue", "tasks.add", "--kwargs", '{"a": 1, "b": 2}', "--queue", "other"),
        *("--priority", "9", "--expires", "60", "--job-id", "mine"),
    )
    header, body = stored(store, "rqueue:{other}:p9")
    assert header == ["1", "9", "0", "0", "0", "mine"]
    assert body["kwargs"] == {"a": 1, "b": 2}
    assert body["expires"] - body["enqueued"] == 60_000


def test_enqueue_by_variables(command, store):
    variables = {"RQUEUE_QUEUE": "other", "RQUEUE_PRIORITY": "4", "RQUEUE_JSON": "1", "RQUEUE_JOB_ID": "mine"}
    assert json.loads(command("enqueue", "add", "[1, 2]", env=variables).stdout)["id"] == "mine"
    assert stored(store, "rqueue:{other}:p4")[0][1] == "4"


def test_enqueue_later(command, store):
    command("enqueue", "tasks.add", "[1, 2]", "--countdown", "600", "--job-id", "mine")
    assert store.zrange("rqueue:{default}:scheduled", 0, -1) == ["mine"]


def test_enqueue_by_name_alone(command, store, project):
    (project / "tasks.py").write_text("1 / 0")
    assert command("enqueue", "other.service", '[{"$bytes": "x"}]', "--by-name").exit_code == 0
    assert stored(store)[1]["task"] == "other.service"


def test_enqueue_where_no_app_is(command, store, project):
    (project / "tasks.py").unlink()
    assert command("enqueue", "other.service").exit_code == 0
    assert stored(store)[1]["task"] == "other.service"


def test_a_task_that_the_app_does_not_have(command, store):
    shown = command("enqueue", "tasks.ad", "[1, 2]")
    assert (shown.exit_code, shown.stdout) == (4, "")
    assert "the app has no task 'tasks.ad'; did you mean tasks.add?" in shown.stderr
    assert store.keys() == []


WRONG = {
    "not json": (["tasks.add", "[1"], "'[1' is not JSON"),
    "no list": (["tasks.add", '{"a": 1}'], "give a JSON list, for example"),
    "no object": (["tasks.add", "--kwargs", "[1]"], "give a JSON object, for example"),
    "missing argument": (["tasks.add", "[1]"], "missing a required argument: 'b'"),
    "too long a number": (["tasks.add", "[1, 123456789012345678901]"], "argument 2 cannot be sent as JSON"),
    "no number": (["tasks.add", "[1, NaN]"], "nan is not a JSON number"),
    "priority": (["tasks.add", "[1, 2]", "--priority", "11"], "priority 11: a whole number from 1"),
    "countdown": (["tasks.add", "[1, 2]", "--countdown", "-1"], "countdown -1.0: seconds, 0 or more"),
    "queue": (["tasks.add", "[1, 2]", "--queue", "a b"], "queue 'a b': a queue's name"),
    "id": (["tasks.add", "[1, 2]", "--job-id", "a b"], "job_id 'a b'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_refused_before_anything_is_sent(command, store, case):
    arguments, text = WRONG[case]
    shown = command("enqueue", *arguments)
    assert (shown.exit_code, shown.stdout) == (2, "")
    assert text in shown.stderr
    assert store.keys() == []


def test_what_is_too_large(command, store):
    shown = command("enqueue", "tasks.send", json.dumps(["x" * 2_000_000]))
    assert shown.exit_code == 2
    assert "max_message_bytes is 1,048,576" in shown.stderr


def test_a_job_to_its_end(command, worker):
    shown = command("enqueue", "tasks.add", "[1, 2]", "--wait", "--timeout", "30", "--job-id", "mine")
    assert (shown.exit_code, shown.stdout) == (0, "mine\n3\n")
    document = json.loads(command("enqueue", "tasks.add", "[1, 2]", "--wait", "--json").stdout)
    assert (document["state"], document["result"], document["task"]) == ("SUCCESS", 3, "tasks.add")
    assert command("result", "mine").stdout == "3\n"
    known = json.loads(command("result", "mine", "--json").stdout)
    assert (known["id"], known["queue"], known["state"], known["result"]) == ("mine", "default", "SUCCESS", 3)


def test_a_job_that_fails(command, worker):
    shown = command("enqueue", "tasks.fail", '["no good"]', "--wait", "--job-id", "mine")
    assert (shown.exit_code, shown.stdout) == (1, "mine\n")
    assert shown.stderr == "rqueue: job mine failed: ValueError: no good\n"
    looked = command("result", "mine", "--json")
    assert looked.exit_code == 1
    document = json.loads(looked.stdout)
    assert (document["state"], document["error"], document["is_dead"]) == ("FAILURE", "ValueError: no good", True)
    assert "in fail" in document["traceback"]


def test_a_job_whose_result_is_gone_and_whose_letter_is_not(command, worker, store):
    command("enqueue", "tasks.fail", '["no good"]', "--wait", "--job-id", "mine")
    store.delete("rqueue:{default}:result:mine")
    shown = command("result", "mine")
    assert shown.exit_code == 1
    assert "see rqueue dead show mine" in shown.stderr


def test_a_job_that_expired(command, start_worker):
    command("enqueue", "tasks.add", "[1, 2]", "--expires", "0.001", "--job-id", "mine")
    start_worker().event("worker started")
    shown = command("result", "mine", "--wait", "--timeout", "30", "--json")
    assert shown.exit_code == 1
    assert json.loads(shown.stdout)["state"] == "REVOKED"
    assert "expired before it could start" in shown.stderr


def test_a_job_that_has_not_ended(command):
    command("enqueue", "tasks.add", "[1, 2]", "--job-id", "mine")
    looked = command("result", "mine")
    assert (looked.exit_code, looked.stdout) == (5, "")
    assert looked.stderr == "rqueue: job mine has not ended; its state is PENDING\n"
    waited = command("result", "mine", "--wait", "--timeout", "0.05", "--json")
    assert waited.exit_code == 5
    assert json.loads(waited.stdout)["state"] == "PENDING"
    assert command("enqueue", "tasks.add", "[1, 2]", "--wait", "--timeout", "0.05").exit_code == 5


def test_a_job_that_nobody_knows(command):
    for more in ([], ["--wait"], ["--json"]):
        shown = command("result", "absent", *more)
        assert (shown.exit_code, shown.stdout) == (4, "")
        assert "job absent is not known" in shown.stderr
