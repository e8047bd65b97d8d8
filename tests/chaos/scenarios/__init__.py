"""All scenarios, in the order in which they are played."""

from . import sentinel, workers

SCENARIOS = [*workers.SCENARIOS, *sentinel.SCENARIOS]
