"""``rqueue worker``: its options, its variables, what it refuses, and that it is a supervisor with its processes."""

import os
import signal

import pytest
import typer

from rqueue.cli.worker import check_pool, parse_autoscale, parse_size, queue_names

from .conftest import is_alive


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
        "RQUEUE_PROCESSES": "2",
    }
    worker = start("worker", **variables)
    for number in (0, 1):
        started = worker.event("worker started", skip=number)
        assert (started["queues"], started["concurrency"], started["most_held"]) == ("email", 7, 14)
    ends = store.zrange("mine:{email}:workers", 0, -1, withscores=True)
    assert len(ends) == 2
    assert all(end - store.time()[0] * 1000 > 200_000 for _, end in ends)
    worker.signal(signal.SIGTERM)
    assert worker.end() == 0
    assert len(set(worker.workers())) == 2


@pytest.fixture
def told(project, command, monkeypatch):
    """What a supervisor is told by these options; it is not started."""
    fleets = []

    def run(*arguments):
        monkeypatch.setattr("rqueue.cli.worker.take_over", fleets.append)
        shown = command("worker", *arguments)
        assert shown.exit_code == 0, shown.stderr
        return fleets.pop()

    return run


@pytest.mark.parametrize(
    ("arguments", "processes", "scale", "worker"),
    [
        ("", 1, None, ("async", 100, 4, None)),
        ("-c 7 --processes 3 --prefetch-multiplier 2", 3, None, ("async", 7, 2, None)),
        ("--autoscale 8,2", 1, None, ("async", 2, 4, (8, 2))),
        ("--pool threads", 1, None, ("threads", 10, 4, None)),
        ("--pool threads --autoscale 8,2 --processes 2", 2, None, ("threads", 2, 4, (8, 2))),
        ("--pool prefork", os.cpu_count(), None, ("prefork", 1, 1, None)),
        ("--pool processes -c 3 --prefetch-multiplier 2", 3, None, ("prefork", 1, 2, None)),
        ("--pool prefork --autoscale 8,2", os.cpu_count(), (8, 2), ("prefork", 1, 1, None)),
    ],
)
def test_what_concurrency_and_autoscale_count_depends_on_the_pool(told, arguments, processes, scale, worker):
    """With prefork they count processes of one job each, else jobs at once in each process."""
    fleet = told(*arguments.split())
    config = fleet.process.config()
    assert (fleet.processes, fleet.autoscale) == (processes, scale)
    assert (config.pool, config.concurrency, config.prefetch_multiplier, config.autoscale) == worker


def test_limits_and_the_rest_are_passed_on(told):
    limits = "--time-limit 60 --soft-time-limit 50 --max-tasks-per-child 1000 --max-memory-per-child 200MB"
    others = "-A a:b --url redis://x:1/0 --namespace mine --max-loop-stall 9 --reload -l debug --log-format json"
    fleet = told(*limits.split(), *others.split())
    process, config = fleet.process, fleet.process.config()
    assert (config.time_limit_s, config.soft_time_limit_s, config.max_loop_stall_s) == (60, 50, 9)
    assert (config.max_tasks, config.max_memory_bytes) == (1000, 200_000_000)
    assert (process.app, process.url, process.namespace) == ("a:b", "redis://x:1/0", "mine")
    assert (process.loglevel, process.log_format, fleet.reload) == ("debug", "json", True)


def test_solo_works_in_the_process_itself(project, on_redis, start_worker, command):
    worker = start_worker("--pool", "solo")
    started = worker.event("worker started")
    assert (started["concurrency"], started["most_held"], started["queues"]) == (1, 1, "default,email")
    assert f":{worker.pid}:" in started["worker"]
    assert command("enqueue", "tasks.add", "[20, 22]", "--wait").stdout.endswith("\n42\n")
    worker.signal(signal.SIGTERM)
    assert worker.end() == 0
    assert worker.workers() == []


CELERYS = {
    "CELERY_WORKER_POOL": "prefork",
    "CELERY_WORKER_CONCURRENCY": "3",
    "CELERY_WORKER_PREFETCH_MULTIPLIER": "2",
    "CELERY_WORKER_MAX_TASKS_PER_CHILD": "1000",
    "CELERY_TASK_TIME_LIMIT": "60",
    "CELERY_TASK_SOFT_TIME_LIMIT": "50",
}


def test_celerys_variables_count_where_nobody_says_otherwise(told, monkeypatch):
    """Breaks when one of them goes before an option or a variable of rqueue's."""
    for name, value in CELERYS.items():
        monkeypatch.setenv(name, value)
    fleet = told()
    config = fleet.process.config()
    assert (config.pool, fleet.processes, config.prefetch_multiplier) == ("prefork", 3, 2)
    assert (config.max_tasks, config.time_limit_s, config.soft_time_limit_s) == (1000, 60, 50)
    assert sorted(fleet.process.variables) == sorted(CELERYS)
    monkeypatch.setenv("RQUEUE_POOL", "threads")
    monkeypatch.setenv("RQUEUE_TIME_LIMIT", "70")
    monkeypatch.setenv("RQUEUE_PREFETCH_MULTIPLIER", "4")
    fleet = told("-c", "5", "--max-tasks-per-child", "9", "--soft-time-limit", "7")
    config = fleet.process.config()
    assert (config.pool, config.concurrency, config.prefetch_multiplier, fleet.processes) == ("threads", 5, 4, 1)
    assert (config.max_tasks, config.time_limit_s, config.soft_time_limit_s) == (9, 70, 7)
    assert fleet.process.variables == []


def test_a_pool_of_celerys_that_is_not_here_is_said_and_async_takes_its_place(told, project, command, monkeypatch):
    monkeypatch.setenv("CELERY_WORKER_POOL", "gevent")
    monkeypatch.setattr("rqueue.cli.worker.take_over", lambda _: None)
    shown = command("worker")
    assert shown.exit_code == 0
    assert shown.stderr.startswith("rqueue: CELERY_WORKER_POOL=gevent: ")
    assert told().process.config().pool == "async"


def test_a_malformed_variable_of_celerys_is_named(project, command, monkeypatch):
    monkeypatch.setenv("CELERY_WORKER_CONCURRENCY", "many")
    shown = command("worker")
    assert (shown.exit_code, shown.stderr) == (
        2,
        "rqueue: CELERY_WORKER_CONCURRENCY 'many': a whole number, 0 or more\n",
    )


def test_supervisor_processes_and_commands_find_the_same_redis_by_celerys_variable(
    directory, redis_url, start, command, monkeypatch
):
    """Breaks when one of them looks elsewhere: the supervisor, for one, takes a dead process's jobs back."""
    code = "from rqueue import RQueue\napp = RQueue()\n@app.task\ndef add(a, b):\n    return a + b\n"
    (directory / "tasks.py").write_text(code)
    monkeypatch.setenv("CELERY_BROKER_URL", redis_url)
    monkeypatch.setenv("CELERY_WORKER_CONCURRENCY", "3")
    worker = start("worker", "--log-format", "json")
    logged = worker.event("settings from celery's variables")
    assert logged["variables"] == "CELERY_BROKER_URL,CELERY_WORKER_CONCURRENCY"
    assert worker.event("worker started")["concurrency"] == 3
    os.kill(worker.workers()[0], signal.SIGKILL)
    worker.event("worker reaped")
    worker.event("worker started", skip=1)
    assert command("enqueue", "tasks.add", "[20, 22]", "--wait").stdout.endswith("\n42\n")
    worker.signal(signal.SIGTERM)
    assert worker.end() == 0


def test_an_env_that_was_written_for_celery_works_as_it_is(directory, redis_url, start, command, store, monkeypatch):
    """Redis as broker, a database as result backend, results that never expire; nothing is said to rqueue itself."""
    (directory / "tasks.py").write_text(
        "from rqueue import RQueue\napp = RQueue()\n@app.task\ndef one():\n    return 1\n"
    )
    for name, value in {
        "CELERY_BROKER_URL": redis_url,
        "CELERY_RESULT_BACKEND": "db+sqlite:///history.db",
        "CELERY_RESULT_EXPIRES": "0",
        "CELERY_WORKER_POOL": "gevent",
        "CELERY_WORKER_PREFETCH_MULTIPLIER": "0",
    }.items():
        monkeypatch.setenv(name, value)
    assert command("db", "upgrade").exit_code == 0
    worker = start("worker", "--log-format", "json")
    logged = worker.event("settings from celery's variables")
    assert "CELERY_RESULT_BACKEND,CELERY_RESULT_EXPIRES" in logged["variables"]
    job_id = command("enqueue", "tasks.one", "--wait").stdout.split()[0]
    assert 3500 < store.ttl(f"rqueue:{{default}}:result:{job_id}") <= 3600
    worker.signal(signal.SIGTERM)
    assert worker.end() == 0
    store.flushall()
    found = command("result", job_id)
    assert (found.exit_code, found.stdout) == (0, "1\n")


WRONG = {
    "lease": (["--lease", "0"], "rqueue: lease 0.0: a number above 0"),
    "concurrency": (["-c", "0"], "rqueue: concurrency 0: a whole number from 1"),
    "concurrency of prefork": (["--pool", "prefork", "-c", "0"], "rqueue: concurrency 0: a whole number from 1"),
    "prefetch": (["--prefetch-multiplier", "0"], "1 holds only what can start now"),
    "shutdown": (["--shutdown-timeout", "-1"], "rqueue: shutdown_timeout -1.0: seconds, 0 or more"),
    "stall": (["--max-loop-stall", "0"], "rqueue: max_loop_stall 0.0: a number above 0"),
    "queue": (["-Q", "a b"], "rqueue: queue 'a b'"),
    "url": (["--url", "http://x"], "needs one of redis://"),
    "namespace": (["--namespace", "a b"], "rqueue: namespace 'a b'"),
    "level": (["--loglevel", "loud"], "'loud' is not one of"),
    "gevent": (["--pool", "gevent"], "in the pool 'async' coroutines share one event loop"),
    "pool": (["--pool", "swimming"], "'swimming' is not a pool; use one of async, threads, prefork, solo"),
    "no process": (["--processes", "0"], "0 is not in the range x>=1"),
    "prefork with processes": (["--pool", "prefork", "--processes", "2"], "with the pool prefork -c says how many"),
    "limit": (["--time-limit", "0"], "rqueue: time_limit 0.0: a number above 0"),
    "soft limit": (["--time-limit", "5", "--soft-time-limit", "5"], "rqueue: soft_time_limit 5.0: below"),
    "tasks": (["--max-tasks-per-child", "0"], "rqueue: max_tasks 0: a whole number from 1"),
    "memory": (["--max-memory-per-child", "200"], "'200': a size with its unit, as 200MB or 1.5GB"),
    "no memory": (["--max-memory-per-child", "0MB"], "rqueue: max_memory_bytes 0: a whole number from 1"),
    "autoscale": (["--autoscale", "8"], "'8': the most and the fewest, as 8,2"),
    "autoscale to none": (["--pool", "prefork", "--autoscale", "8,0"], "rqueue: autoscale, fewest 0: a whole number"),
    "autoscale upside down": (["--autoscale", "2,8"], "rqueue: autoscale, most 2: a whole number from 8"),
    "autoscale of prefork": (["--pool", "prefork", "--autoscale", "2,8"], "rqueue: autoscale, most 2"),
    "solo and two jobs": (["--pool", "solo", "-c", "2"], "solo runs one job at a time in one process"),
    "solo and processes": (["--pool", "solo", "--processes", "2"], "solo runs one job at a time in one process"),
    "solo and tasks": (["--pool", "solo", "--max-tasks-per-child", "9"], "solo has no child processes"),
    "solo and memory": (["--pool", "solo", "--max-memory-per-child", "1GB"], "solo has no child processes"),
    "solo and autoscale": (["--pool", "solo", "--autoscale", "1,1"], "solo has no child processes"),
    "solo and reload": (["--pool", "solo", "--reload"], "solo has no child processes"),
    "solo and no app": (["--pool", "solo", "-A", "absent:app"], "there is no module 'absent'"),
    "solo in memory": (["--pool", "solo", "--url", "memory://"], "memory:// is in one process only"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_ends_it_with_code_2(project, command, case, monkeypatch):
    """Before anything is started: there is no supervisor in the tests' own process."""
    monkeypatch.delattr("rqueue.cli.worker.take_over")
    arguments, text = WRONG[case]
    shown = command("worker", *arguments)
    assert shown.exit_code == 2
    assert text in shown.stderr
    assert "Traceback" not in shown.stderr


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["-A", "absent:app", "--processes", "2"], "rqueue: app 'absent:app': there is no module 'absent' in "),
        (["--url", "memory://"], "memory:// is in one process only; a worker process needs a Redis"),
    ],
)
def test_what_only_a_process_can_see_to_be_wrong_ends_it_as_well(project, on_redis, start, arguments, text):
    """The process says it, in one line, and the supervisor ends with its code."""
    worker = start("worker", *arguments)
    assert worker.end() == 2
    assert text in worker.line("rqueue: ")
    assert "code=2" in worker.line("process died")
    assert "Traceback" not in "\n".join(worker.lines)
    assert not any(map(is_alive, worker.workers()))


def test_when_it_is_killed_its_processes_leave_and_give_back_what_they_hold(project, on_redis, start_worker, store):
    """They notice by themselves: nobody tells them."""
    worker = start_worker("--processes", "2", "--shutdown-timeout", "0")
    for number in (0, 1):
        worker.event("worker started", skip=number)
    store.lpush("rqueue:{default}", '{"task":"tasks.hang","id":"a"}')
    worker.event("job started", id="a")
    worker.signal(signal.SIGKILL)
    assert worker.end() == -signal.SIGKILL  # and nobody has its stderr any more
    worker.event("supervisor is gone")
    worker.event("job released", id="a")
    assert store.zcard("rqueue:{default}:workers") == 0
    assert store.llen("rqueue:{default}") == 1


def test_a_killed_process_is_replaced_and_its_jobs_run_elsewhere(project, on_redis, start_worker, store, tmp_path):
    """Its lease is long: it is the supervisor that takes the jobs back."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    worker = start_worker("--lease", "600")
    worker.event("worker started")
    store.lpush("rqueue:{default}", f'{{"task":"tasks.hold","args":["{fifo}"],"id":"a"}}')
    worker.event("job started", id="a")
    (pid,) = worker.workers()
    os.kill(pid, signal.SIGKILL)
    assert worker.event("process died", pid=pid)["signal"] == "SIGKILL"
    assert worker.event("jobs taken back")["jobs"] == 1
    worker.event("job started", id="a", skip=1)
    fifo.write_text("the end")
    worker.event("job done", id="a")
    worker.signal(signal.SIGTERM)
    assert worker.end() == 0
    assert len(worker.workers()) == 2


def test_pools():
    for name in ("async", "threads", "prefork", "solo"):
        assert check_pool(name) == name
    assert check_pool("processes") == "prefork"
    for name in ("eventlet", "gevent", "", "Async"):
        with pytest.raises(typer.BadParameter, match="async"):
            check_pool(name)


def test_names_of_queues():
    assert queue_names(None) == ()
    assert queue_names(" email, reports,") == ("email", "reports")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (None, None),
        ("200MB", 200_000_000),
        ("1.5 GB", 1_500_000_000),
        ("64kb", 64_000),
        (" 2MiB ", 2 * 1024**2),
    ],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MB", "200", "-1MB", "1TB", "1e3MB", "2 M B"])
def test_what_is_no_size(text):
    with pytest.raises(typer.BadParameter, match="a size with its unit"):
        parse_size(text)


def test_most_and_fewest():
    assert parse_autoscale(None) is None
    assert parse_autoscale("8,2") == (8, 2)
    assert parse_autoscale(" 8 , 2 ") == (8, 2)
    for text in ("", "8", "8,2,1", "a,b", "8;2", "8.5,2"):
        with pytest.raises(typer.BadParameter, match="the most and the fewest"):
            parse_autoscale(text)
