"""``doctor``: what it prints, its exit codes, and a fix that is killed and done again."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from rqueue.client.checkup.doctor import Doctor
from rqueue.wire.keys import Keys
from rqueue.wire.message import Message

KEYS = Keys().queue("email")
SAFE = {"appendonly": "yes"}
ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.usefixtures("directory")


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second look follows the first at once."""
    monkeypatch.setattr(Doctor.__init__, "__defaults__", (0.01,))


@pytest.fixture
def safe(new_server, monkeypatch: pytest.MonkeyPatch) -> "redis.Redis":
    """A server with nothing to complain of."""
    server = new_server(SAFE)
    monkeypatch.setenv("RQUEUE_URL", server.url)
    with redis.Redis.from_url(server.url) as connection:
        yield connection


def test_nothing_is_wrong(command, safe):
    done = command("doctor")
    assert done.exit_code == 0
    assert done.stdout.splitlines()[-1].startswith("0 problem(s), 0 warning(s), ")
    assert "persistence" not in done.stdout
    verbose = command("doctor", "--verbose")
    assert verbose.exit_code == 0
    assert "a crash of its machine costs what was confirmed in about the last second" in verbose.stdout
    assert "lost workers" in verbose.stdout


def test_a_warning(command, safe):
    safe.hset(KEYS.sent("p"), "0", "1 1")
    done = command("doctor")
    assert done.exit_code == 1
    (line,) = [line for line in done.stdout.splitlines() if "expiry" in line]
    cells = [cell.strip() for cell in line.strip("│").split("│")]
    assert cells[:3] == ["warning", "expiry", "email"]
    assert cells[4] == "rqueue doctor --fix"
    assert done.stdout.splitlines()[-1].startswith("0 problem(s), 1 warning(s)")


def test_a_problem_and_its_fix(command, safe):
    safe.lpush(KEYS.processing("ghost"), '1 - 0 0 0 a {"task":"t"}')
    assert command("doctor").exit_code == 2
    fixed = command("doctor", "--fix")
    assert "fixed: reaped: its jobs wait again" in fixed.stdout
    assert fixed.stdout.splitlines()[-1].endswith("2 fixed")
    assert fixed.exit_code == 2  # its job waits now, and nobody serves the queue
    assert safe.lrange(KEYS.main, 0, -1) == [b'1 - 0 0 0 a {"task":"t"}']
    left = command("doctor", "--json")
    assert left.exit_code == 2
    document = json.loads(left.stdout)
    assert document["worst"] == "problem"
    found = [each for each in document["findings"] if each["level"] in ("warning", "problem")]
    assert [(each["check"], each["where"], each["advice"]) for each in found] == [
        ("unserved", "email", "rqueue worker -Q email")
    ]


def test_what_was_fixed_does_not_count(command, safe):
    safe.hset(KEYS.sent("p"), "0", "1 1")
    done = command("doctor", "--fix", "--json")
    assert done.exit_code == 0
    (finding,) = [each for each in json.loads(done.stdout)["findings"] if each["check"] == "expiry"]
    assert (finding["level"], finding["fixed"]) == ("warning", "1 will be gone in a day")


def test_another_namespace(command, safe):
    safe.lpush("other:{email}:processing:ghost", "x")
    assert command("doctor").exit_code == 0
    assert command("doctor", "--namespace", "other").exit_code == 2


def test_the_apps_tasks_and_queues(command, safe, project):
    safe.lpush(KEYS.main, '1 - 0 0 0 a {"task":"strange"}')
    assert "jobs of tasks that this app does not have: strange" in command("doctor", "-A", "tasks:app").stdout


def test_redis_is_away_or_refuses(command, new_server):
    server = new_server({"requirepass": "secret"})
    assert command("doctor", "--url", server.url.replace("secret", "wrong")).exit_code == 3
    url = server.url
    server.stop()
    done = command("doctor", "--url", url)
    assert done.exit_code == 3
    assert "secret" not in done.output


def test_a_user_who_may_not_even_look(command, new_server):
    server = new_server()
    with redis.Redis.from_url(server.url) as connection:
        connection.execute_command("ACL", "SETUSER", "w", "on", ">x", "~nothing", "+@all")
    done = command("doctor", "--url", server.url.replace("redis://", "redis://w:x@"))
    assert done.exit_code == 3


def test_the_help_tells_the_exit_codes(command):
    shown = " ".join(command("doctor", "--help").stdout.replace("│", " ").split())
    assert "0 nothing was found, or notes; 1 warnings; 2 problems" in shown


FIX = """
import asyncio, os, signal
from rqueue import RQueue
from rqueue.broker.link import Link
from rqueue.client.checkup.doctor import Doctor

Doctor.__init__.__defaults__ = (0.01,)
steps, call, fix = 0, Link.call, Doctor.fix

async def counted(doctor, findings, reap):
    def one_step(link, *command):
        global steps
        steps += 1
        if steps > {most}:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(link, *command)
    Link.call = one_step
    return await fix(doctor, findings, reap)

async def main():
    Doctor.fix = counted
    async with RQueue({url!r}) as app:
        await app.doctor(fix=True)

asyncio.run(main())
"""


def plant(store: "redis.Redis") -> None:
    store.flushall()
    store.lpush(KEYS.processing("ghost"), *(f'1 - 0 0 0 j{number} {{"task":"t"}}' for number in range(60)))
    store.sadd(KEYS.started("ghost"), "j5")
    store.sadd(KEYS.jobs, *(f"j{number}" for number in range(60)))
    store.zadd(KEYS.workers, {"lost": 1})
    store.lpush(KEYS.processing("lost"), '1 9 0 0 0 k {"task":"t"}')
    store.sadd(KEYS.jobs, "k")
    store.hset(KEYS.unique, "lock", "nobody")
    store.hset(KEYS.sent("p"), "0", "1 1")


def everything(store: "redis.Redis") -> dict[str, object]:
    lists = {name: store.lrange(name, 0, -1) for name in store.keys("*") if store.type(name) == b"list"}
    names = {name: store.ttl(name) > 0 for name in store.keys("*")}
    return {"lists": lists, "has ttl": names, "jobs": store.smembers(KEYS.jobs), "locks": store.hgetall(KEYS.unique)}


@pytest.mark.parametrize("most", [1, 12])
def test_a_fix_that_is_killed_does_no_harm_and_can_be_done_again(most, command, safe, monkeypatch):
    """SIGKILL before one of its steps. Breaks when a message is anywhere but in one list between two steps."""
    plant(safe)
    assert command("doctor", "--fix").exit_code == 2
    expected = everything(safe)
    plant(safe)
    url = f"redis://127.0.0.1:{safe.connection_pool.connection_kwargs['port']}/0"
    ended = subprocess.run(
        [sys.executable, "-c", FIX.format(most=most, url=url)],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    half = [raw for messages in everything(safe)["lists"].values() for raw in messages]
    assert len(half) == len({Message.id_of(raw) for raw in half}) == 61
    command("doctor", "--fix")
    assert everything(safe) == expected
