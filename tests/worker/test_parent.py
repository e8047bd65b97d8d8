"""parent: what a worker tells whoever keeps its process; nobody has all of it too, and does nothing."""

import inspect

import pytest

from rqueue.cli.child import Supervised
from rqueue.errors import ConfigError
from rqueue.wire.keys import Keys
from rqueue.wire.message import Header, Message
from rqueue.worker.board import Figures
from rqueue.worker.inflight import ClaimedJob
from rqueue.worker.parent import Nobody, Parent


def methods(kind):
    return {
        name: list(inspect.signature(method).parameters)
        for name, method in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_")
    }


def test_every_parent_has_the_same_methods():
    assert methods(Parent) == methods(Nobody)
    assert methods(Parent).items() <= methods(Supervised).items()


def test_nobody_keeps_nothing_and_replaces_nothing():
    assert (Nobody.keeps_lease, Nobody.replaces) == (False, False)


async def test_nobody_can_be_told_everything_and_says_that_there_is_no_supervisor():
    nobody = Nobody()
    job = ClaimedJob(Keys().queue("q"), "w", Message.build(Header(id="a"), b"{}"), "a", rank=5)
    nobody.registering("host:1:a")
    nobody.serves("q")
    nobody.report(Figures(), b"card")
    nobody.began(job)
    nobody.ended(job)
    with pytest.raises(ConfigError, match="pool_grow: this worker has no supervisor"):
        await nobody.ask("pool_grow", {"n": 1})


async def test_a_worker_without_a_supervisor_keeps_its_lease_itself(app, broker, until):
    async with app.worker(lease=0.3) as worker:
        keys = broker.keys.queue("default")
        (before,) = await broker.workers(keys)
        assert before[0] == worker.id

        async def has_card():
            ((_, _, card),) = await broker.workers(keys)
            return card

        assert await until(has_card)
