"""huey's app and tasks, for its workers and its producer."""

from __future__ import annotations

import os

from huey import RedisHuey

from benchmarks import bodies

huey = RedisHuey("bench", url=os.environ["BENCH_URL"], notify_result="BENCH_NOTIFY" in os.environ)

noop = huey.task(name="noop")(bodies.plain)
nap = huey.task(name="nap")(bodies.nap_plain)
