"""All scenarios, in the order in which they are played."""

from . import network, server, workers

SCENARIOS = [*workers.SCENARIOS, *server.SCENARIOS, *network.SCENARIOS]
