"""The verbs: each is one script, or one blocking command, and says what it did.

Nothing here retries and nothing decides. A :class:`~rqueue.errors.ReplyLost` means that the step may have happened;
each verb's docstring says what sending it again does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rqueue.broker.ack import Done, Settling
from rqueue.broker.calls import every, number_of, or_nothing, text_of
from rqueue.broker.cancel import Stopping
from rqueue.broker.claim import Claim, Claimed, Claiming, Stopped, fingerprint, task_names
from rqueue.broker.enqueue import Enqueued, Producing
from rqueue.broker.keep import Keeping
from rqueue.broker.promote import Scheduling, Tick
from rqueue.broker.reap import Leasing, renewal
from rqueue.broker.revive import Burying
from rqueue.broker.spool import Spooling
from rqueue.broker.survey import Survey
from rqueue.broker.upkeep import Upkeep
from rqueue.errors import BrokerError, BrokerUnavailable, ReplyLost
from rqueue.wire.keys import MAIN, QueueKeys, is_queue_name
from rqueue.wire.message import TOKEN


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much a queue holds.

    Attributes:
        waiting: by level, 0 the main list; tokens are not counted.
        scheduled, running, dead: jobs.
        workers: registered ones.
        counts: jobs by the state in which they ended, of about the last day.
        is_paused: nothing of it is claimed.
        paused_tasks: the tasks of which nothing is started.
    """

    waiting: tuple[int, ...]
    scheduled: int
    running: int
    dead: int
    workers: int
    counts: dict[str, int]
    is_paused: bool = False
    paused_tasks: tuple[str, ...] = ()

    @property
    def claimable(self) -> int:
        """Waiting jobs, as far as they may be claimed: none of a paused queue."""
        return 0 if self.is_paused else sum(self.waiting)


@dataclass(frozen=True, slots=True)
class Known:
    """What is stored of an id: its record's bytes if any, and whether it lives or is among the dead or scheduled."""

    record: bytes | None
    is_alive: bool
    is_scheduled: bool
    is_dead: bool


class Broker(Producing, Claiming, Settling, Leasing, Scheduling, Stopping, Burying, Keeping, Upkeep, Survey, Spooling):
    """The verbs on one Redis, for one event loop.

    Args:
        endpoint: where Redis is.
        keys: the keys' namespace.
    """

    async def queues(self) -> list[str]:
        """Every queue that a worker or producer has used; what is no queue's name is passed over."""
        return sorted(filter(is_queue_name, map(text_of, await self._link.call(b"SMEMBERS", self.keys.queues))))

    async def known(self, pairs: Sequence[tuple[QueueKeys, str]]) -> list[Known | BrokerError]:
        """What is stored of each id, in one round trip, or why Redis does not say.

        Whether it lives is asked before its record: a job that settles in between is then found by its record.
        """
        calls = [
            self._link.call(*command)
            for keys, job_id in pairs
            for command in (
                (b"SISMEMBER", keys.jobs, job_id),
                (b"ZSCORE", keys.scheduled, job_id),
                (b"GET", keys.result(job_id)),
                (b"HEXISTS", keys.letters, job_id),
            )
        ]
        replies = await asyncio.gather(*calls, return_exceptions=True)
        return [_known(*replies[i : i + 4]) for i in range(0, len(replies), 4)]

    async def sizes(self, keys: QueueKeys) -> Sizes:
        """How much the queue holds.

        Tokens are looked for before the lists are counted: one that comes between the two is counted as a job for a
        moment, and never hides one.
        """
        find_tokens = (b"LPOS", keys.main, TOKEN, b"RANK", -1, b"COUNT", 0, b"MAXLEN", 1000)
        asked = [self._link.call(*find_tokens), *(self._link.call(b"LLEN", name) for name in keys.lists)]
        asked += [
            self._link.call(b"ZCARD", keys.scheduled),
            self._link.call(b"ZCARD", keys.dead),
            self._link.call(b"HGETALL", keys.counts),
            self._link.call(b"ZRANGE", keys.workers, 0, -1),
            self._link.call(b"ZMSCORE", keys.stops, b"queue", b"all"),
            self._link.call(b"ZRANGEBYLEX", keys.stops, b"[task:", b"(task;"),
        ]
        tokens, *waiting, scheduled, dead, counts, workers, pauses, tasks = await every(asked)
        waiting[MAIN] = max(0, waiting[MAIN] - len(tokens))
        processing = [keys.processing(worker.decode("utf-8", "surrogateescape")) for worker in workers]
        heads = asyncio.gather(*(or_nothing(self._link.call(b"LINDEX", name, 0), None) for name in processing))
        held = asyncio.gather(*(or_nothing(self._link.call(b"LLEN", name), 0) for name in processing))
        running = [max(0, n - (head == TOKEN)) for head, n in zip(await heads, await held, strict=True)]
        return Sizes(
            waiting=tuple(waiting),
            scheduled=scheduled,
            running=sum(running),
            dead=dead,
            workers=len(workers),
            counts={
                text_of(state): number
                for state, value in zip(counts[::2], counts[1::2], strict=True)
                if (number := number_of(value)) is not None
            },
            is_paused=pauses != [None, None],
            paused_tasks=tuple(task_names(tasks)),
        )

    async def workers(self, keys: QueueKeys) -> list[tuple[str, float, bytes | None]]:
        """The queue's workers: id, seconds left of the lease, and what the worker says of itself."""
        flat = await self._link.call(b"ZRANGE", keys.workers, 0, -1, b"WITHSCORES")
        names = [name.decode("utf-8", "surrogateescape") for name in flat[::2]]
        if not names:
            return []
        cards = await self._link.call(b"MGET", *(keys.card(name) for name in names))
        now = self.clock.now_ms()
        return [
            (name, (float(end) - now) / 1000, card) for name, end, card in zip(names, flat[1::2], cards, strict=True)
        ]


def _known(is_alive: Any, due: Any, record: Any, is_dead: Any) -> Known | BrokerError:
    for reply in (is_alive, due, record, is_dead):
        if isinstance(reply, BrokerUnavailable):
            raise reply
        if isinstance(reply, BrokerError):
            return reply
    return Known(record, bool(is_alive), due is not None, bool(is_dead))


__all__ = [
    "Broker",
    "Claim",
    "Claimed",
    "Done",
    "Enqueued",
    "Known",
    "ReplyLost",
    "Sizes",
    "Stopped",
    "Tick",
    "fingerprint",
    "renewal",
]
