"""Writes what running jobs say of their progress. It alone keeps that a job that says much writes little.

While one write of a job is under way only the newest waits, and what was said last goes into the record with which the
job ends or is retried. A write that Redis refuses, or cannot be asked for, changes nothing for the job.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Final

from rqueue.broker.broker import Broker
from rqueue.errors import BrokerError, BrokerUnavailable, MessageTooLarge
from rqueue.log import event
from rqueue.wire import codec
from rqueue.wire.message import Call
from rqueue.worker.inflight import ClaimedJob, Phase, describe
from rqueue.worker.judge import RETRY_RECORD_TTL_S, Judge

_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 1.0

Spawn = Callable[[Callable[[], Coroutine[Any, Any, None]]], "Future[None]"]


class Progress:
    """Takes jobs' progress from any thread, and writes it.

    Args:
        judge: makes the record.
        broker: gives what to write with, in the loop in which that is done; None: nothing is written before the end.
        spawn: runs a coroutine function in that loop; called from any thread.
    """

    def __init__(self, judge: Judge, broker: Callable[[], Broker] | None = None, spawn: Spawn | None = None) -> None:
        self._judge, self._broker, self._spawn = judge, broker, spawn
        self._lock = threading.Lock()
        self._writing: dict[ClaimedJob, Future[None] | None] = {}
        self._is_troubled = False

    def reporter(self, job: ClaimedJob, call: Call) -> Callable[[dict[str, Any]], None]:
        """What takes the progress of one run.

        Raises (when it is called):
            TypeError: it is not JSON.
            MessageTooLarge: over ``max_message_bytes``.
        """
        last_ms = 0

        def report(progress: dict[str, Any]) -> None:
            nonlocal last_ms
            # A correction of the clock must not make a later report look like an earlier one.
            last_ms = max(last_ms, self._judge.now_ms())
            data = codec.dumps({**progress, "at": last_ms})
            limit = self._judge.limits.max_message_bytes
            if len(data) > limit:
                raise MessageTooLarge(
                    f"{call.task}: the progress has {len(data):,} bytes, max_message_bytes is {limit:,}"
                )
            with self._lock:
                job.progress = data
                if self._spawn is None or job in self._writing or job.phase is not Phase.RUNNING:
                    return
                self._writing[job] = None
            self._begin(job, call, self._spawn)

        return report

    def close(self) -> None:
        """Write no more."""
        for future in list(self._writing.values()):
            if future is not None:
                future.cancel()

    def _begin(self, job: ClaimedJob, call: Call, spawn: Spawn) -> None:
        try:
            future = spawn(lambda: self._write(job, call))
        except Exception as exc:  # noqa: BLE001 - the loop is gone, or about to be: the job goes on
            self._writing.pop(job, None)
            self._log(job, exc)
            return
        with self._lock:
            if job in self._writing:
                self._writing[job] = future

    async def _write(self, job: ClaimedJob, call: Call) -> None:
        """Write the newest until nothing newer waits; what the end overtakes is in the end's own record."""
        assert self._broker is not None
        broker, written, pause_s = self._broker(), None, _FIRST_PAUSE_S
        while True:
            with self._lock:
                newest = job.progress
                if newest is written or job.phase is not Phase.RUNNING:
                    self._writing.pop(job, None)
                    return
                record = self._judge.started(job, call)
            try:
                await self._track(broker, job, record)
                written, pause_s, self._is_troubled = newest, _FIRST_PAUSE_S, False
            except BrokerUnavailable as exc:
                self._log(job, exc)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            except Exception as exc:  # noqa: BLE001 - whatever it is, the job goes on
                self._log(job, exc)
                written = newest

    async def _track(self, broker: Broker, job: ClaimedJob, record: bytes) -> None:
        raw, ttl_s, early = job.message.raw, RETRY_RECORD_TTL_S, job.is_settled_early
        # A claim that is lost is the settle's to report.
        await broker.track(job.keys, job.worker, job.id, raw, record, ttl_s, is_settled_early=early)

    def _log(self, job: ClaimedJob, error: Exception) -> None:
        """Say once that progress is not seen, until it is again."""
        if not self._is_troubled:
            self._is_troubled = True
            level = logging.WARNING if isinstance(error, BrokerError) else logging.ERROR
            event(level, "progress is not written", **describe(job) | {"error": str(error) or repr(error)})
