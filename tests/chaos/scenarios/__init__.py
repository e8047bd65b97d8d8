"""All scenarios, in the order in which they are played."""

from . import cluster, workers

SCENARIOS = [*workers.SCENARIOS, *cluster.SCENARIOS]
