"""The heart beats by itself: a thread renews the lease, so that a task that blocks the event loop costs no job.

It names what blocks the loop for longer than a second, and stops when the loop has not moved for ``max_loop_stall_s``:
then the lease runs out and the jobs go elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from rqueue.broker.endpoint import Endpoint
from rqueue.broker.pulse import Pulse
from rqueue.log import Recurring, event
from rqueue.policy.clock import elapsed_s, local_ms
from rqueue.wire.keys import QueueKeys
from rqueue.worker.inflight import Signals
from rqueue.worker.lease import Lease

BLOCKED_S = 1.0
_WATCH_S = 0.5
_RETRY_S = 1.0
_STALLS_KEPT = 10


@dataclass(slots=True)
class Stall:
    """A time in which the event loop did not move.

    Attributes:
        at_ms: when it was noticed, on this machine's clock, ms since the epoch.
        seconds: how long it had lasted when it was last looked at.
        where: what ran then: file, line, function.
    """

    at_ms: int
    seconds: float
    where: str


class Heart:
    """Renews a lease from a thread.

    Args:
        endpoint: where Redis is; the heart has a connection of its own.
        queues: the queues of the worker.
        lease: the lease.
        signals: woken after each renewal and at a loss.
        card: what the worker says of itself, asked at each beat.
        max_loop_stall_s: it stops when the event loop has not moved for so long.
        is_renewed_elsewhere: asked at each beat: true while a supervisor renews the lease.

    Attributes:
        stalls: how often the event loop was blocked for a second.
        last_stalls: the last few of these.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        queues: Sequence[QueueKeys],
        lease: Lease,
        signals: Signals,
        card: Callable[[], bytes],
        max_loop_stall_s: float,
        is_renewed_elsewhere: Callable[[], bool] = lambda: False,
    ) -> None:
        self._is_renewed_elsewhere = is_renewed_elsewhere
        self._endpoint, self._queues, self._lease, self._signals = endpoint, queues, lease, signals
        self._card, self._max_loop_stall_s = card, max_loop_stall_s
        self.stalls = 0
        self.last_stalls: deque[Stall] = deque(maxlen=_STALLS_KEPT)
        self._stop = threading.Event()
        self._moved_s = elapsed_s()
        self._waits = Recurring()
        self._failing_s: float | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread = 0
        self._thread = threading.Thread(target=self._run, name="rqueue heart", daemon=True)

    async def run(self) -> None:
        """Beat, and tell the thread that the loop moves, until cancelled."""
        self._loop, self._loop_thread = asyncio.get_running_loop(), threading.get_ident()
        self._thread.start()
        try:
            while True:
                self._moved_s = elapsed_s()
                await asyncio.sleep(_WATCH_S)
        finally:
            self._stop.set()
            # Not waited for: it may be in a renewal whose reply takes seconds, and it is a daemon.

    def _run(self) -> None:
        beat_s = self._lease.lease_s / 3
        pulse = Pulse(self._endpoint, timeout_s=max(beat_s, 1.0))
        next_s, named = elapsed_s() + 0.001, False
        while not self._stop.wait(_pause_s(next_s)):
            stalled_s = elapsed_s() - self._moved_s
            if stalled_s < BLOCKED_S:
                named = False
            elif not named:
                named = True
                self._name_blocker(stalled_s)
            else:
                self.last_stalls[-1].seconds = round(stalled_s, 1)
            if self._is_renewed_elsewhere():
                next_s = elapsed_s() + beat_s
            elif elapsed_s() >= next_s and stalled_s < self._max_loop_stall_s:
                next_s = elapsed_s() + (beat_s if self._beat(pulse) else min(_RETRY_S, beat_s))
        pulse.close()

    def _beat(self, pulse: Pulse) -> bool:
        """Renew once; false when Redis could not be asked."""
        worker, sent_s = self._lease.worker, elapsed_s()
        try:
            is_registered = pulse.renew(self._queues, worker, self._lease.lease_s, self._card())
        except Exception as exc:  # noqa: BLE001 - whatever it is, the heart goes on
            self._waits.event(logging.WARNING, "lease not renewed", worker=worker, error=str(exc) or repr(exc))
            self._failing_s = self._failing_s or sent_s
            return False
        if self._failing_s is not None:
            event(logging.INFO, "redis answers again", worker=worker, after_s=round(elapsed_s() - self._failing_s, 1))
            self._failing_s = None
        with suppress(RuntimeError):  # the loop was closed meanwhile
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self.told, worker, sent_s, is_registered)
        return True

    def told(self, worker: str, sent_s: float, is_registered: bool) -> None:
        """What Redis said of the lease, in the loop's own thread.

        A worker that goes on under a new id meanwhile has a lease of its own.
        """
        if worker != self._lease.worker:
            return
        if is_registered:
            self._lease.renewed(sent_s)
        else:
            self._lease.is_lost = True
            self._signals.fetch.set()
        self._signals.execute.set()

    def _name_blocker(self, stalled_s: float) -> None:
        frame = sys._current_frames().get(self._loop_thread)  # noqa: SLF001 - the documented way to another thread's stack
        stack = "".join(traceback.format_stack(frame)[-4:]) if frame is not None else ""
        last = traceback.extract_stack(frame)[-1] if frame is not None else None
        where = f"{last.filename}:{last.lineno} in {last.name}" if last is not None else "unknown"
        self.stalls += 1
        self.last_stalls.append(Stall(local_ms(), round(stalled_s, 1), where))
        event(
            logging.WARNING,
            "event loop blocked",
            worker=self._lease.worker,
            seconds=round(stalled_s, 1),
            stack=stack,
        )


def _pause_s(next_s: float) -> float:
    """Seconds until the next look: at the beat, or sooner, to watch the loop; a beat that is held back is overdue."""
    left_s = next_s - elapsed_s()
    return min(_WATCH_S, left_s) if left_s > 0 else _WATCH_S
