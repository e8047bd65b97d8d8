"""What every contender's tasks do, so that all do the same. Standard library only.

A body writes when it ran, when it was enqueued and in which process to the file that BENCH_RECORD names: one write of
20 bytes, the same for every contender. Appends of that size are whole, so all processes write to one file.

`work` and `hold` are for runs in which things are killed: they write a line at their start and one at their end.
"""

from __future__ import annotations

import asyncio
import os
import struct
import time
from functools import cache

NAP_S = 0.05
WORK_S = 0.01
HOLD_S = float(os.environ.get("BENCH_HOLD_S", "2"))
BURN_S = 0.005
RECORD = struct.Struct("<ddi")


@cache
def _file() -> int:
    return os.open(os.environ["BENCH_RECORD"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def record(sent: float) -> None:
    """Note that a body runs now, and when it was enqueued."""
    os.write(_file(), RECORD.pack(time.time(), sent, os.getpid()))


def tell(event: str, job: str) -> None:
    """Note that a job starts or ends here; it is on the disk when this returns."""
    os.write(_file(), f"{event} {job} {os.getpid()} {time.monotonic():.6f}\n".encode())
    os.fsync(_file())


async def noop(sent: float, payload: str = "") -> str:
    """Return the payload."""
    record(sent)
    return payload


def plain(sent: float, payload: str = "") -> str:
    """The no-op as a plain function; a contender without coroutines registers it as ``noop`` too."""
    record(sent)
    return payload


async def nap(sent: float) -> float:
    """Wait 50 ms, as a task that asks another service does."""
    record(sent)
    await asyncio.sleep(NAP_S)
    return sent


def nap_plain(sent: float) -> float:
    """The same wait as a plain function; a contender without coroutines registers it as ``nap``."""
    record(sent)
    time.sleep(NAP_S)
    return sent


def burn(sent: float) -> int:
    """Compute for 5 ms of this thread's CPU time, whatever else the machine does."""
    record(sent)
    until, total = time.thread_time() + BURN_S, 0
    while time.thread_time() < until:
        total += sum(range(1000))
    return total


async def work(sent: float, payload: str) -> int:  # noqa: ARG001  # every task of the harness has it
    """Wait 10 ms, and say so; the payload is the job's name."""
    tell("start", payload)
    await asyncio.sleep(WORK_S)
    tell("end", payload)
    return os.getpid()


def work_plain(sent: float, payload: str) -> int:  # noqa: ARG001
    """The same as a plain function; a contender without coroutines registers it as ``work``."""
    tell("start", payload)
    time.sleep(WORK_S)
    tell("end", payload)
    return os.getpid()


async def hold(sent: float, payload: str) -> int:  # noqa: ARG001
    """The same for BENCH_HOLD_S; the result says who ran it."""
    tell("start", payload)
    await asyncio.sleep(HOLD_S)
    tell("end", payload)
    return os.getpid()


def hold_plain(sent: float, payload: str) -> int:  # noqa: ARG001
    """The same as a plain function; a contender without coroutines registers it as ``hold``."""
    tell("start", payload)
    time.sleep(HOLD_S)
    tell("end", payload)
    return os.getpid()
