"""What a checkup finds, as data, and the order in which it is told."""

from rqueue.client.checkup.finding import CHECKS, Finding, Level, Remedy, in_order, worst
from rqueue.client.checkup.queues import QUEUE_CHECKS
from rqueue.client.checkup.server import SERVER_CHECKS

LOCKS = Finding("locks", Level.NOTE, "3 locks", "email", "prune", Remedy("prune", "email"))
LATE = Finding("overdue", Level.PROBLEM, "late", "email")
FULL = Finding("memory", Level.PROBLEM, "full")


def test_the_worst_comes_first_and_then_the_tables_order():
    assert in_order([LOCKS, LATE, FULL]) == [FULL, LATE, LOCKS]


def test_what_was_fixed_does_not_count():
    assert worst([]) is Level.OK
    assert worst([LOCKS, LATE]) is Level.PROBLEM
    fixed = Finding("orphans", Level.PROBLEM, "2 jobs", fixed="reaped")
    assert worst([LOCKS, fixed]) is Level.NOTE


def test_anybodys_bytes_can_be_shown():
    odd = Finding("locks", Level.NOTE, "a\udcff\n\x1b[1mä", "\u202e", "x", Remedy("prune", "\udcff"))
    shown = odd.printable()
    assert (shown.text, shown.where, shown.remedy) == ("a\\xff\\n\\x1b[1mä", "\\u202e", odd.remedy)


def test_a_document():
    assert LOCKS.document() == {
        "check": "locks",
        "level": "note",
        "where": "email",
        "text": "3 locks",
        "advice": "prune",
        "fixable": True,
        "fixed": "",
    }
    assert LATE.document()["fixable"] is False


def test_the_table_is_complete():
    """Breaks when a check is added without a row: its findings would have no place, and the docs would not tell it."""
    assert {check.name for check in CHECKS} == {
        *QUEUE_CHECKS,
        *SERVER_CHECKS,
        "hung workers",
        "results",
        "spool",
        "outbox",
    }
    assert len({check.name for check in CHECKS}) == len(CHECKS)
