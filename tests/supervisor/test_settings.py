"""settings: what a worker process is told to begin with, as JSON carries it."""

from dataclasses import asdict

import orjson
import pytest

from rqueue.cli.logs import LogFormat, LogLevel
from rqueue.config import WorkerConfig
from rqueue.errors import ConfigError
from rqueue.supervisor.settings import FleetSettings, ProcessSettings

WORKER = {
    "queues": ("email", "reports"),
    "concurrency": 7,
    "prefetch_multiplier": 2,
    "lease_s": 3.5,
    "shutdown_timeout_s": 0,
    "pool": "threads",
    "time_limit_s": 60.0,
    "soft_time_limit_s": None,
    "max_tasks": 1000,
    "max_memory_bytes": 200_000_000,
    "autoscale": (8, 2),
}


def carried(settings):
    """As it arrives in the process."""
    return ProcessSettings(**orjson.loads(orjson.dumps(asdict(settings))))


def as_lists(config):
    """Lists and tuples are one to JSON."""
    return orjson.loads(orjson.dumps(asdict(config)))


def test_they_arrive_as_they_were():
    settings = ProcessSettings("tasks:app", "redis://x:1/0", "mine", WORKER, LogLevel.DEBUG, LogFormat.JSON)
    there = carried(settings)
    assert (there.app, there.url, there.namespace) == ("tasks:app", "redis://x:1/0", "mine")
    assert (LogLevel(there.loglevel), LogFormat(there.log_format)) == (LogLevel.DEBUG, LogFormat.JSON)
    assert as_lists(there.config()) == as_lists(settings.config()) == as_lists(WorkerConfig(**WORKER))
    assert there.config().autoscale == (8, 2)


def test_what_is_not_said_is_the_default():
    assert carried(ProcessSettings()) == ProcessSettings()
    assert carried(ProcessSettings()).config() == WorkerConfig()


def test_the_defaults_of_the_logs_are_the_command_lines():
    settings = ProcessSettings()
    assert (LogLevel(settings.loglevel), LogFormat(settings.log_format)) == (LogLevel.INFO, LogFormat.TEXT)


@pytest.mark.parametrize("wrong", [{"lease_s": 0}, {"autoscale": [2, 8]}, {"queues": ["a b"]}, {"max_tasks": 0}])
def test_what_is_wrong_is_refused_on_either_side(wrong):
    settings = ProcessSettings(worker=wrong)
    for each in (settings, carried(settings)):
        with pytest.raises(ConfigError):
            each.config()


def test_a_fleet_is_one_process_by_default_that_is_this_python_with_rqueues_child():
    fleet = FleetSettings(ProcessSettings())
    assert (fleet.processes, fleet.autoscale, fleet.reload) == (1, None, False)
    assert fleet.command[1:] == ("-m", "rqueue.cli.child")
