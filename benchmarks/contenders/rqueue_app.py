"""The app that rqueue's workers load."""

from __future__ import annotations

from benchmarks import bodies
from rqueue import RQueue


def make_app(url: str) -> RQueue:
    """The app at that URL."""
    made = RQueue(url)
    for body in (bodies.noop, bodies.plain, bodies.nap, bodies.nap_plain, bodies.burn, bodies.work, bodies.hold):
        made.task(name=body.__name__)(body)
    return made


app = make_app("redis://localhost:6379/0")  # the workers are told another URL by their environment
