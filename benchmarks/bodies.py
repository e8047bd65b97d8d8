"""What every contender's tasks do, so that all do the same. Standard library only.

A body writes when it ran, when it was enqueued and in which process to the file that BENCH_RECORD names: one write of
20 bytes, the same for every contender. Appends of that size are whole, so all processes write to one file.
"""

from __future__ import annotations

import asyncio
import os
import struct
import time
from functools import cache

NAP_S = 0.05
BURN_S = 0.005
RECORD = struct.Struct("<ddi")


@cache
def _file() -> int:
    return os.open(os.environ["BENCH_RECORD"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def record(sent: float) -> None:
    """Note that a body runs now, and when it was enqueued."""
    os.write(_file(), RECORD.pack(time.time(), sent, os.getpid()))


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
