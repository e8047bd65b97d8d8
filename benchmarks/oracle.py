"""What happened, by the log that the tasks wrote themselves, and where Redis keeps what has not been done.

The log is not in Redis, and each line is on the disk before the task goes on: a process that is killed cannot take it
along.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import redis

NAME = re.compile(rb"job-\d{6}")
AT_ONCE = 1000


class Line(NamedTuple):
    """A task's start or end."""

    job: str
    pid: int
    at: float
    """By the machine's monotonic clock, which is the same in all processes."""


class Oracle:
    """The log, as far as it has been read."""

    def __init__(self, path: Path) -> None:
        self._log = path.open("rb")
        self._rest = b""
        self.starts: dict[str, list[Line]] = {}
        self.ends: dict[str, list[Line]] = {}
        self.lives: dict[int, float] = {}
        """When each process started its first job."""

    def close(self) -> None:
        """Read no more."""
        self._log.close()

    def read(self) -> None:
        """Read what has been written since."""
        whole, _, self._rest = (self._rest + self._log.read()).rpartition(b"\n")
        for text in whole.decode().splitlines():
            event, job, pid, at = text.split()
            line = Line(job, int(pid), float(at))
            (self.starts if event == "start" else self.ends).setdefault(job, []).append(line)
            self.lives.setdefault(line.pid, line.at)

    def enders(self, job: str) -> list[int]:
        """The processes in which a job has ended, one for each time."""
        return [line.pid for line in self.ends.get(job, [])]

    def touched_in(self, pids: Iterable[int], since: float) -> list[str]:
        """Jobs that have started in these processes, and have not ended there or not before that moment."""
        own = set(pids)
        return [
            job
            for job, starts in self.starts.items()
            for pid in own.intersection(line.pid for line in starts)
            if not any(line.pid == pid and line.at < since for line in self.ends.get(job, []))
        ]

    def open_in(self, pids: Iterable[int]) -> list[str]:
        """Jobs that have started in these processes and not ended there."""
        own = set(pids)
        return [
            job
            for job, starts in self.starts.items()
            if own.intersection(line.pid for line in starts).difference(self.enders(job))
        ]

    def doubled(self, jobs: Iterable[str]) -> list[str]:
        """Those that ended more than once."""
        return [job for job in jobs if len(self.enders(job)) > 1]


def whereabouts(server: redis.Redis, jobs: Iterable[str], places: Mapping[str, str]) -> dict[str, str]:
    """Where each of these jobs is; nothing of those that are in no place.

    A job is where its name is. Some queues keep its name in a record of its own and only the record's id in their
    lists: then it is where that id is.
    """
    wanted, found, ids = set(jobs), dict[str, set[str]](), dict[bytes, str]()
    held = {key: list(_content(server, key)) for key in server.scan_iter(count=AT_ONCE)}
    for key, content in held.items():
        for name in {each.decode() for text in content for each in NAME.findall(text)} & wanted:
            if place := _place(key, places):
                found.setdefault(name, set()).add(place)
            else:
                ids |= {key: name, key.rpartition(b":")[2]: name}
    for key, content in held.items():
        if place := _place(key, places):
            for name in {ids[text] for text in content if text in ids}:
                found.setdefault(name, set()).add(place)
    return {job: " and ".join(sorted(each)) for job, each in found.items()}


def _place(key: bytes, places: Mapping[str, str]) -> str | None:
    return next((place for pattern, place in places.items() if re.match(pattern, key.decode())), None)


def _content(server: Any, key: bytes) -> Iterator[bytes]:
    """Everything that is in a key, as pieces."""
    match server.type(key):
        case b"string":
            yield server.get(key) or b""
        case b"list":
            yield from server.lrange(key, 0, -1)
        case b"set":
            yield from server.smembers(key)
        case b"zset":
            yield from server.zrange(key, 0, -1)
        case b"hash":
            for field, value in server.hgetall(key).items():
                yield from (field, value)
        case b"stream":
            for _, fields in server.xrange(key):
                yield from fields.values()
