"""How a job ended that somebody settled who has not the app's hooks: a supervisor tells it to one of its processes.

At most once, as all hooks: what cannot be told is not.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from rqueue.wire.keys import Keys
from rqueue.wire.message import Message
from rqueue.wire.seal import Keyring, as_trusted
from rqueue.worker.inflight import ClaimedJob
from rqueue.worker.outcome import Ack, Bury, Defer, Settlement


class Herald:
    """Passes on what was settled: a :class:`~rqueue.worker.observers.Listening`.

    Args:
        tell: takes it, as JSON can carry it; None when nobody listens.
    """

    def __init__(self, tell: Callable[[dict[str, Any]], None] | None) -> None:
        self._tell = tell

    def __bool__(self) -> bool:
        return self._tell is not None

    def settled(self, job: ClaimedJob, settlement: Settlement) -> None:
        """Redis has confirmed how a job was settled."""
        if self._tell is None or not isinstance(settlement, Ack | Bury | Defer):
            return
        # Of a dead letter only its head is told: the message stands behind it once more.
        letter = settlement.letter.partition(b"\n")[0] + b"\n" if isinstance(settlement, Bury) else None
        self._tell(
            {
                "queue": job.keys.name,
                "worker": job.worker,
                "id": job.id,
                "message": _text(job.message.raw),
                "record": _text(settlement.record),
                "letter": None if letter is None else _text(letter),
                "delay_s": settlement.delay_s if isinstance(settlement, Defer) else None,
            }
        )


def read(told: dict[str, Any], keys: Keys, keyring: Keyring | None = None) -> tuple[ClaimedJob, Settlement]:
    """What a herald told."""
    place, record = keys.queue(told["queue"]), _bytes(told["record"])
    message = as_trusted(keyring, Message.parse(_bytes(told["message"])), place.main)
    job = ClaimedJob(place, told["worker"], message, told["id"], rank=0)
    if told["delay_s"] is not None:
        return job, Defer(message, told["delay_s"], record)
    if told["letter"] is not None:
        return job, Bury(record, "0", _bytes(told["letter"]))
    return job, Ack(record, "0")


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text)
