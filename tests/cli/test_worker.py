"""``rqueue worker``: its options, its variables, and what it refuses."""

import signal

import pytest
import typer

from rqueue.cli.worker import check_pool, queue_names


def test_options_reach_the_worker(project, on_redis, start_worker):
    worker = start_worker("-Q", "email, reports", "-c", "7", "--prefetch-multiplier", "3")
    started = worker.event("worker started")
    assert (started["queues"], started["concurrency"], started["most_held"]) == ("email,reports", 7, 21)
    assert worker.event("not one of the app's queues")["queue"] == "reports"
    worker.signal(signal.SIGTERM)
    assert worker.end() == 0


def test_variables_do_the_same(project, on_redis, start, store):
    variables = {
        "RQUEUE_APP": "tasks:app",
        "RQUEUE_QUEUES": "email",
        "RQUEUE_CONCURRENCY": "7",
        "RQUEUE_PREFETCH_MULTIPLIER": "2",
        "RQUEUE_LEASE": "300",
        "RQUEUE_SHUTDOWN_TIMEOUT": "1",
        "RQUEUE_LOGLEVEL": "DEBUG",
        "RQUEUE_LOG_FORMAT": "json",
        "RQUEUE_POOL": "async",
        "RQUEUE_NAMESPACE": "mine",
    }
    worker = start("worker", **variables)
    started = worker.event("worker started")
    assert (started["queues"], started["concurrency"], started["most_held"]) == ("email", 7, 14)
    ((_, end),) = store.zrange("mine:{email}:workers", 0, -1, withscores=True)
    assert end - store.time()[0] * 1000 > 200_000
    worker.signal(signal.SIGTERM)
    assert worker.end() == 0


def test_without_queues_it_serves_all_of_the_app(project, on_redis, start):
    worker = start("worker")
    assert "queues=default,email" in worker.line("worker started", "concurrency=100", "most_held=400")


WRONG = {
    "lease": (["--lease", "0"], "rqueue: lease 0.0: a number above 0"),
    "concurrency": (["-c", "0"], "rqueue: concurrency 0: a whole number from 1"),
    "prefetch": (["--prefetch-multiplier", "0"], "1 holds only what can start now"),
    "shutdown": (["--shutdown-timeout", "-1"], "rqueue: shutdown_timeout -1.0: seconds, 0 or more"),
    "queue": (["-Q", "a b"], "rqueue: queue 'a b'"),
    "app": (["-A", "absent:app"], "there is no module 'absent'"),
    "url": (["--url", "http://x"], "needs one of redis://"),
    "memory": (["--url", "memory://"], "memory:// is in one process only"),
    "level": (["--loglevel", "loud"], "'loud' is not one of"),
    "gevent": (["--pool", "gevent"], "in the pool 'async' coroutines share one event loop"),
    "prefork": (["--pool", "prefork"], "prefork is not available in this version; use 'async'"),
    "pool": (["--pool", "swimming"], "'swimming' is not a pool; use 'async'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_ends_it_with_code_2(project, command, case):
    arguments, text = WRONG[case]
    shown = command("worker", *arguments)
    assert shown.exit_code == 2
    assert text in shown.stderr
    assert "Traceback" not in shown.stderr


def test_pools():
    assert check_pool("async") == "async"
    for name in ("eventlet", "threads", "solo", "processes"):
        with pytest.raises(typer.BadParameter, match="async"):
            check_pool(name)


def test_names_of_queues():
    assert queue_names(None) == ()
    assert queue_names(" email, reports,") == ("email", "reports")
