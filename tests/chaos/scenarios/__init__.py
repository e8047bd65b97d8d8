"""All scenarios, in the order in which they are played: from the largest stage to the smallest."""

from . import cluster, network, results, sentinel, server, workers

SCENARIOS = [
    *cluster.SCENARIOS,
    *sentinel.SCENARIOS,
    *network.SCENARIOS,
    *server.SCENARIOS,
    *results.SCENARIOS,
    *workers.SCENARIOS,
]
