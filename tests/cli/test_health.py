"""``health``: a probe's exit code, from what workers last said of themselves."""

import json

import pytest

from rqueue.cli.health import problem_of
from rqueue.client.admin import WorkerStatus

HEALTHY = {"state": "running", "fetched_age_s": 1.0, "heartbeat_s": 5.0, "block_s": 4.0}


def status(lease_s=10.0, **said):
    return WorkerStatus("h:1:a", ("default",), lease_s, **{**HEALTHY, **said})


@pytest.mark.parametrize(
    "healthy",
    [
        status(),
        status(fetched_age_s=16.9),
        status(fetched_age_s=13.9, heartbeat_s=1.0),
        status(fetched_age_s=999.0, state="stopping"),
    ],
)
def test_who_fetches_or_stops_is_healthy(healthy):
    assert problem_of(healthy) is None


@pytest.mark.parametrize(
    ("sick", "problem"),
    [
        (status(fetched_age_s=17.1), "its last fetch was 17.1 s ago, and 17 s are allowed"),
        (status(fetched_age_s=14.1, heartbeat_s=1.0), "its last fetch was 14.1 s ago, and 14 s are allowed"),
        (status(lease_s=-2.0), "its lease ran out 2.0 s ago"),
        (status(lease_s=-2.0, state="stopping"), "its lease ran out"),
        (status(fetched_age_s=None), "it has not said anything of itself"),
        (WorkerStatus("h:1:a", (), 9.0), "it has not said anything of itself"),
    ],
)
def test_who_does_not_is_not(sick, problem):
    assert problem_of(sick).startswith(problem)


def test_the_age_can_be_given():
    assert problem_of(status(fetched_age_s=3.0), 2.9) is not None
    assert problem_of(status(fetched_age_s=99.0), 100) is None


@pytest.mark.usefixtures("on_redis", "directory")
class TestCommand:
    def test_a_working_worker(self, command, working):
        name = working().worker.id
        shown = command("health")
        assert (shown.exit_code, shown.stdout) == (0, f"healthy: {name}\n")
        document = json.loads(command("health", "--json").stdout)
        assert document == {"healthy": True, "workers": [{"id": name, "problem": None}]}
        assert command("health", "--worker", name).exit_code == 0
        assert command("health", "--worker", name.rpartition(":")[0]).exit_code == 0

    def test_no_worker(self, command):
        shown = command("health")
        assert shown.exit_code == 1
        assert shown.stderr.startswith("rqueue: unhealthy: there is no worker on this host")
        assert json.loads(command("health", "--json").stdout) == {"healthy": False, "workers": []}

    def test_another_hosts_worker_does_not_count(self, command, working, monkeypatch):
        name = working().worker.id
        monkeypatch.setattr("socket.gethostname", lambda: "another")
        assert command("health").exit_code == 1
        assert command("health", "--worker", name).exit_code == 0

    def test_a_dead_predecessor_does_not_count(self, command, working, store):
        name = working().worker.id
        card = store.get(f"rqueue:{{default}}:worker:{name}")
        store.zadd("rqueue:{default}:workers", {"old:1:a": 1})
        store.set("rqueue:{default}:worker:old:1:a", card, ex=60)
        assert command("health").stdout == f"healthy: {name}\n"
        assert command("health", "--worker", "old").exit_code == 1

    def test_a_worker_that_does_not_fetch(self, command, working):
        """Its heart beats, and its fetcher hangs: breaks when the beat alone is taken for health."""
        worker = working(lease=0.6, block_s=0.1)

        async def hang(*_):
            import asyncio

            await asyncio.Event().wait()

        def stick():
            worker.worker._fetcher.tick = hang
            worker.worker._fetcher.poke()

        worker.call(stick)
        while (shown := command("health", "--max-age", "1")).exit_code == 0:
            pass
        assert "its last fetch was" in shown.stderr
        assert "there is no worker" not in shown.stderr
        assert command("health", "--max-age", "1000").exit_code == 0

    def test_a_busy_worker_is_healthy(self, command, working):
        """All its slots are taken, so that it asks for nothing: breaks when only answers count as fetching."""
        worker = working(concurrency=1, lease=0.6, block_s=0.1)
        worker.call(lambda: worker.app.tasks.find("hang").enqueue())
        while not worker.worker.running:
            pass
        before = worker.worker._fetcher.fetched_ms
        while worker.worker._fetcher.fetched_ms <= before + 1000:
            pass
        assert command("health").exit_code == 0

    def test_it_imports_nothing(self, command, directory, working):
        working()
        (directory / "tasks.py").write_text("raise RuntimeError('it was imported')")
        assert command("health").exit_code == 0

    def test_without_redis(self, command, new_server):
        server = new_server()
        url = server.url
        server.stop()
        assert command("health", "--url", url).exit_code == 3
