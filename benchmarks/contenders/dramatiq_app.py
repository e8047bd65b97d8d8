"""Dramatiq's broker and actors, for its workers and its producer."""

from __future__ import annotations

import os

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends.redis import RedisBackend

from benchmarks import bodies

broker = RedisBroker(url=os.environ["BENCH_URL"])
broker.add_middleware(Results(backend=RedisBackend(url=os.environ["BENCH_URL"]), store_results=True))
dramatiq.set_broker(broker)

noop = dramatiq.actor(bodies.plain, actor_name="noop")
nap = dramatiq.actor(bodies.nap_plain, actor_name="nap")
burn = dramatiq.actor(bodies.burn, actor_name="burn")
