r"""An entry of the spool: how a job ended, as Redis holds it anyway, until it is a row in the result store.

``<id>\n<record>\n<message>``: neither an id nor a record has a line's end in it, and the message is the rest. What is
sealed stays so. Scripts write entries as well, so there is nothing to encode.
"""

from __future__ import annotations

from typing import NamedTuple

from rqueue.errors import MalformedMessage
from rqueue.wire.keys import is_job_id


class Entry(NamedTuple):
    """How one job ended.

    Attributes:
        id: the job's id.
        record: its record's bytes.
        message: its message's bytes; empty where they are not known.
    """

    id: str
    record: bytes
    message: bytes

    def encode(self) -> bytes:
        """The entry's bytes."""
        return b"%b\n%b\n%b" % (self.id.encode(), self.record, self.message)

    @classmethod
    def decode(cls, data: bytes) -> Entry:
        """Read an entry.

        Raises:
            MalformedMessage: it is none.
        """
        parts = data.split(b"\n", 2)
        job_id = parts[0].decode("ascii", "replace")
        if len(parts) != 3 or not is_job_id(job_id):
            raise MalformedMessage("not an entry of the spool")
        return cls(job_id, parts[1], parts[2])
