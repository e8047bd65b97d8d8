"""``rqueue bench``: to its end, to a signal and into errors; nothing of it is left, and nothing else is touched."""

import json
import signal

import pytest
import redis

FEW = ("--jobs", "40", "--rounds", "1", "--concurrency", "4", "--payload", "20")


@pytest.fixture
def somebody(store):
    """What others have at the same Redis; the check is that it is all that is there."""
    store.rpush("rqueue:{default}", "a job")
    store.set("rqueue-bench-", "x")

    def check():
        assert sorted(store.scan_iter()) == ["rqueue-bench-", "rqueue:{default}"]
        assert store.lrange("rqueue:{default}", 0, -1) == ["a job"]

    return check


def test_for_people(command, on_redis, somebody):
    shown = command("bench", *FEW, "--rounds", "2")
    assert shown.exit_code == 0, shown.stderr
    first = shown.stdout.splitlines()[0]
    assert first.startswith("server: ")
    assert f"{on_redis}; a ping takes " in first
    assert "redis " in shown.stdout.splitlines()[1]
    assert "rqueue-bench-" in shown.stdout.splitlines()[2]
    for name in ("enqueue, one at a time", "enqueue, 40 callers", "drain, no-ops", "round trip, p99"):
        assert name in shown.stdout
    assert shown.stderr.splitlines()[0] == "round 1 of 2: enqueue, one at a time"
    assert shown.stderr.splitlines()[-1] == "round 2 of 2: round trip"
    somebody()


def test_for_machines(command, redis_url, somebody):
    shown = command("bench", *FEW, "--url", redis_url, "--json")
    assert shown.exit_code == 0, shown.stderr
    document = json.loads(shown.stdout)
    assert (document["jobs"], document["concurrency"], document["payload"]) == (40, 4, 20)
    assert [len(row["rounds"]) for row in document["workloads"]] == [1] * 7
    assert document["event_loop"] in ("uvloop", "asyncio")
    assert document["namespace"].startswith("rqueue-bench-")
    assert document["ping_p50_ms"] > 0
    somebody()


def test_without_a_redis_it_starts_one(command):
    """Breaks when one that nobody has named is used."""
    shown = command("bench", *FEW)
    assert shown.exit_code == 0, shown.stderr
    assert "this is an embedded one; --url measures yours" in shown.stderr
    assert ", embedded " in shown.stdout.splitlines()[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("workload", ["enqueue, 100 callers", "drain, 50 ms sleeps", "round trip"])
def test_a_signal_leaves_nothing(start, redis_url, somebody, number, workload):
    bench = start("bench", "--jobs", "5000", "-c", "10", "--url", redis_url)
    bench.line(f"round 1 of 3: {workload}")
    bench.signal(number)
    assert bench.end() == 130
    assert "Traceback" not in "\n".join(bench.lines)
    somebody()


def test_a_full_redis_is_told_and_cleaned(command, new_server):
    server = new_server({"maxmemory": "5mb"})
    shown = command("bench", "--jobs", "3000", "--payload", "5000", "--url", server.url)
    assert shown.exit_code == 3
    assert "maxmemory" in shown.stderr.splitlines()[-1]
    with redis.Redis.from_url(server.url) as store:
        assert store.dbsize() == 0


def test_what_an_acl_forbids_is_left_out(command, redis_url, store, somebody):
    """Breaks when INFO or CONFIG is needed, or a key or a channel outside of its namespace."""
    rights = ["reset", "on", ">pw", "~rqueue-bench-*", "&rqueue-bench-*", "+@all", "-info", "-config"]
    store.execute_command("ACL", "SETUSER", "bencher", *rights)
    try:
        shown = command("bench", *FEW, "--url", redis_url.replace("://", "://bencher:pw@"), "--json")
        assert shown.exit_code == 0, shown.stderr
        document = json.loads(shown.stdout)
        assert document["server"].startswith("it does not say")
        assert "pw" not in document["server"]
        somebody()
    finally:
        store.execute_command("ACL", "DELUSER", "bencher")


def test_what_is_set_badly_is_told_once(command, new_server, caplog):
    """Breaks when each worker of each round repeats it."""
    options = {"maxmemory-policy": "allkeys-lru", "appendonly": "yes", "appendfsync": "always"}
    shown = command("bench", *FEW, "--url", new_server(options).url)
    assert shown.exit_code == 0, shown.stderr
    assert [line.split()[1] for line in shown.stdout.splitlines() if line.startswith("note: ")][-2:] == [
        "appendfsync",
        "maxmemory-policy",
    ]
    assert [record.getMessage() for record in caplog.records].count(
        "redis may throw jobs away: set maxmemory-policy to noeviction"
    ) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        *(["--jobs", "0"], ["--jobs", "-5"], ["--jobs", "many"], ["--rounds", "0"], ["--concurrency", "0"]),
        *(["--payload", "-1"], ["--payload", "2000000"], ["--url", "memory://"], ["--url", "http://x"]),
    ],
    ids=" ".join,
)
def test_wrong_usage(command, redis_url, wrong):
    shown = command("bench", "--url", redis_url, *wrong)
    assert (shown.exit_code, shown.stdout) == (2, "")
    assert wrong[1] in shown.stderr


def test_a_wrong_password(command, redis_url):
    """Or a user who is not there: the server's answer is the same."""
    shown = command("bench", "--url", redis_url.replace("://", "://nobody:sesame@"))
    assert (shown.exit_code, shown.stdout) == (3, "")
    assert shown.stderr.startswith("rqueue: Redis cannot be reached: ")
    assert shown.stderr.count("\n") == 1
    assert "sesame" not in shown.stderr


def test_a_redis_that_goes_away(start, new_server):
    """Breaks when nobody hears where keys are left, or when its worker waits for Redis as workers do."""
    server = new_server()
    bench = start("bench", "--jobs", "3000", "--url", server.url)
    bench.line("round 1 of 3: drain, no-ops")
    with redis.Redis.from_url(server.url) as client:
        while not client.keys("*:workers"):
            pass
    server.kill()
    assert bench.end() == 3
    assert bench.lines[-1].startswith("rqueue: not all keys of rqueue-bench-")
    assert "Traceback" not in "\n".join(bench.lines)
