"""``rqueue demo``: on real processes, to its end and to a Ctrl-C."""

import json
import os
import re
import signal
import socket

import pytest


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_nothing_is_lost_and_nothing_is_left(command, directory, redis_url, store):
    shown = command("demo", "--jobs", "200", "--url", redis_url, "--json")
    assert shown.exit_code == 0, shown.stderr
    report = json.loads(shown.stdout)
    assert (report["passed"], report["server"]) == (True, redis_url)
    assert (report["total"]["jobs"], report["total"]["done"], report["total"]["lost"]) == (200, 200, 0)
    assert report["total"]["redelivered"] >= report["killed_running"] >= 1
    assert [row["jobs"] for row in report["queues"]] == [40] * 5
    assert "killed with SIGKILL while it ran" in shown.stderr
    assert "100 of 200 jobs done" in re.sub(r"10\d of", "100 of", shown.stderr)
    left = {key for key in store.scan_iter() if store.ttl(key) < 0}
    assert left == {"rqueue-demo:queues"}


def test_a_ctrl_c_leaves_nothing_behind(start, directory):
    """With a server of its own; the temporary directories are the test's."""
    demo = start("demo", "--jobs", "2000", TMPDIR=str(directory))
    pids = [int(pid) for pid in re.findall(r"\d+", demo.line("2 workers: ").partition(":")[2])]
    (server,) = map(int, re.findall(r":(\d+)/0", demo.line("server: ")))
    assert len(pids) == 2
    demo.line("jobs enqueued")
    demo.signal(signal.SIGINT)
    assert demo.end() == 130
    assert not any(map(is_alive, pids))
    assert list(directory.iterdir()) == []
    assert "Traceback" not in "\n".join(demo.lines)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server))


def test_a_sigterm_ends_it_like_a_ctrl_c(start, directory):
    demo = start("demo", TMPDIR=str(directory))
    demo.line("server: ")
    demo.signal(signal.SIGTERM)
    assert demo.end() == 130
    assert list(directory.iterdir()) == []


def test_a_memory_url_is_refused(command, directory):
    shown = command("demo", "--url", "memory://")
    assert shown.exit_code == 2
    assert "memory:// is in one process only" in shown.stderr


def test_where_no_redis_is(command, directory, new_server):
    server = new_server()
    url = server.url
    server.stop()
    assert command("demo", "--url", url).exit_code == 3
