"""What an operator can have a running worker do. Nothing of it outlives the process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rqueue.client.registry import Registry
from rqueue.config import MOST_SLOTS, check_time_limits, whole
from rqueue.errors import ConfigError
from rqueue.wire.keys import Keys, check_job_id
from rqueue.worker.executor import Executor
from rqueue.worker.fetcher import Fetcher
from rqueue.worker.inflight import Inflight


@dataclass(frozen=True, slots=True)
class Commands:
    """The verbs that change something.

    Args:
        keys: the queues' keys.
        tasks: the tasks.
        inflight: the slots.
        fetcher: the queues that are served.
        executor: limits, and what runs.
        resize: gives the worker another number of slots.
        stop: begins to stop the worker.
        serves: told of a queue before the worker begins to serve it.
    """

    keys: Keys
    tasks: Registry
    inflight: Inflight
    fetcher: Fetcher
    executor: Executor
    resize: Callable[[int], None]
    stop: Callable[[], None]
    serves: Callable[[str], None]

    def verbs(self) -> dict[str, Callable[..., Any]]:
        """Each verb by its name."""
        verbs = (
            self.shutdown,
            self.pool_grow,
            self.pool_shrink,
            self.add_consumer,
            self.cancel_consumer,
            self.rate_limit,
            self.time_limit,
            self.cancel,
        )
        return {verb.__name__: verb for verb in verbs}

    def shutdown(self) -> dict[str, Any]:
        """Stop as at a SIGTERM: claim nothing more, give back what has not started, let what runs end."""
        self.stop()
        return {"stopping": True, "running": self.inflight.running}

    def pool_grow(self, n: int = 1) -> dict[str, int]:
        """Run so many more jobs at once."""
        whole("n", n, 1, MOST_SLOTS - self.inflight.slots)
        return self._resized(self.inflight.slots + n)

    def pool_shrink(self, n: int = 1) -> dict[str, int]:
        """Run so many fewer jobs at once, but at least one; what runs goes on."""
        whole("n", n, 1)
        return self._resized(max(1, self.inflight.slots - n))

    async def add_consumer(self, queue: str) -> dict[str, Any]:
        """Serve another queue as well."""
        keys = self.keys.queue(queue)
        self.serves(keys.name)  # first: if the process dies right after, its supervisor knows of the queue
        changed = await self.fetcher.serve(keys)
        return {"changed": changed, "queues": [keys.name for keys in self.fetcher.served]}

    async def cancel_consumer(self, queue: str) -> dict[str, Any]:
        """Claim no more from a queue, and give back what is held of it; what runs goes on."""
        changed = await self.fetcher.drop(self.keys.queue(queue))
        return {"changed": changed, "queues": [keys.name for keys in self.fetcher.served]}

    def rate_limit(self, task: str, rate: str | float | None) -> dict[str, Any]:
        """Start no more jobs of a task in a time than this; ``0`` or ``none`` lifts the limit."""
        name = self._known(task)
        self.executor.rates.set(name, rate)
        return {"task": name, "rate_limit": self.executor.rates.text(name)}

    def time_limit(self, task: str, soft: float | None, hard: float | None = None) -> dict[str, Any]:
        """Give a task other time limits in seconds, from its next job on; None is no limit."""
        name = self._known(task)
        check_time_limits(hard, soft)
        self.executor.overrides[name] = (soft, hard)
        return {"task": name, "soft_time_limit": soft, "time_limit": hard}

    def cancel(
        self,
        id: str | list[str],  # noqa: A002 - the argument's name on the channel
        terminate: bool = False,
        queue: str | None = None,
    ) -> dict[str, bool | list[str]]:
        """Interrupt a job that runs here, and do not start one that is held; of several, give the ids of those."""
        several = isinstance(id, list)
        ids = [check_job_id(each) for each in (id if isinstance(id, list) else [id])]
        if not isinstance(terminate, bool):
            raise ConfigError(f"terminate {terminate!r}: true or false")
        found = [each for each in ids if self.executor.cancel(each, queue, terminate=terminate)]
        return {"cancelled": found if several else bool(found)}

    def _resized(self, slots: int) -> dict[str, int]:
        before = self.inflight.slots
        self.resize(slots)
        return {"slots": self.inflight.slots, "was": before}

    def _known(self, name: str) -> str:
        task = self.tasks.find(str(name))
        if task is None:
            raise ConfigError(f"task {name!r}: no task of that name is known here")
        return task.name
