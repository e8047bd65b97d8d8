"""taskiq's brokers and tasks, for its workers and its producer."""

from __future__ import annotations

import os

from taskiq.serializers import ORJSONSerializer
from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend, RedisStreamBroker

from benchmarks import bodies

url = os.environ["BENCH_URL"]
kind = RedisStreamBroker if os.environ["BENCH_BROKER"] == "stream" else ListQueueBroker
results = RedisAsyncResultBackend(url, result_ex_time=600, serializer=ORJSONSerializer(), prefix_str="result")
# From redis-py 8 on sockets time out, which would end the worker's wait for jobs, and with it the worker.
broker = kind(url, socket_timeout=None).with_result_backend(results).with_serializer(ORJSONSerializer())

noop = broker.task(task_name="noop")(bodies.noop)
nap = broker.task(task_name="nap")(bodies.nap)
