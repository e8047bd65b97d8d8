"""What a running worker tells an operator: only what it knows, in plain JSON. It changes nothing."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from rqueue.broker.broker import Broker
from rqueue.client.options import TaskOptions
from rqueue.client.registry import Registry
from rqueue.config import AppConfig, WorkerConfig
from rqueue.errors import MalformedMessage
from rqueue.policy.clock import elapsed_s
from rqueue.wire.keys import MAIN, shown
from rqueue.wire.message import Call
from rqueue.worker.drainer import Drainer
from rqueue.worker.executor import Executor
from rqueue.worker.fetcher import Fetcher
from rqueue.worker.heart import Heart
from rqueue.worker.inflight import ClaimedJob, Inflight, Phase
from rqueue.worker.lease import Lease, this_host
from rqueue.worker.life import memory_bytes
from rqueue.worker.recorder import Recorder
from rqueue.worker.settler import Settler

SCHEDULED_SHOWN: Final = 100
ARGS_SHOWN: Final = 120
"""Characters of a job's arguments."""

_BODY_READ: Final = 65_536
"""A larger message is not decoded for its arguments' sake: the event loop has jobs to run."""

_DEFAULTS: Final = TaskOptions()


@dataclass(frozen=True, slots=True)
class Inspection:
    """The verbs that only look.

    Args:
        broker, app, config, tasks: what the worker was made with.
        inflight, lease, heart, settler, fetcher, executor: its parts.
        recorder, drainer: what it has beside them where the app has a result store.
    """

    broker: Broker
    app: AppConfig
    config: WorkerConfig
    tasks: Registry
    inflight: Inflight
    lease: Lease
    heart: Heart
    settler: Settler
    fetcher: Fetcher
    executor: Executor
    recorder: Recorder | None = None
    drainer: Drainer | None = None
    started_s: float = field(default_factory=elapsed_s)

    def verbs(self) -> dict[str, Callable[..., Any]]:
        """Each verb by its name."""
        verbs = (
            self.ping,
            self.active,
            self.reserved,
            self.scheduled,
            self.registered,
            self.stats,
            self.active_queues,
            self.report,
        )
        return {verb.__name__: verb for verb in verbs}

    def ping(self) -> str:
        """The worker is there."""
        return "pong"

    def active(self) -> list[dict[str, Any]]:
        """The running jobs, the longest first."""
        now_s = elapsed_s()
        jobs = sorted(
            (job for job in self.inflight.of(Phase.RUNNING) if job.started_ms is not None),
            key=lambda job: job.started_s,
        )
        return [
            {
                **_about(job, self.tasks),
                "started": (job.started_ms or 0) / 1000,
                "seconds": round(now_s - job.started_s, 3),
            }
            for job in jobs
        ]

    def reserved(self) -> list[dict[str, Any]]:
        """The jobs that are claimed and have not started, in the order in which they came."""
        now_s = elapsed_s()
        jobs = sorted(self.inflight.of(Phase.HELD), key=lambda job: job.ticket)
        return [{**_about(job, self.tasks), "held_seconds": round(now_s - job.held_s, 3)} for job in jobs]

    async def scheduled(self) -> list[dict[str, Any]]:
        """The next scheduled jobs of the worker's queues; all workers of a queue tell the same."""
        found: list[dict[str, Any]] = [
            {"id": shown(job_id), "queue": keys.name, "due": due_ms / 1000}
            for keys in self.fetcher.served
            for job_id, due_ms in await self.broker.scheduled(keys, SCHEDULED_SHOWN)
        ]
        return sorted(found, key=lambda job: job["due"])[:SCHEDULED_SHOWN]

    def registered(self) -> list[dict[str, Any]]:
        """The tasks, each with those of its options that are not the defaults, and what operators have changed."""
        found = []
        for task in sorted(self.tasks, key=lambda task: task.name):
            row: dict[str, Any] = {"name": task.name, "options": _options(task.defaults)}
            if (rate := self.executor.rates.text(task.name)) is not None:
                row["rate_limit"] = rate
            if task.name in self.executor.overrides:
                row["soft_time_limit"], row["time_limit"] = self.executor.overrides[task.name]
            found.append(row)
        return found

    def stats(self) -> dict[str, Any]:
        """Counters and measures of this process."""
        ended: dict[str, dict[str, int]] = {}
        for (task, state), count in sorted(self.settler.ended.items()):
            ended.setdefault(task, {})[state] = count
        return {
            **this_host(),
            "uptime": round(elapsed_s() - self.started_s, 1),
            "pool": self.config.pool,
            "concurrency": self.inflight.slots,
            "most_held": self.inflight.most,
            "running": self.inflight.running,
            "held": self.inflight.held,
            "done": self.settler.total,
            "total": ended,
            "lost": self.settler.lost,
            "dropped": self.settler.dropped,
            **self._results(),
            "stalls": {"count": self.heart.stalls, "last": [_stall(asdict(each)) for each in self.heart.last_stalls]},
            "lease": self.lease.lease_s,
            "lease_age": round(self.lease.age_s, 3),
            "fetched": self.fetcher.fetched_ms / 1000,
            "rss": memory_bytes() or None,
            "redis": self.broker.endpoint.shown,
        }

    def _results(self) -> dict[str, Any]:
        """What became of the rows for the result store, and since when that is away."""
        if self.recorder is None or self.drainer is None:
            return {}
        since = self.recorder.away_since
        return {
            "results": {
                "recorded": self.recorder.recorded,
                "spooled": self.recorder.spooled,
                "drained": self.drainer.drained,
                "dropped": self.recorder.dropped + self.drainer.dropped,
                "away_since": None if since is None else since / 1000,
            }
        }

    def active_queues(self) -> list[dict[str, Any]]:
        """The queues that the worker claims from."""
        return [
            {
                "name": keys.name,
                "priority": self.app.queue(keys.name).priority,
                "paused": keys in self.fetcher.paused,
                "paused_tasks": sorted(self.inflight.paused_tasks.get(keys, ())),
            }
            for keys in self.fetcher.served
        ]

    async def report(self) -> str:
        """One text for a bug report: versions and settings, and nothing that is secret."""
        lines = {
            "worker": self.lease.worker,
            "rqueue": _version("rqueue"),
            "python": f"{platform.python_implementation()} {platform.python_version()}",
            "platform": platform.platform(),
            "event loop": type(asyncio.get_running_loop()).__module__,
            "packages": ", ".join(f"{name} {_version(name)}" for name in ("redis", "hiredis", "orjson", "anyio")),
            "redis": self.broker.endpoint.shown,
            "server": await self.broker.server_version(),
            "namespace": self.app.namespace,
            "queues": ", ".join(f"{each['name']} ({each['priority']})" for each in self.active_queues()),
            "tasks": len(self.tasks),
            "slots": f"{self.inflight.slots}, holds at most {self.inflight.most}",
        }
        lines |= {f"worker.{each.name}": getattr(self.config, each.name) for each in fields(self.config)}
        lines |= {f"limits.{each.name}": getattr(self.app.limits, each.name) for each in fields(self.app.limits)}
        return "\n".join(f"{name}: {value}" for name, value in lines.items())


def _about(job: ClaimedJob, tasks: Registry) -> dict[str, Any]:
    header = job.message.header
    about = {
        "id": job.id,
        "task": job.seen.get("task"),
        "queue": job.keys.name,
        "priority": None if header.level == MAIN else header.level,
        "retries": header.retries,
        "args": f"{len(job.message.body):,} bytes",
    }
    if len(job.message.body) <= _BODY_READ:
        try:
            call = Call.decode(job.message.body)
        except MalformedMessage:
            return about
        about |= {"task": about["task"] or call.task, "args": _shown(call, tasks)}
    return about


def _shown(call: Call, tasks: Registry) -> str:
    """The arguments as they would stand in Python, without secrets, cut."""
    args, kwargs = tasks.shown(call.task, call.args, call.kwargs or {})
    parts = [*map(repr, args), *(f"{name}={value!r}" for name, value in kwargs.items())]
    text = ", ".join(parts).encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= ARGS_SHOWN else f"{text[: ARGS_SHOWN - 1]}…"


def _options(options: TaskOptions) -> dict[str, Any]:
    found = {}
    for each in fields(options):
        value = getattr(options, each.name)
        if each.name != "name" and value != getattr(_DEFAULTS, each.name):
            found[each.name] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, tuple):
        return [each.__name__ if isinstance(each, type) else str(each) for each in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _stall(stall: dict[str, Any]) -> dict[str, Any]:
    return {"at": stall["at_ms"] / 1000, "seconds": stall["seconds"], "where": stall["where"]}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
