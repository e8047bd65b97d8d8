"""The table of claimed jobs, and the events that the services share. It alone knows what this process holds."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import count
from typing import Any

from rqueue.policy.clock import elapsed_s
from rqueue.policy.pace import Pace
from rqueue.wire.keys import MAIN, QueueKeys
from rqueue.wire.message import Message
from rqueue.worker.interrupt import Driven, FunctionRun
from rqueue.worker.life import Life
from rqueue.worker.outcome import Outcome, Settlement


class Phase(Enum):
    """How far a claimed job is."""

    HELD = 1
    RUNNING = 2
    SETTLING = 3
    GONE = 4


@dataclass(eq=False, slots=True)
class ClaimedJob:
    """A claimed message and what goes on with it.

    Attributes:
        keys: its queue.
        worker: the worker's id at the claim: only that id may settle it.
        message: the message.
        id: the job's id.
        rank: its list's priority.
        phase: how far it is.
        is_settled_early: it left the processing list before it started (``acks_late=False``).
        ticket: its number among the held jobs.
        held_s: since when it is held, on this machine's clock of elapsed time.
        started_s, started_ms: when it started, on this machine's clock of elapsed time, and on Redis's.
        ended_s: when its run ended, on this machine's clock of elapsed time; 0 not yet.
        task: the running asyncio task.
        run: what of it runs and can be interrupted by more than a cancellation of its asyncio task.
        deadline_s: when its time is up, on this machine's clock of elapsed time; None never.
        verdict: how it ends, whatever it returns or raises: its time is up, or it was cancelled.
        is_stuck: it was settled so, and has not ended: it keeps its slot.
        is_interrupted: this worker cancelled it to shut down.
        seen: what log lines say of it beside its id: task, seconds, error.
        unique: the lock that its enqueue has taken: when it is given up, and its name; None for none.
        progress: how far it said it is, as JSON, or None.
        report: takes what it says of its progress, or None.
        outcome: how its run ended; kept only for those who are told of it.
    """

    keys: QueueKeys
    worker: str
    message: Message
    id: str
    rank: int
    phase: Phase = Phase.HELD
    is_settled_early: bool = False
    ticket: int = -1
    held_s: float = 0.0
    started_s: float = 0.0
    started_ms: int | None = None
    ended_s: float = 0.0
    task: asyncio.Task[None] | None = None
    run: Driven | FunctionRun | None = None
    deadline_s: float | None = None
    verdict: Outcome | None = None
    is_stuck: bool = False
    is_interrupted: bool = False
    seen: dict[str, Any] = field(default_factory=dict)
    unique: Sequence[str] | None = None
    progress: bytes | None = None
    report: Callable[[dict[str, Any]], None] | None = None
    outcome: Outcome | None = None

    @property
    def level(self) -> int:
        """The list it goes back to."""
        return self.message.header.level


@dataclass(slots=True)
class Signals:
    """Events that the services share.

    Attributes:
        fetch: there may be room, or something to fetch.
        execute: there may be something to start.
        settle: there is something to settle.
        promote: the next due time may be another one.
        idle: nothing is claimed here, and the last claim found nothing.
    """

    fetch: asyncio.Event = field(default_factory=asyncio.Event)
    execute: asyncio.Event = field(default_factory=asyncio.Event)
    settle: asyncio.Event = field(default_factory=asyncio.Event)
    promote: asyncio.Event = field(default_factory=asyncio.Event)
    idle: asyncio.Event = field(default_factory=asyncio.Event)


QUESTION_S = 1.0
"""How long a job that has cost a worker must have run before another of its kind starts beside it."""

_EARLY_S = 0.01  # uvloop's timers fire up to a millisecond early: too early to see that the question is over

_Entry = tuple[int, int, ClaimedJob]


class Inflight:
    """What this worker has claimed.

    Args:
        slots: jobs that run at once.
        most: jobs that are held and run at most, together.
        life: how many may still be started.
        settles_first: nothing starts while an earlier job's end is not settled.

    Attributes:
        stuck: jobs that were settled and did not end; each keeps its slot.
        claimed: jobs that were held so far; it only grows.
        exclusive: the job that must run with nothing else in the process, while there is one.
        paused_tasks: the paused tasks of each queue that has some, as of the last claim.
        question_ends_s: until when no second job that has cost a worker starts.
        is_backed_up: too many have ended and are not recorded yet: nothing more is claimed.
    """

    def __init__(self, slots: int, most: int, life: Life | None = None, *, settles_first: bool = False) -> None:
        self.slots, self.most, self._settles_first = slots, most, settles_first
        self.life = life or Life()
        self.signals = Signals()
        self.pace = Pace(slots)
        self.outbox: list[tuple[ClaimedJob, Settlement, asyncio.Future[bool] | None]] = []
        self._jobs: set[ClaimedJob] = set()
        self._held: tuple[list[_Entry], list[_Entry]] = ([], [])  # unsuspected, and those that have cost a worker
        self._number = count()
        self._held_count = 0
        self.running = 0
        self.stuck = 0
        self.claimed = 0
        self.exclusive: ClaimedJob | None = None
        self._questioned: ClaimedJob | None = None
        self.question_ends_s = 0.0
        self.is_backed_up = False
        self._none_since_s = 0.0
        self.paused_tasks: dict[QueueKeys, frozenset[str]] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[ClaimedJob]:
        return iter(self._jobs)

    def resize(self, slots: int, most: int) -> None:
        """Run and hold another number from now on; what is over it ends, or goes back, in its time."""
        self.slots, self.most, self.pace.slots = slots, most, slots
        self.signals.execute.set()
        self.signals.fetch.set()

    @property
    def held(self) -> int:
        """Jobs that are claimed and have not started."""
        return self._held_count

    @property
    def idle_slots(self) -> int:
        """Slots in which a job may start."""
        if self._settles_first and len(self._jobs) > self.running + self._held_count:
            return 0
        return self.slots - self.running - self.stuck

    @property
    def free_slots(self) -> int:
        """Jobs that could start now beyond those that are held; none while one must run alone."""
        if self.exclusive is not None or self.is_backed_up or self.life.is_spent():
            return 0
        free, left = self.idle_slots + self._waiting(), self.life.left()
        return (free if left is None else min(free, left)) - self._held_count

    def room(self) -> int:
        """How many more may be claimed: what can start now, and what the measured pace allows beside it."""
        if self.exclusive is not None or self.is_backed_up or self.life.is_spent():
            return 0
        allowed = max(self.idle_slots, 0) + self.pace.allowance(elapsed_s())
        room = min(allowed + self._waiting(), self.most - self.running) - self._held_count
        left = self.life.left()
        return room if left is None else min(room, left - self._held_count)

    def _waiting(self) -> int:
        """Jobs that are held for their turn to be questioned: they must not keep others from the free slots."""
        return sum(map(self._is_held, self._held[1])) if self.is_questioning() else 0

    def is_questioning(self) -> bool:
        """True while a job that has cost a worker has just started: no second of its kind starts beside it.

        If the process dies now, it alone is charged; see :func:`rqueue.policy.redelivery.charged`.
        """
        return self._questioned is not None and elapsed_s() < self.question_ends_s

    def hold(self, *jobs: ClaimedJob) -> None:
        """Take in claimed jobs."""
        now = elapsed_s()
        for job in jobs:
            self._push(job, now)
        self.signals.idle.clear()
        self.signals.execute.set()

    def _push(self, job: ClaimedJob, now: float) -> None:
        job.phase, job.ticket, job.held_s = Phase.HELD, next(self._number), now
        self._jobs.add(job)
        self.claimed += 1
        heapq.heappush(self._held[job.message.header.losses > 0], (-job.rank, job.ticket, job))
        self._held_count += 1

    def _is_held(self, entry: _Entry) -> bool:
        """False for what has left the heap's care: a job that was taken out and came back has a new ticket."""
        _, ticket, job = entry
        return job.phase is Phase.HELD and job.ticket == ticket

    def peek(self) -> ClaimedJob | None:
        """The job that starts next."""
        if self.life.is_spent():
            return None
        first: _Entry | None = None
        for held in self._held[:1] if self.is_questioning() else self._held:
            while held and not self._is_held(held[0]):
                heapq.heappop(held)
            if held and (first is None or held[0] < first):
                first = held[0]
        return None if first is None else first[2]

    def begin_unsuspected(self) -> list[ClaimedJob]:
        """Held jobs take the free slots, the most urgent first; none while one that has cost a worker is here.

        What is left, if anything, is for :meth:`peek` and :meth:`begin`, which look at each job.
        """
        held, suspects = self._held
        batch: list[ClaimedJob] = []
        if suspects or self.exclusive is not None or self.life.is_spent():
            return batch
        left = self.life.left()
        free = self.idle_slots if left is None else min(self.idle_slots, left)
        while held and len(batch) < free:
            _, ticket, job = heapq.heappop(held)
            if job.phase is Phase.HELD and job.ticket == ticket:
                job.phase = Phase.RUNNING
                batch.append(job)
        self._held_count -= len(batch)
        self.running += len(batch)
        self.life.started += len(batch)
        return batch

    def begin(self, job: ClaimedJob) -> None:
        """A held job takes a slot."""
        job.phase = Phase.RUNNING
        if job.message.header.losses:
            self._questioned, self.question_ends_s = job, elapsed_s() + QUESTION_S
            asyncio.get_running_loop().call_later(QUESTION_S + _EARLY_S, self.signals.execute.set)
        self._held_count -= 1
        self.running += 1
        self.life.count()

    def put_back(self, job: ClaimedJob) -> None:
        """A job that took a slot and did not start is held again; whoever calls this says when to try again."""
        self.running -= 1
        self.life.started -= 1
        self._open_to_others(job)
        self._push(job, elapsed_s())
        self.signals.idle.clear()

    def end(self, job: ClaimedJob, settlement: Settlement) -> None:
        """A running job gives its slot back and is to be settled."""
        now = elapsed_s()
        self.running -= 1
        if job is self.exclusive or job is self._questioned:
            self._open_to_others(job)
        self.pace.ended(now - job.started_s, now)
        job.ended_s, job.phase = now, Phase.SETTLING
        self.outbox.append((job, settlement, None))
        self.signals.settle.set()
        self.signals.execute.set()
        self.signals.fetch.set()

    def give_up(self, job: ClaimedJob, settlement: Settlement) -> None:
        """A running job is to be settled though it has not ended: it keeps its slot."""
        job.is_stuck = True
        self.running -= 1
        self.stuck += 1
        self.settle(job, settlement)

    def ended_late(self, job: ClaimedJob) -> None:
        """A job that was settled before it ended has ended; a stuck one gives its slot back."""
        if job.is_stuck:
            self.stuck -= 1
            self.signals.execute.set()
            self.signals.fetch.set()

    def put_off(self, job: ClaimedJob, settlement: Settlement) -> None:
        """A job that took a slot and may not start yet gives it back, and is to be settled; it says nothing of pace."""
        self.running -= 1
        self.life.started -= 1
        self.settle(job, settlement)
        self.signals.execute.set()
        self.signals.fetch.set()

    def settle(self, job: ClaimedJob, settlement: Settlement) -> None:
        """Something is to be done about a job, and it is over here; one that never ran comes straight here."""
        if job.phase is Phase.HELD:
            self._held_count -= 1
        job.phase = Phase.SETTLING
        if job is self.exclusive or job is self._questioned:
            self._open_to_others(job)
        self._jobs.add(job)
        self.outbox.append((job, settlement, None))
        self.signals.settle.set()

    def note(self, job: ClaimedJob, settlement: Settlement) -> asyncio.Future[bool]:
        """Something is to be written of a job that goes on; the future tells whether the claim still stood."""
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.outbox.append((job, settlement, future))
        self.signals.settle.set()
        return future

    def gone(self, job: ClaimedJob) -> None:
        """Nothing is left to do about a job."""
        if job.phase is Phase.HELD:
            self._held_count -= 1
        job.phase = Phase.GONE
        if job is self.exclusive or job is self._questioned:
            self._open_to_others(job)
        self._jobs.discard(job)
        self.signals.fetch.set()
        if self._settles_first:
            self.signals.execute.set()

    def _open_to_others(self, job: ClaimedJob) -> None:
        if self.exclusive is job:
            self.exclusive = None
        if self._questioned is job:
            self._questioned = None

    def overstaying(self, longest_s: float) -> int:
        """How many jobs are held for longer than that, though no slot is free for them."""
        if self.exclusive is not None:
            return 0
        before_s = elapsed_s() - longest_s
        if self._none_since_s >= before_s:
            return 0  # without a look at each
        is_full = self.idle_slots <= 0 or self.life.is_spent()
        stuck = (is_full, is_full or self.is_questioning())
        since = [[entry[2].held_s for entry in held if self._is_held(entry)] for held in self._held]
        self._none_since_s = min((each for held in since for each in held), default=before_s)
        return sum(each < before_s for held, is_stuck in zip(since, stuck, strict=True) if is_stuck for each in held)

    def take_held(
        self, excess: int | None = None, *, but: ClaimedJob | None = None, queue: QueueKeys | None = None
    ) -> list[ClaimedJob]:
        """Take out held jobs to give them back, the last to start first.

        Args:
            excess: so many; None is all.
            but: never this one.
            queue: only this queue's.
        """
        held = [each for every in self._held for each in every if self._is_held(each) and each[2] is not but]
        held = [each for each in held if queue in (None, each[2].keys)]
        # Where some may stay, those stay that can start.
        held.sort(key=lambda each: (excess is not None and each[2].message.header.losses > 0, *each[:2]), reverse=True)
        taken = [job for _, _, job in held[:excess]]
        for job in taken:
            job.phase = Phase.SETTLING
            self._held_count -= 1
        for every in self._held:
            every[:] = [entry for entry in every if self._is_held(entry)]
            heapq.heapify(every)
        return taken

    def listed(self, keys: QueueKeys, worker: str) -> list[tuple[ClaimedJob, bytes]]:
        """What should stand in that processing list."""
        return [
            (job, job.message.raw)
            for job in self._jobs
            if job.keys is keys and job.worker == worker and not job.is_settled_early
        ]

    def of(self, phase: Phase) -> list[ClaimedJob]:
        """The jobs that are so far."""
        return [job for job in self._jobs if job.phase is phase]


def describe(job: ClaimedJob) -> dict[str, Any]:
    """A job's fields for a log line."""
    about: dict[str, Any] = {"id": job.id, "queue": job.keys.name, "worker": job.worker}
    if job.level != MAIN:
        about["priority"] = job.level
    if job.ended_s:
        about["seconds"] = round(job.ended_s - job.started_s, 4)
    return about | job.seen
