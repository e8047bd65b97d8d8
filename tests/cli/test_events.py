"""``events``: one job to its end, and all jobs in a process that listens until it is interrupted."""

import asyncio
import json
import signal
import subprocess
import sys

import pytest

from rqueue import RQueue
from rqueue.cli.events import _show
from rqueue.client.events import Event
from rqueue.client.job import JobInfo
from rqueue.wire.record import Failure, Record
from rqueue.wire.state import State

LISTENS = [sys.executable, "-c", "from rqueue.cli.program import main; main()", "events"]


def shown(record: Record, capsys, *, gap=False, as_json=False) -> str:
    _show(Event.of(JobInfo.of("j1", "email", record.encode()), gap), as_json)
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("record", "line"),
    [
        (
            Record(State.STARTED, about={"task": "t", "progress": {"done": 1, "total": 3, "at": 1767225600000}}),
            "2026-01-01T00:00:00.000Z j1 email t STARTED 1/3\n",
        ),
        (Record(State.STARTED, about={"progress": {"state": "SENDING", "at": None}}), "- j1 email - STARTED SENDING\n"),
        (
            Record(State.FAILURE, failure=Failure("E", "no\nway"), about={"task": "t", "finished": 1767225600000}),
            "2026-01-01T00:00:00.000Z j1 email t FAILURE E: no\n",
        ),
    ],
)
def test_an_event_is_a_line(record, line, capsys):
    assert shown(record, capsys) == line
    assert shown(record, capsys, gap=True) == f"… some were missed\n{line}"
    document = json.loads(shown(record, capsys, gap=True, as_json=True))
    assert (document["id"], document["state"], document["after_gap"]) == ("j1", record.state, True)


def test_one_job_is_followed_to_its_end(command, on_redis):
    """Breaks when the command goes on after the end, or an unknown job has no exit code."""
    app = RQueue(on_redis)

    @app.task(name="add")
    async def add(a: int, b: int) -> int:
        return a + b

    async def main() -> str:
        async with app, app.worker():
            job = await add.enqueue(1, 2)
            await job.result(timeout=10)
            return job.id

    job_id = asyncio.run(main())
    done = command("events", job_id, "--json")
    assert done.exit_code == 0
    (document,) = [json.loads(line) for line in done.stdout.splitlines()]
    assert (document["id"], document["state"], document["result"]) == (job_id, "SUCCESS", 3)
    assert command("events", job_id, "--task", "t").exit_code == 2
    assert command("events", "nobody").exit_code == command("result", "nobody").exit_code != 0


def test_all_jobs_are_printed_until_an_interrupt(on_redis):
    """Breaks when it listens too late, does not print at once, or ends with a traceback."""
    process = subprocess.Popen(
        [*LISTENS, "--queue", "email", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr.readline().startswith("listening")
        app = RQueue(on_redis)

        async def main() -> None:
            async with app:
                for queue in ("other", "email"):
                    keys = app.keys.queue(queue)
                    await app.session().broker.publish(keys.result(queue), Record(State.SUCCESS).encode())

        asyncio.run(main())
        assert json.loads(process.stdout.readline())["id"] == "email"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) in (0, 130)
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()
