"""What a worker process says to its supervisor without a word: a page of memory that both have.

The worker writes, the supervisor reads: also while the worker stands still, holds the interpreter's lock, or is dead.
Nothing here costs a system call, so it may be written at each job's start.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

_HEAD: Final = struct.Struct("<ddQQI")
_SLOT: Final = struct.Struct("<dBB")
_TEXT_BYTES: Final = 192  # an id has at most 128 characters, a queue's name 64
_SLOT_BYTES: Final = _SLOT.size + _TEXT_BYTES
_CARD_AT: Final = 128
_CARD_BYTES: Final = 3968
_QUESTION_AT: Final = _CARD_AT + _CARD_BYTES
_SLOTS_AT: Final = _QUESTION_AT + _SLOT_BYTES


def new_file(name: str) -> int:
    """An empty file that has no path, and is closed when a program takes the place of this one."""
    if hasattr(os, "memfd_create"):  # memory, even where the disk is full
        return os.memfd_create(name)
    import tempfile

    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class Figures(NamedTuple):
    """A worker process in numbers.

    Attributes:
        moved_s: when its event loop last moved, by :func:`~rqueue.policy.clock.elapsed_s`.
        ready_s: when it began to work, 0 before that.
        started: jobs that it has started.
        rss: bytes of memory.
        running: jobs that run.
    """

    moved_s: float = 0.0
    ready_s: float = 0.0
    started: int = 0
    rss: int = 0
    running: int = 0


class Noted(NamedTuple):
    """A running job: until when what is noted of it holds, by ``elapsed_s``, its queue and its id."""

    until_s: float
    queue: str
    id: str


class Board:
    """The page.

    Args:
        fd: the file that both have mapped; a new one without a name when it is None.
        slots: jobs with a time limit that can be noted at once; further ones are not.
    """

    def __init__(self, fd: int | None = None, slots: int = 1024) -> None:
        size = _SLOTS_AT + slots * _SLOT_BYTES
        self.fd = new_file("rqueue board") if fd is None else fd
        try:
            if fd is None:
                os.ftruncate(self.fd, size)
            self._page = mmap.mmap(self.fd, size)
        except BaseException:
            os.close(self.fd)
            raise
        self._slots = slots
        self._free = list(range(slots - 1, -1, -1))

    def write(self, figures: Figures, card: bytes) -> None:
        """Write how the worker is, and what it says of itself."""
        _HEAD.pack_into(self._page, 0, *figures)
        if len(card) <= _CARD_BYTES - 2:
            self._page[_CARD_AT : _CARD_AT + 2 + len(card)] = struct.pack("<H", len(card)) + card

    def read(self) -> Figures:
        """How the worker is."""
        return Figures(*_HEAD.unpack_from(self._page, 0))

    def card(self) -> bytes:
        """What the worker says of itself, b'' before it has."""
        (length,) = struct.unpack_from("<H", self._page, _CARD_AT)
        return self._page[_CARD_AT + 2 : _CARD_AT + 2 + length]

    def limit(self, job: Noted) -> int | None:
        """A job with a time limit starts; it must have ended by then. Gives the note's number, None when all are taken.

        Its id is no name for the note: a job whose lease was lost may run twice in a process, the old run beside the
        new one.
        """
        if not self._free:
            return None
        slot = self._free.pop()
        self._write(_SLOTS_AT + slot * _SLOT_BYTES, job)
        return slot

    def forget(self, slot: int | None) -> None:
        """It is over."""
        if slot is not None:
            _SLOT.pack_into(self._page, _SLOTS_AT + slot * _SLOT_BYTES, 0.0, 0, 0)
            self._free.append(slot)

    def overdue(self, now_s: float) -> Iterator[Noted]:
        """The jobs whose time is up."""
        for place in range(_SLOTS_AT, _SLOTS_AT + self._slots * _SLOT_BYTES, _SLOT_BYTES):
            until_s, _, _ = _SLOT.unpack_from(self._page, place)
            if 0 < until_s < now_s:
                yield self._read(place)

    def question(self, job: Noted) -> None:
        """A job that has cost a worker starts: if the process dies before then, this job is to blame."""
        self._write(_QUESTION_AT, job)

    def questioned(self, now_s: float) -> Noted | None:
        """The job that is to blame if the process dies now."""
        noted = self._read(_QUESTION_AT)
        return noted if now_s < noted.until_s else None

    def _write(self, place: int, job: Noted) -> None:
        """Write a note; its time comes last, so that a half-written one has none."""
        queue, job_id, text = job.queue.encode(), job.id.encode(), place + _SLOT.size
        _SLOT.pack_into(self._page, place, 0.0, 0, 0)
        self._page[text : text + len(queue) + len(job_id)] = queue + job_id
        _SLOT.pack_into(self._page, place, job.until_s, len(queue), len(job_id))

    def _read(self, place: int) -> Noted:
        until_s, queue, job_id = _SLOT.unpack_from(self._page, place)
        text = place + _SLOT.size
        name, end = self._page[text : text + queue].decode(), text + queue + job_id
        return Noted(until_s, name, self._page[text + queue : end].decode())

    def close(self) -> None:
        """Let the page go."""
        self._page.close()
        os.close(self.fd)
