"""The app that rqueue's workers load."""

from __future__ import annotations

import os

from benchmarks import bodies
from rqueue import RQueue
from rqueue.config import Results

SPOOL_BYTES = 4 * 1024**3
"""Nothing is to be left out while the store is away: what is measured is whether the workers go on."""


def make_app(url: str) -> RQueue:
    """The app at that URL, with the result store that the environment names."""
    store = os.environ.get("BENCH_RESULTS")
    made = RQueue(url, results=Results(store, spool_bytes=SPOOL_BYTES) if store else None)
    for body in (bodies.noop, bodies.plain, bodies.nap, bodies.nap_plain, bodies.burn, bodies.work, bodies.hold):
        made.task(name=body.__name__)(body)
    return made


app = make_app("redis://localhost:6379/0")  # the workers are told another URL by their environment
