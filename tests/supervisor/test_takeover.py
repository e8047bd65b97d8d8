"""takeover: the process that read the options becomes the supervisor, and is told all of them."""

import json
import os
import sys
from pathlib import Path

import orjson
import pytest

from rqueue.supervisor import takeover
from rqueue.supervisor.settings import FleetSettings, ProcessSettings

FLEET = FleetSettings(
    ProcessSettings("tasks:app", "redis://:secret@x/0", None, {"queues": ["a"], "autoscale": (8, 2)}, "debug", "json"),
    processes=3,
    autoscale=(4, 1),
    reload=True,
)


class Replaced(Exception):
    """In place of what never returns."""


@pytest.fixture
def told(monkeypatch):
    """What the supervisor is told; it does not run."""
    fleets = []

    class Told:
        def __init__(self, fleet):
            fleets.append(fleet)

        def run(self):
            return 7

    monkeypatch.setattr(takeover, "Supervisor", Told)
    monkeypatch.setattr(takeover, "configure", lambda *given: fleets.append(given))
    return fleets


def test_all_settings_arrive_and_no_secret_is_an_argument(told, monkeypatch):
    seen = []

    def execv(path, command):
        assert path == command[0] == sys.executable
        assert os.get_inheritable(int(command[3]))
        seen.append((os.dup(int(command[3])), command))
        raise Replaced

    monkeypatch.setattr(os, "execv", execv)
    with pytest.raises(Replaced):
        takeover.take_over(FLEET)
    fd, command = seen[0]
    assert "secret" not in " ".join(command)
    assert takeover.main([str(fd), *command[4:]]) == 7
    (level, format_), fleet = told
    assert (level, format_) == ("debug", "json")
    assert fleet.process.config() == FLEET.process.config()
    assert (fleet.processes, fleet.autoscale, fleet.reload) == (3, (4, 1), True)
    assert json.loads(orjson.dumps(fleet)) == json.loads(orjson.dumps(FLEET))


def shown_of(pid):
    return Path(f"/proc/{pid}/cmdline").read_bytes()


@pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc")
async def test_the_process_keeps_its_id_and_looks_as_before(scene):
    worker = scene.start()
    started = await worker.event("supervisor started")
    assert started["pid"] == worker.pid
    assert b"\0-m\0rqueue\0worker\0" in shown_of(worker.pid)
