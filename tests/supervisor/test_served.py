"""ServedApp: what processes have told of their app, and nothing more until it is needed."""

import json
import subprocess
import sys

from rqueue import RQueue
from rqueue.config import WorkerConfig
from rqueue.supervisor.custody import introduction
from rqueue.supervisor.served import ServedApp

# What a supervisor loads before anything has to be done in Redis.
SMALL = """
import sys
import rqueue.supervisor.takeover
large = {"redis", "hiredis", "typer", "rich", "anyio", "uvloop", "rqueue.app", "rqueue.client", "random", "pathlib"}
print(*sorted(large & set(sys.modules)))
"""


def served(app):
    config = WorkerConfig(queues=("default",))
    return ServedApp(json.loads(json.dumps(introduction(app, config))), config)


def names(custody):
    return [keys.name for keys in custody._queues]


def test_a_supervisor_begins_without_redis_and_without_the_commands():
    done = subprocess.run([sys.executable, "-c", SMALL], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


async def test_its_custody_is_one_and_serves_what_was_told_before_and_after(url):
    app = served(RQueue(url))
    app.serve(["email"])
    custody = app.custody()
    app.serve(["email", "reports"])
    assert app.custody() is custody
    assert names(custody) == ["default", "email", "reports"]
    await app.close()


async def test_one_that_was_never_needed_closes(url):
    app = served(RQueue(url))
    await app.close()
    assert app.users == 0
