"""``cancel``: jobs by id, or by task and header, what became of each, and the exit code."""

import json

import pytest

from rqueue.cli.cancel import read_header

pytestmark = pytest.mark.usefixtures("on_redis", "directory")


@pytest.fixture
def enqueue(command):
    def do(*arguments):
        return command("enqueue", *arguments).stdout.strip()

    return do


def test_by_ids(command, enqueue):
    waiting, later = enqueue("tasks.hang"), enqueue("tasks.hang", "--countdown", "60")
    answer = command("cancel", waiting, later)
    assert (answer.exit_code, answer.stdout) == (0, f"{waiting}: removed\n{later}: removed\n")
    answer = command("cancel", waiting)
    assert (answer.exit_code, answer.stdout) == (1, f"{waiting}: too late, it had ended\n")
    answer = command("cancel", "nobody", waiting, "--json")
    assert answer.exit_code == 4
    assert json.loads(answer.stdout) == [
        {"id": "nobody", "cancelled": "unknown"},
        {"id": waiting, "cancelled": "too_late"},
    ]
    assert command("result", waiting).exit_code == 1


def test_only_of_a_queue(command, enqueue):
    job = enqueue("tasks.hang", "--queue", "email")
    assert command("cancel", job, "--queue", "default").exit_code == 4
    assert command("cancel", job, "--queue", "email").exit_code == 0


def test_by_task(command, enqueue):
    for _ in range(2):
        enqueue("tasks.hang")
    other = enqueue("tasks.add", "[1, 2]")
    answer = command("cancel", "--task", "tasks.hang", "--dry-run")
    assert (answer.exit_code, answer.stdout) == (0, "2 job(s) would be cancelled\n")
    answer = command("cancel", "--task", "tasks.hang", "--json")
    assert answer.exit_code == 0
    assert json.loads(answer.stdout) == {"found": 2, "removed": 2, "interrupted": 0, "requested": 0, "too_late": 0}
    answer = command("cancel", "--task", "tasks.hang", "--header", "tenant=acme")
    assert (answer.exit_code, answer.stdout) == (
        0,
        "0 job(s): 0 removed, 0 interrupted, 0 requested, 0 too late\n",
    )
    assert command("cancel", other).exit_code == 0


def test_a_silent_worker_is_exit_code_5(command, enqueue, with_app):
    job = enqueue("tasks.hang")

    async def claim(app):
        broker, keys = app.session().broker, app.keys.queue("default")
        await broker.register(keys, "ghost", 60)
        assert (await broker.claim([keys], [5], "ghost", 60, 1, 1_000_000)).messages

    with_app(claim)
    answer = command("cancel", job, "--terminate")
    assert answer.exit_code == 5
    assert answer.stdout == f"{job}: requested: its worker did not answer; it will not run again\n"
    assert command("cancel", "--task", "tasks.hang").exit_code == 5


@pytest.mark.parametrize(
    "arguments",
    [[], ["j", "--task", "t"], ["j", "--dry-run"], ["a b"], ["--header", "tenant"], ["--header", "=x"]],
    ids=" ".join,
)
def test_wrong_usage(command, arguments):
    assert command("cancel", *arguments).exit_code == 2


@pytest.mark.parametrize("value", ["99999999999999999999", "NaN"])
def test_a_header_that_no_job_can_have(command, value):
    answer = command("cancel", "--header", f"n={value}")
    assert (answer.exit_code, answer.stderr.count("\n")) == (2, 1)


def test_a_task_that_the_app_does_not_know(command, project, redis_url):
    answer = command("cancel", "--task", "tasks.hagn", "-A", "tasks:app", "--url", redis_url)
    assert answer.exit_code == 0
    assert answer.stderr == "rqueue: the app has no task 'tasks.hagn'; did you mean tasks.hang?\n"


@pytest.mark.parametrize(
    ("text", "value"), [("t=acme", "acme"), ("t=7", 7), ('t="7"', "7"), ("t=a=b", "a=b"), ("t=", ""), ("t=null", None)]
)
def test_a_header_s_value_is_json_or_a_text(text, value):
    assert read_header(text) == ("t", value)
    assert read_header(None) is None
