"""All scenarios, in the order in which they are played: from the largest stage to the smallest."""

from . import cluster, network, sentinel, server, workers

SCENARIOS = [
    *cluster.SCENARIOS,
    *sentinel.SCENARIOS,
    *network.SCENARIOS,
    *server.SCENARIOS,
    *workers.SCENARIOS,
]
