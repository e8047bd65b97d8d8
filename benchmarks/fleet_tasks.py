"""The app whose workers benchmarks/fleet.py measures: small, so that their memory is rqueue's."""

from __future__ import annotations

import asyncio
import os
import time

from rqueue import RQueue

Span = tuple[int, float, float, float]
"""A run: its process id, its start and end on the machine's monotonic clock, the CPU seconds of its thread."""


async def noop(number: int) -> int:
    """It returns its argument."""
    return number


async def hang() -> None:
    """Wait until the worker is killed."""
    await asyncio.Event().wait()


def spin(loops: int) -> Span:
    """Work in pure Python: it holds the interpreter all the time."""
    start, cpu = time.monotonic(), time.thread_time()
    total = 0
    for number in range(loops):
        total += number * number
    return os.getpid(), start, time.monotonic(), time.thread_time() - cpu


async def pause(seconds: float) -> Span:
    """Work as a coroutine does: by waiting."""
    start = time.monotonic()
    await asyncio.sleep(seconds)
    return os.getpid(), start, time.monotonic(), 0.0


def make_app(url: str) -> RQueue:
    """The app at that URL."""
    made = RQueue(url)
    for function in (noop, hang, spin, pause):
        made.task(function)
    return made


app = make_app("redis://localhost:6379/0")  # the workers are told another URL by their environment
