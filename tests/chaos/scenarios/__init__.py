"""All scenarios, in the order in which they are played."""

from . import cluster, sentinel, workers

SCENARIOS = [*workers.SCENARIOS, *sentinel.SCENARIOS, *cluster.SCENARIOS]
