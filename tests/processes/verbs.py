"""One call of each verb, and processes that are killed in it: `python verbs.py <url>` reads lines: a verb and a window.

For each line a child is forked that calls the verb and ends itself by SIGKILL: `before` the command is sent, once it is
`sent` (it is the operating system's, and no reply has been read), or `after` the reply. Then `dead` is written.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from rqueue.broker.broker import Broker, Done, Enqueued, Tick
from rqueue.broker.endpoint import Endpoint
from rqueue.broker.keep import Kept
from rqueue.wire.keys import MAIN, Keys
from rqueue.wire.message import Header

KEYS = Keys().queue("email")
WINDOWS = ("before", "sent", "after")
PLAIN = b'{"task":"t"}'
LETTER = b'{"id":"d","reason":"failed"}\n'


def message(job_id: str, level: int = MAIN, **counts: int) -> bytes:
    return Header(level, id=job_id, **counts).encode() + PLAIN


def record(state: str) -> bytes:
    return b'{"state":"%s"}' % state.encode()


def done(job_id: str, state: str, *, is_claimed: bool = True) -> Done:
    return Done(message(job_id) if is_claimed else b"", job_id, record(state), "60")


A, B, R = (message(job_id) for job_id in "abr")

BASE: dict[str, Any] = {
    "workers": {"w": "future", "x": "past", "idle": "future"},
    "processing:w": [B],
    "started:w": {"b"},
    "processing:x": [R],
    "started:x": {"r"},
    "jobs": {"a", "b", "r", "s", "k"},
    "main": [A],
    "scheduled": {"s": "past", "k": "4102444800000.5"},
    "scheduled:messages": {"s": message("s"), "k": message("k")},
    "dead": {"d": "past"},
    "dead:letters": {"d": LETTER},
    "periodic": {"p": "past"},
    "periodic:entries": {"p": b"read"},
    "unique": {"lock": b"gone"},
}
"""Something of everything: `a` waits, `b` runs, `r` was left by a dead worker, `s` is due, `k` parked, `d` dead."""

MORE: dict[str, dict[str, Any]] = {
    "adopt": {"processing:w": [PLAIN]},
    "revoke": {"stops": {"job:b": 0}},
    "forget": {"stops": {"job:husk": 0}, "main": [A, message("husk")]},
    "resume": {"stops": {"queue": 0}, "main": [A, b"", b""]},
    "unspool": {"spool": [b"first", b"second"], "spool:bytes": b"11"},
}
"""What a verb needs beside, or in place of, the base."""

Call = Callable[[Broker], Awaitable[object]]

CALLS: dict[str, Call] = {
    "enqueue": lambda broker: broker.enqueue(
        KEYS,
        "p",
        0,
        1,
        [Enqueued("n", False, MAIN, "", message("n")), Enqueued("o", True, 3, "+60000", message("o", 3))],
    ),
    "admit": lambda broker: broker.admit(
        KEYS, "p", 0, 1, [Enqueued("n", False, MAIN, "", message("n"), "unique 0 name")]
    ),
    "tick": lambda broker: broker.tick(KEYS, _tick(broker)),
    "promote": lambda broker: broker.promote(KEYS),
    "unpark": lambda broker: broker.unpark(KEYS, [("k", 1)]),
    "claim": lambda broker: broker.claim([KEYS], [5], "w", 30, 10, 10_000),
    "adopt": lambda broker: broker.adopt(KEYS, "w", [(PLAIN, message("n"), "n")]),
    "start": lambda broker: broker.start(KEYS, "w", ["c"]),
    "track": lambda broker: broker.track(KEYS, "w", "b", B, record("STARTED"), 60),
    "ack": lambda broker: broker.ack(KEYS, "w", 0, 1, [done("b", "SUCCESS")]),
    "record": lambda broker: broker.record(KEYS, "b", record("SUCCESS"), "60", worker="w"),
    "retry": lambda broker: broker.retry(KEYS, "w", 0, 1, B, "b", message("b", retries=1), 60, record("RETRY"), 60),
    "move": lambda broker: broker.move(KEYS, "w", 0, 1, B, "b", b'{"state":"RETRY","moved":"other"}', 60, "other"),
    "bury": lambda broker: broker.bury(KEYS, "w", 0, 1, done("b", "FAILURE"), LETTER, 100, 86_400),
    "revoke": lambda broker: broker.revoke(KEYS, "w", 0, 1, done("b", "REVOKED")),
    "release": lambda broker: broker.release(KEYS, "w", [(B, "b", MAIN)]),
    "cancel": lambda broker: broker.cancel(KEYS, done("a", "REVOKED", is_claimed=False), ["idle", "w", "x"]),
    "forget": lambda broker: broker.forget(KEYS, "husk", ["idle", "w", "x"]),
    "reap": lambda broker: broker.reap(KEYS, "x", [(R, MAIN, message("r", losses=1))]),
    "revive": lambda broker: broker.revive(KEYS, "d", LETTER, "d", message("d"), MAIN),
    "edit": lambda broker: broker.edit(KEYS, "d", LETTER, b"changed"),
    "discard": lambda broker: broker.discard(KEYS, ["d"]),
    "purge": lambda broker: broker.purge(KEYS),
    "register": lambda broker: broker.register(KEYS, "new", 30),
    "renew": lambda broker: broker.renew([KEYS], "w", 30, b"card"),
    "audit": lambda broker: broker.audit(KEYS, "w"),
    "condemn": lambda broker: broker.condemn(KEYS, "w"),
    "leave": lambda broker: broker.leave(KEYS, "idle"),
    "unlock": lambda broker: broker.unlock(KEYS, [("lock", "gone")], if_ended=True),
    "prune": lambda broker: broker.prune(KEYS),
    "plan": lambda broker: broker.plan(KEYS, "q", b"", b"new", broker.clock.now_ms() + 60_000),
    "declare": lambda broker: broker.declare("queue:email"),
    "pause": lambda broker: broker.pause(KEYS, "queue"),
    "resume": lambda broker: broker.resume(KEYS, "queue"),
    "keep": lambda broker: broker.keep([Kept("k", 5, (1, 100), b"row")], 600),
    "spool": lambda broker: broker.spool(KEYS, [b"third", b"fourth"], 1000),
    "unspool": lambda broker: broker.unspool(KEYS, "w", [b"first"], bound=1000, most=10, most_bytes=1000, lock_s=600),
}


def _tick(broker: Broker) -> Tick:
    now = broker.clock.now_ms()
    jobs = [("p@1", message("p@1"))]
    return Tick("p", b"read", now, MAIN, b"after", now + 60_000, "", b"held", now + 60_000, jobs)


async def _called(broker: Broker, verb: str) -> None:
    await CALLS[verb](broker)


async def die(url: str, verb: str, window: str) -> None:
    broker = Broker(Endpoint(url), Keys())
    await broker.open()
    if window == "sent":
        # No reply is read from now on: of a verb in two steps only the first is sent.
        broker._link._connection._writer.transport.pause_reading()
        step = asyncio.create_task(_called(broker, verb))
        await asyncio.sleep(0)  # its turn: then it has asked for its command to be sent
        await broker.written()
        assert not step.done()
    elif window == "after":
        await _called(broker, verb)
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    for line in sys.stdin:
        child = os.fork()
        if not child:
            asyncio.run(die(sys.argv[1], *line.split()))
        _, status = os.waitpid(child, 0)
        sys.stdout.write("dead\n" if os.WTERMSIG(status) == signal.SIGKILL else f"{status}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
