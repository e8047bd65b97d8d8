"""lease: a worker's right to its jobs, as this process knows it."""

import os
import socket

import pytest

from rqueue.policy.clock import elapsed_s
from rqueue.worker.lease import Lease, this_host


def test_nothing_starts_before_the_first_renewal():
    assert not Lease(15).may_start()


@pytest.mark.parametrize(("age_s", "may_start"), [(0, True), (9.9, True), (10.1, False), (100, False)])
def test_nothing_starts_at_two_thirds(age_s, may_start):
    lease = Lease(15)
    lease.renewed(elapsed_s() - age_s)
    assert lease.may_start() is may_start


def test_its_age_counts_from_when_the_youngest_renewal_was_sent():
    """Replies may come in another order."""
    lease, now = Lease(15), elapsed_s()
    lease.renewed(now)
    lease.renewed(now - 12)
    assert lease.may_start()


def test_a_lost_one_starts_nothing():
    lease = Lease(15)
    lease.renewed(elapsed_s())
    lease.is_lost = True
    assert not lease.may_start()


def test_a_new_number_is_another_worker_without_a_lease():
    lease = Lease(15)
    lease.renewed(elapsed_s())
    lease.is_lost = True
    before = lease.worker
    lease.renumber()
    assert lease.worker.rpartition(":")[0] == before.rpartition(":")[0]
    assert lease.worker != before
    assert not lease.is_lost
    assert not lease.may_start()


def test_an_id_is_safe_in_a_key(monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "höst {a} b:c\n" + "x" * 100)
    host, pid, nonce = Lease(15).worker.split(":")
    assert len(host) <= 64
    assert not set(host) & set(" {}:\n*?[]")
    assert (int(pid), len(nonce)) == (os.getpid(), 8)


def test_a_thousand_ids_are_a_thousand():
    assert len({Lease(15).worker for _ in range(1000)}) == 1000


def test_this_host_says_where_it_runs():
    assert this_host()["pid"] == os.getpid()
    assert set(this_host()) == {"host", "pid", "python"}


def test_its_age_is_that_of_the_last_renewal():
    lease = Lease(15)
    lease.renewed(elapsed_s() - 4)
    assert 4 <= lease.age_s < 5
