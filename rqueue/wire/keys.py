"""The one home of key names: every key that rqueue uses is built here.

``{queue}`` is a Redis Cluster hash tag, so all keys of one queue share a slot and every script is legal on a cluster.
"""

from __future__ import annotations

import re
from typing import Final

from rqueue.errors import ConfigError

LEVELS: Final = range(1, 11)
"""The priorities a job can be given: 1 lowest, 10 highest."""

MAIN: Final = 0
"""The level of the list for jobs that were given no priority."""

_QUEUE_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_JOB_ID = re.compile(r"[!-~]{1,128}")


def is_queue_name(name: object) -> bool:
    """True for a queue's name."""
    return isinstance(name, str) and _QUEUE_NAME.fullmatch(name) is not None


def is_job_id(job_id: object) -> bool:
    """True for a job's id."""
    return isinstance(job_id, str) and _JOB_ID.fullmatch(job_id) is not None and job_id != "-"


def shown(name: str) -> str:
    """A name that can be printed and sent as JSON, whatever bytes somebody has put in its place."""
    return name.encode("utf-8", "backslashreplace").decode()


def check_queue_name(name: object) -> str:
    """Return the queue's name.

    Raises:
        ConfigError: it is not 1 to 64 of ``A-Z a-z 0-9 . _ -``.
    """
    if not is_queue_name(name):
        raise ConfigError(f"queue {name!r}: a queue's name is 1 to 64 of the characters A-Z a-z 0-9 . _ -")
    return str(name)


def check_job_id(job_id: object) -> str:
    """Return the job's id.

    Raises:
        ConfigError: it is not 1 to 128 printable ASCII characters without spaces, or is ``-``.
    """
    if not is_job_id(job_id):
        raise ConfigError(
            f"job_id {job_id!r}: an id is 1 to 128 printable ASCII characters without spaces, and not '-'"
        )
    return str(job_id)


def _name(worker: str) -> bytes:
    """A worker's name as it stands in keys, whatever somebody has put there."""
    return worker.encode("utf-8", "surrogateescape")


class QueueKeys:
    """The keys of one queue, as bytes.

    Attributes:
        name: the queue's name.
        main: LIST, waiting jobs that were given no priority.
        lists: main at index 0, then ``:p1`` … ``:p10`` at theirs.
        workers: ZSET, worker -> end of its lease in ms on Redis's clock.
        jobs: SET, ids of jobs that are not settled.
        scheduled: ZSET, id -> due time in ms.
        messages: HASH, id -> message of the scheduled jobs.
        stops: ZSET, all at score 0: what must not run: ``queue``, ``all``, ``task:<name>``, ``job:<id>``.
        dead: ZSET, id -> time of death in ms.
        letters: HASH, id -> dead letter.
        counts: HASH with a TTL, how many jobs ended in which state.
        unique: HASH, lock -> id of the job that holds it, and until when at most in ms.
        periodic: ZSET, name of a periodic schedule -> when it is looked at next, in ms.
        entries: HASH, name -> the schedule.
        recorded: STRING with a TTL of a day: there is a result store, and so many bytes may wait for it.
        spool: LIST, how jobs ended that the result store does not know yet, the oldest first.
        spool_bytes: STRING, the length of all that.
        spool_lock: STRING with a TTL, the worker that brings it to the store.
        unrecorded: STRING with a TTL of a week, how many did not fit.
    """

    def __init__(self, namespace: str, name: str) -> None:
        self.name = name
        self.main = prefix = f"{namespace}:{{{name}}}".encode()
        self.lists = (self.main, *(prefix + b":p%d" % level for level in LEVELS))
        self.workers = prefix + b":workers"
        self.jobs = prefix + b":jobs"
        self.scheduled = prefix + b":scheduled"
        self.messages = prefix + b":scheduled:messages"
        self.stops = prefix + b":stops"
        self.dead = prefix + b":dead"
        self.letters = prefix + b":dead:letters"
        self.counts = prefix + b":counts"
        self.unique = prefix + b":unique"
        self._throttle = prefix + b":throttle:"
        self.periodic = prefix + b":periodic"
        self.entries = prefix + b":periodic:entries"
        self.recorded = prefix + b":recorded"
        self.spool = prefix + b":spool"
        self.spool_bytes = prefix + b":spool:bytes"
        self.spool_lock = prefix + b":spool:lock"
        self.unrecorded = prefix + b":unrecorded"
        self._processing = prefix + b":processing:"
        self._started = prefix + b":started:"
        self._settled = prefix + b":settled:"
        self._card = prefix + b":worker:"
        self._sent = prefix + b":sent:"
        self._result = prefix + b":result:"

    @property
    def spooling(self) -> tuple[bytes, ...]:
        """What a script needs that puts something into the spool."""
        return self.recorded, self.spool, self.spool_bytes, self.unrecorded

    def processing(self, worker: str) -> bytes:
        """LIST: what this worker has claimed; a string (the tombstone) once the worker is gone."""
        return self._processing + _name(worker)

    def worker_of(self, processing: bytes) -> str:
        """The worker whose processing list this key is."""
        return processing.removeprefix(self._processing).decode("utf-8", "surrogateescape")

    def started(self, worker: str) -> bytes:
        """SET: ids of the claimed jobs that have started."""
        return self._started + _name(worker)

    def settled(self, worker: str) -> bytes:
        """HASH with a TTL: lane -> sequence number and outcome of the worker's last settle batch in it."""
        return self._settled + _name(worker)

    def card(self, worker: str) -> bytes:
        """STRING with a TTL: what the worker says of itself."""
        return self._card + _name(worker)

    def sent(self, producer: str) -> bytes:
        """HASH with a TTL: lane -> sequence number and outcome of the producer's last batch in it."""
        return self._sent + producer.encode()

    def throttle(self, lock: str) -> bytes:
        """STRING with a TTL: the first job of a period, and until when in ms."""
        return self._throttle + lock.encode()

    def result(self, job_id: str) -> bytes:
        """STRING with a TTL: a job's record; also the channel on which its changes are announced."""
        return self._result + job_id.encode()


class Keys:
    """Every key under one namespace.

    Attributes:
        namespace: the first part of every key.
        queues: SET, every queue that a worker or producer has used.
        paused: HASH, what is paused -> since when in ms: ``all``, ``queue:<name>``, ``task:<name>``.
        control: no key, but the channel on which workers hear what operators ask of them.
    """

    def __init__(self, namespace: str = "rqueue") -> None:
        if not re.fullmatch(r"[!-~]{1,128}", namespace):
            raise ConfigError(f"namespace {namespace!r}: 1 to 128 printable ASCII characters without spaces")
        if re.match(r"[^{]*\{\}", namespace):
            raise ConfigError(f"namespace {namespace!r}: an empty hash tag would spread a queue's keys over slots")
        self.namespace = namespace
        self.queues = f"{namespace}:queues".encode()
        self.paused = f"{namespace}:paused".encode()
        self.control = f"{namespace}:control".encode()
        self._queues: dict[str, QueueKeys] = {}

    def row(self, job_id: str) -> bytes:
        """HASH, in a Redis that is a result store: when jobs of this id were enqueued -> their rows of history."""
        return b"%b:row:%b" % (self.namespace.encode(), job_id.encode("utf-8", "surrogatepass"))

    def reply(self, request: str) -> bytes:
        """The channel on which the answers to one request on the control channel are published."""
        return self.control + b":reply:" + request.encode()

    def job_of(self, channel: bytes) -> tuple[str, str] | None:
        """The queue and the id of the job whose result key this is; None when it is none."""
        queue, found, job_id = channel.removeprefix(self.namespace.encode() + b":{").partition(b"}:result:")
        if not found or not channel.startswith(self.namespace.encode() + b":{"):
            return None
        return queue.decode(errors="replace"), job_id.decode(errors="replace")

    def parts_of(self, name: bytes) -> tuple[str, str, str] | None:
        """A queue's key taken apart: the queue, what the key is, and whose; None when it is no queue's.

        ``rqueue:{email}:result:x`` is ``("email", "result", "x")``, the main list ``("email", "", "")``.
        """
        start = f"{self.namespace}:{{".encode()
        queue, found, rest = name.removeprefix(start).partition(b"}")
        if not name.startswith(start) or not found or rest[:1] not in (b"", b":"):
            return None
        queue_name, text = queue.decode("utf-8", "surrogateescape"), rest[1:].decode("utf-8", "surrogateescape")
        if not _QUEUE_NAME.fullmatch(queue_name):
            return None
        part, _, whose = text.partition(":")
        return queue_name, part, whose

    def queue(self, name: str) -> QueueKeys:
        """The keys of one queue.

        Raises:
            ConfigError: the name is not a queue's name.
        """
        keys = self._queues.get(name)
        if keys is None:
            keys = self._queues[name] = QueueKeys(self.namespace, check_queue_name(name))
        return keys
