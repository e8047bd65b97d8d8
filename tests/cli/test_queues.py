"""``queues``, ``workers`` and ``purge``, in text and in JSON."""

import json

import pytest

pytestmark = pytest.mark.usefixtures("on_redis", "directory")


@pytest.fixture
def waiting(command):
    """Two jobs wait in email, one of them with priority 9, and one is scheduled."""
    for more in ([], ["--priority", "9"], ["--countdown", "600"]):
        assert command("enqueue", "a.b", "--queue", "email", *more).exit_code == 0


def test_queues_as_a_table(command, waiting):
    shown = command("queues")
    assert shown.exit_code == 0
    (row,) = [line for line in shown.stdout.splitlines() if "email" in line]
    assert [cell.strip() for cell in row.strip("│").split("│")] == ["email", "2", "9:1", "1", "0", "0", "0", ""]


def test_queues_as_json(command, waiting):
    default, email = json.loads(command("queues", "--json").stdout)
    assert default["name"] == "default"
    assert email["name"] == "email"
    assert email["waiting"] == 2
    assert {level: count for level, count in email["waiting_by_priority"].items() if count} == {"none": 1, "9": 1}
    assert (email["scheduled"], email["running"], email["dead"], email["workers"]) == (1, 0, 0, 0)
    assert email["counts"] == {}


def test_queues_of_another_namespace(command, waiting):
    names = [queue["name"] for queue in json.loads(command("queues", "--json", "--namespace", "other").stdout)]
    assert names == ["default"]


def test_no_workers(command):
    assert json.loads(command("workers", "--json").stdout) == []
    assert "worker" in command("workers").stdout


def test_purge_asks_first(command, waiting):
    refused = command("purge", "email", input="n\n")
    assert refused.exit_code == 1
    assert "throw away 2 waiting job(s) of the queue email" in refused.stderr
    assert json.loads(command("queues", "--json").stdout)[1]["waiting"] == 2
    agreed = command("purge", "email", "--json", input="y\n")
    assert json.loads(agreed.stdout) == {"queue": "email", "purged": 2}
    (_, email) = json.loads(command("queues", "--json").stdout)
    assert (email["waiting"], email["scheduled"]) == (0, 1)


def test_purge_without_an_answer_does_nothing(command, waiting):
    assert command("purge", "email").exit_code == 1
    assert json.loads(command("queues", "--json").stdout)[1]["waiting"] == 2


def test_purge_with_yes(command, waiting):
    shown = command("purge", "email", "--yes")
    assert shown.stdout == "2 job(s) thrown away\n"
    assert command("purge", "email", "--yes").stdout == "0 job(s) thrown away\n"


def test_purge_of_no_queues_name(command):
    shown = command("purge", "a b", "--yes")
    assert shown.exit_code == 2
    assert shown.stderr.startswith("rqueue: queue 'a b'")
