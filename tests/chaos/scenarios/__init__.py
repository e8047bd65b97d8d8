"""All scenarios, in the order in which they are played."""

from . import workers

SCENARIOS = [*workers.SCENARIOS]
