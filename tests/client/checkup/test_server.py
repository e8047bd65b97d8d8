"""The server's checks: on what real servers say, and on what they could say."""

import platform
from typing import Any

import pytest
import redis

from rqueue import RQueue
from rqueue.broker.broker import Broker
from rqueue.client.checkup.finding import Level
from rqueue.client.checkup.server import SERVER_CHECKS, Facts, apart, examine, wanted
from rqueue.embedded import EmbeddedServer

GOOD = {
    "redis_version": "7.2.4",
    "redis_mode": "standalone",
    "role": "master",
    "connected_slaves": "0",
    "used_memory": "1000000",
    "maxmemory": "100000000",
    "connected_clients": "10",
    "rdb_last_bgsave_status": "ok",
    "aof_last_write_status": "ok",
    "aof_last_bgrewrite_status": "ok",
    "aof_enabled": "1",
}
SETTINGS = {
    "maxmemory-policy": "noeviction",
    "appendonly": "yes",
    "appendfsync": "everysec",
    "save": "",
    "maxclients": "10000",
    "min-replicas-to-write": "0",
}


def facts(info: dict[str, str] | None = None, settings: dict[str, str | None] | None = None, **more: Any) -> Facts:
    """A good server's, but for this."""
    return Facts({**GOOD, **(info or {})}, {**SETTINGS, **(settings or {})}, [0.1, 0.2], **more)


def levels(given: Facts) -> dict[str, Level]:
    return {each.check: each.level for each in examine(given) if each.level}


def told(given: Facts, check: str) -> list[str]:
    return [each.text for each in SERVER_CHECKS[check](given)]


def test_nothing_is_wrong_with_a_good_server():
    assert levels(facts()) == {}
    assert told(facts(), "persistence")[0].startswith(
        "a crash of its machine costs what was confirmed in about the last s"
    )


SLAVE = "ip=10.0.0.1,port=6380,state=online,offset=5,lag="


@pytest.mark.parametrize(
    ("info", "settings", "expected"),
    [
        ({"redis_version": "6.0.16"}, {}, {"versions": Level.PROBLEM}),
        ({"redis_version": "6.2.0"}, {}, {}),
        ({"redis_version": "8.6.1"}, {}, {}),
        ({"redis_version": "9.0.0"}, {}, {"versions": Level.NOTE}),
        ({"redis_version": "7.2.4", "valkey_version": "9.1.0"}, {}, {}),
        ({"redis_version": ""}, {}, {"versions": Level.NOTE}),
        ({"redis_mode": "sentinel"}, {}, {"topology": Level.PROBLEM}),
        ({}, {"maxmemory-policy": "allkeys-lru"}, {"eviction": Level.PROBLEM}),
        ({"maxmemory": "0"}, {"maxmemory-policy": "allkeys-lru"}, {"eviction": Level.WARNING}),
        ({"maxmemory_policy": "volatile-ttl"}, {"maxmemory-policy": None}, {"eviction": Level.PROBLEM}),
        ({}, {"maxmemory-policy": None}, {"eviction": Level.NOTE}),
        ({"used_memory": "79000000"}, {}, {}),
        ({"used_memory": "80000000"}, {}, {"memory": Level.WARNING}),
        ({"used_memory": "95000000"}, {}, {"memory": Level.PROBLEM}),
        ({"maxmemory": "0", "total_system_memory": "1010000"}, {}, {"memory": Level.PROBLEM}),
        ({"maxmemory": "0"}, {}, {}),
        ({"used_memory": ""}, {}, {"memory": Level.NOTE}),
        ({"rdb_last_bgsave_status": "err"}, {}, {"persistence": Level.PROBLEM}),
        ({"aof_last_write_status": "err"}, {}, {"persistence": Level.PROBLEM}),
        ({}, {"appendfsync": "no"}, {"persistence": Level.WARNING}),
        ({}, {"appendfsync": "always"}, {}),
        ({}, {"appendonly": "no"}, {"persistence": Level.WARNING}),
        ({"aof_enabled": "0"}, {"appendonly": None, "save": None}, {"persistence": Level.WARNING}),
        ({"aof_enabled": "1"}, {"appendonly": None, "appendfsync": None}, {}),
        ({"aof_enabled": ""}, {"appendonly": None}, {"persistence": Level.NOTE}),
        ({"role": "slave", "master_host": "h", "master_port": "1"}, {}, {"replicas": Level.PROBLEM}),
        ({"role": ""}, {}, {"replicas": Level.NOTE}),
        ({"connected_slaves": "1", "slave0": SLAVE + "0"}, {"min-replicas-to-write": "1"}, {}),
        ({"connected_slaves": "1", "slave0": SLAVE + "11"}, {}, {"replicas": Level.WARNING}),
        ({"connected_slaves": "1", "slave0": "ip=h,port=1,state=wait_bgsave"}, {}, {"replicas": Level.WARNING}),
        ({}, {"min-replicas-to-write": "1"}, {"replicas": Level.PROBLEM}),
        ({"connected_clients": "8000"}, {}, {"clients": Level.WARNING}),
        ({"connected_clients": "9500"}, {}, {"clients": Level.PROBLEM}),
        ({"connected_clients": "95"}, {"maxclients": None}, {"clients": Level.NOTE}),
        ({"connected_clients": "95", "maxclients": "100"}, {"maxclients": None}, {"clients": Level.PROBLEM}),
    ],
)
def test_what_a_server_says(info: dict[str, str], settings: dict[str, str | None], expected: dict[str, Level]):
    assert levels(facts(info, settings)) == expected


def test_what_is_kept_at_a_crash_is_one_sentence():
    assert "nothing that was confirmed" in told(facts({}, {"appendfsync": "always"}), "persistence")[0]
    assert (
        "everything since the last snapshot" in told(facts({}, {"appendonly": "no", "save": "60 1"}), "persistence")[0]
    )
    assert "every job and result" in told(facts({}, {"appendonly": "no"}), "persistence")[0]


@pytest.mark.parametrize(
    ("round_trips", "level"),
    [([0.2, 900], Level.OK), ([6.0, 6.0], Level.NOTE), ([51.0], Level.WARNING), ([0.2, 0.2, 1001.0], Level.WARNING)],
)
def test_round_trips(round_trips: list[float], level: Level):
    (finding,) = SERVER_CHECKS["latency"](Facts(round_trips_ms=[*round_trips, *round_trips, min(round_trips)]))
    assert finding.level is level


@pytest.mark.parametrize(("seconds", "level"), [(1.9, Level.OK), (-2.1, Level.NOTE), (31, Level.WARNING)])
def test_clocks(seconds: float, level: Level):
    (finding,) = SERVER_CHECKS["clocks"](Facts(apart_s=seconds))
    assert finding.level is level
    assert ("ahead of" in finding.text) is (seconds > 0)
    assert apart("its clock", seconds, "w").where == "w"


def test_a_cluster_that_is_not_whole():
    assert levels(facts(cluster={"cluster_state": "fail"})) == {"topology": Level.PROBLEM}
    assert levels(facts(cluster={"cluster_state": "ok", "cluster_size": "3"})) == {}


async def facts_at(url: str) -> Facts:
    async with RQueue(url) as app:
        return await Facts.of(app.session().broker)


async def test_a_real_server(new_server):
    """Breaks when a real server names things otherwise than the tests above do, or a probe is an error there."""
    server = new_server({"appendonly": "yes", "appendfsync": "everysec"})
    found = await facts_at(server.url)
    assert {name: level for name, level in levels(found).items() if name not in ("latency", "memory")} == {}
    assert found.number("connected_clients") == 1
    assert (found.number("maxclients") or 0) > 0
    assert len(found.round_trips_ms) == 20
    assert abs(found.apart_s) < 1
    (version,) = SERVER_CHECKS["versions"](found)
    assert platform.python_version() in version.text
    assert "hiredis" in version.text


async def test_a_badly_configured_server(new_server):
    options = {
        "maxmemory": "100mb",
        "maxmemory-policy": "allkeys-lru",
        "min-replicas-to-write": "1",
        "maxclients": "40",
    }
    server = new_server(options)
    with redis.Redis.from_url(server.url) as connection:
        pool = [connection.connection_pool.get_connection() for _ in range(37)]
        found = levels(await facts_at(server.url))
        for each in pool:
            each.disconnect()
    expected = {"eviction": Level.PROBLEM, "persistence": Level.WARNING, "replicas": Level.PROBLEM}
    assert {name: found.get(name) for name in expected} == expected
    assert found["clients"] >= Level.WARNING


async def test_a_replica(new_server):
    """The master has it in sight; who asks the replica is told where he is."""
    master = new_server()
    replica = new_server({"replicaof": f"127.0.0.1 {master.port}"})
    found = await facts_at(replica.url)
    assert levels(found)["replicas"] is Level.PROBLEM
    assert told(found, "replicas") == [f"this is a replica of 127.0.0.1:{master.port}: it takes no jobs"]


async def test_a_save_that_failed(new_server):
    server: EmbeddedServer = new_server({"dbfilename": "taken"})
    (server.directory / "taken").mkdir()  # no file can take its place
    (server.directory / "taken" / "x").touch()
    with redis.Redis.from_url(server.url) as connection:
        connection.bgsave()
        while connection.info("persistence")["rdb_bgsave_in_progress"]:
            pass
    assert any("snapshot failed" in text for text in told(await facts_at(server.url), "persistence"))


async def test_a_user_who_may_little(new_server):
    """As at a hosting provider: INFO and CONFIG are forbidden, and some more. Nothing is guessed."""
    server = new_server()
    with redis.Redis.from_url(server.url) as connection:
        rules = "on >secret ~rqueue:* &rqueue:{* +@all -@dangerous -@admin -config -info -scan"
        connection.execute_command("ACL", "SETUSER", "worker", *rules.split())
    found = await facts_at(server.url.replace("redis://", "redis://worker:secret@"))
    assert found.info is None
    assert sorted(found.refused) == ["CLIENT UNBLOCK", "PUBLISH", "SCAN"]
    notes = {"versions", "eviction", "memory", "persistence", "replicas", "clients"}
    assert levels(found) == {**dict.fromkeys(notes, Level.NOTE), "permissions": Level.NOTE}
    assert [each.level for each in SERVER_CHECKS["permissions"](found)] == [Level.WARNING, Level.NOTE, Level.NOTE]


async def test_a_user_who_may_ask(new_server):
    """What the docs name is enough for all facts, without any other of the dangerous commands."""
    server = new_server()
    with redis.Redis.from_url(server.url) as connection:
        rules = "on >x ~rqueue:* &* +@all -@dangerous -@admin +info +config|get +cluster|info +memory|usage +scan"
        connection.execute_command("ACL", "SETUSER", "w", *rules.split())
    found = await facts_at(server.url.replace("redis://", "redis://w:x@"))
    assert Level.NOTE not in {name: level for name, level in levels(found).items() if name != "permissions"}.values()
    assert sorted(found.refused) == ["CLIENT UNBLOCK"]


async def test_a_user_who_may_run_no_script(new_server):
    server = new_server()
    with redis.Redis.from_url(server.url) as connection:
        connection.execute_command("ACL", "SETUSER", "w", "on", ">x", "~*", "&*", "+@all", "-eval", "-brpoplpush")
    found = await facts_at(server.url.replace("redis://", "redis://w:x@"))
    assert sorted(found.refused) == ["BRPOPLPUSH", "EVAL"]
    assert levels(found)["permissions"] is Level.PROBLEM


async def test_asking_changes_nothing_and_is_heard_by_nobody(redis_url):
    """A probe that stored something, or woke somebody, would break a fleet at work."""
    async with RQueue(redis_url) as app:
        broker: Broker = app.session().broker
        await Facts.of(broker)
        assert await broker._link.call(b"KEYS", b"*") == []
        assert [await broker.refused(each.command) for each in wanted(broker.keys)] == [None] * 5


async def test_a_store_in_this_process_is_no_server():
    assert await facts_at("memory://") == Facts()
