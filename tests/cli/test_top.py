"""``top``: what a frame shows, and a terminal on which q ends it."""

import io
import os
import subprocess
import sys

import pytest
from rich.console import Console

from rqueue.cli.top import Snapshot, frame
from rqueue.client.admin import QueueStatus, WorkerStatus

WORKER = WorkerStatus("w:1:a", ("email",), 9.0, concurrency=4, running=1, state="running", done=9, stalls=0)
JOB = {"id": "j1", "task": "shop.pay", "queue": "email", "seconds": 3.25, "started": 1.0, "args": "7"}


def queue(**counts):
    return QueueStatus("email", (2, *[0] * 10), 3, 1, 0, 1, counts)


def text(*snapshots):
    console = Console(width=200, file=io.StringIO())
    console.print(frame("redis://x", *snapshots))
    return console.file.getvalue()


def cells(shown, name):
    (line,) = [line for line in shown.splitlines() if line.startswith(f"│ {name} ")]
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_a_first_frame_has_no_rates():
    shown = text(Snapshot(10.0, [queue(SUCCESS=5)], [WORKER], [("w:1:a", JOB)]), None)
    assert "rqueue top, redis://x: 1 worker(s), 1/4 running, 9 done, 0 stall(s)" in shown
    assert cells(shown, "email") == ["email", "2", "3", "1", "0", "1", "", ""]
    assert cells(shown, "w:1:a")[:3] == ["w:1:a", "running", "1/4"]
    assert cells(shown, "j1") == ["j1", "shop.pay", "email", "3.2", "7", "w:1:a"]


def test_rates_are_counted_from_the_frame_before():
    before = Snapshot(10.0, [queue(SUCCESS=5, FAILURE=1)], [])
    shown = text(Snapshot(12.0, [queue(SUCCESS=25, FAILURE=2)], []), before)
    assert cells(shown, "email")[-2:] == ["10.5", "0.5"]


def test_counts_that_began_anew_are_no_negative_rate():
    shown = text(Snapshot(12.0, [queue()], []), Snapshot(10.0, [queue(SUCCESS=5)], []))
    assert cells(shown, "email")[-2:] == ["0.0", "0.0"]


def test_who_did_not_answer_is_named():
    assert "; silent: w:9:z" in text(Snapshot(1.0, [], [], silent=("w:9:z",)), None)


@pytest.mark.usefixtures("on_redis", "directory")
@pytest.mark.parametrize("words", [["--once"], []])
def test_without_a_terminal_it_prints_one_frame(command, working, words):
    worker = working()
    worker.call(lambda: worker.app.tasks.find("hang").options(job_id="j1").enqueue("dora"))
    while not worker.worker.running:
        pass
    shown = command("top", *words)
    assert shown.exit_code == 0
    assert worker.worker.id in shown.stdout
    assert "shop.hang" in shown.stdout
    assert "default" in shown.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_on_a_terminal_it_goes_on_until_q_and_leaves_it_as_it_was(on_redis, directory):
    import pty
    import termios

    main, terminal = pty.openpty()
    try:
        before = termios.tcgetattr(terminal)
        process = subprocess.Popen(
            [sys.executable, "-m", "rqueue", "top"], stdin=terminal, stdout=terminal, stderr=subprocess.PIPE
        )
        try:
            seen = b""
            while seen.count(b"rqueue top") < 2:  # a second frame comes by itself
                seen += os.read(main, 65536)
            os.write(main, b"xq")
            assert (process.wait(30), process.stderr.read()) == (0, b"")
            assert termios.tcgetattr(terminal) == before
        finally:
            process.kill()
            process.wait()
            process.stderr.close()
    finally:
        os.close(terminal)
        os.close(main)
