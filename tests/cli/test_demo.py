"""``rqueue demo``: on real processes, to its end and to a Ctrl-C."""

import json
import re
import signal
import socket

import pytest

from .conftest import family, is_alive

SHOWN = r"4 worker processes: (\d+), (\d+), (\d+), (\d+)"


def test_nothing_is_lost_and_nothing_is_left(command, directory, redis_url, store):
    shown = command("demo", "--jobs", "200", "--url", redis_url, "--json")
    assert shown.exit_code == 0, shown.stderr
    report = json.loads(shown.stdout)
    assert (report["passed"], report["server"]) == (True, redis_url)
    assert (report["total"]["jobs"], report["total"]["done"], report["total"]["lost"]) == (200, 200, 0)
    assert report["total"]["redelivered"] >= report["killed_running"] >= 1
    assert [row["jobs"] for row in report["queues"]] == [40] * 5
    assert f"process {report['killed_pid']} killed with SIGKILL while it ran" in shown.stderr
    before, after = map(set, re.findall(SHOWN, shown.stderr))
    assert report["killed_pid"] in map(int, before - after)
    assert len(after - before) == len(before - after)
    assert "100 of 200 jobs done" in re.sub(r"10\d of", "100 of", shown.stderr)
    left = {key for key in store.scan_iter() if store.ttl(key) < 0}
    assert left == {"rqueue-demo:queues"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_leaves_nothing_behind(start, directory, number):
    """With a server of its own; the temporary directories are the test's."""
    demo = start("demo", "--jobs", "2000", TMPDIR=str(directory))
    demo.line("worker processes: ")
    (server,) = map(int, re.findall(r":(\d+)/0", demo.line("server: ")))
    demo.line("jobs enqueued")
    everyone = family(demo.pid)
    assert len(everyone) >= 1 + 1 + 4 + 1  # the demo, the supervisor, its processes, the server
    demo.signal(number)
    assert demo.end() == 130
    assert not any(map(is_alive, everyone))
    assert list(directory.iterdir()) == []
    assert "Traceback" not in "\n".join(demo.lines)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server))


def test_a_signal_at_the_very_start_leaves_nothing_behind(start, directory):
    demo = start("demo", TMPDIR=str(directory))
    demo.line("server: ")
    everyone = family(demo.pid)
    demo.signal(signal.SIGTERM)
    assert demo.end() == 130
    assert not any(map(is_alive, everyone))
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
