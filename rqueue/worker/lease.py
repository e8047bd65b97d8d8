"""A worker's right to its jobs, as this process knows it."""

from __future__ import annotations

import os
import secrets
import socket
import sys
from collections.abc import Callable

from rqueue.policy.clock import elapsed_s


class Lease:
    """The worker's id and the age of its lease.

    Args:
        lease_s: seconds that it lasts without a renewal.
        registering: called with each id before it is registered.

    Attributes:
        worker: ``host:pid:nonce``, new at every start and after every lost lease, never reused.
        is_lost: Redis said that the worker is not registered.
        starts_until_s: when two thirds of the lease have passed without a reply: from then on nothing is started.
    """

    def __init__(self, lease_s: float, registering: Callable[[str], None] = lambda _: None) -> None:
        self.lease_s, self.registering = lease_s, registering
        self.worker = ""
        self.is_lost = False
        self.renumber()

    def renumber(self) -> None:
        """Take a new id."""
        host = "".join(char if char.isalnum() or char in ".-_" else "-" for char in socket.gethostname())[:64]
        self.worker = f"{host}:{os.getpid()}:{secrets.token_hex(4)}"
        self.is_lost = False
        self._renewed_s = self.starts_until_s = -1e9

    def renewed(self, sent_s: float) -> None:
        """It was renewed; its age counts from when the renewal was sent."""
        self._renewed_s = max(self._renewed_s, sent_s)
        self.starts_until_s = self._renewed_s + self.lease_s * 2 / 3

    @property
    def age_s(self) -> float:
        """Seconds since the last renewal was sent that Redis has answered."""
        return elapsed_s() - self._renewed_s

    def may_start(self) -> bool:
        """True while something may be started."""
        return not self.is_lost and elapsed_s() < self.starts_until_s


def this_host() -> dict[str, str | int]:
    """What a worker says of where it runs."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "python": ".".join(map(str, sys.version_info[:3]))}
