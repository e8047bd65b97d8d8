"""All scenarios, in the order in which they are played."""

from . import cluster, network, sentinel, server, workers

SCENARIOS = [
    *workers.SCENARIOS,
    *server.SCENARIOS,
    *network.SCENARIOS,
    *sentinel.SCENARIOS,
    *cluster.SCENARIOS,
]
