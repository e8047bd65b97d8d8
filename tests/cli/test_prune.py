"""``rqueue history prune``: asks, counts, removes."""

import json

import pytest

from .test_stats import database  # noqa: F401 - a fixture

pytestmark = pytest.mark.usefixtures("database")


def left(command):
    return {each["id"] for each in json.loads(command("history", "--json").stdout)["jobs"]}


def test_it_asks_first(command):
    refused = command("history", "prune", "--older-than", "7d", input="n\n")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.stderr.startswith("remove 1 job(s) that ended more than 7d ago? [y/N]")
    assert len(left(command)) == 5
    agreed = command("history", "prune", "--older-than", "7d", "--json", input="y\n")
    assert json.loads(agreed.stdout) == {"pruned": 1}
    assert left(command) == {"a", "b", "c", "d"}


def test_a_dry_run_only_counts(command):
    shown = command("history", "prune", "--older-than", "90m", "--dry-run")
    assert (shown.exit_code, shown.stdout) == (0, "3 job(s) would be removed\n")
    shown = command("history", "prune", "--older-than", "90m", "--keep-failures", "--dry-run", "--json")
    assert json.loads(shown.stdout) == {"would_be_pruned": 2}
    assert len(left(command)) == 5


def test_failures_may_be_kept(command):
    shown = command("history", "prune", "--older-than", "0", "--keep-failures", "--yes")
    assert (shown.exit_code, shown.stdout) == (0, "4 job(s) removed\n")
    assert left(command) == {"c"}


def test_statistics_stay(command):
    assert command("history", "prune", "--older-than", "100h", "--yes").exit_code == 0
    (send, _) = json.loads(command("stats", "--since", "30d", "--json").stdout)
    assert (send["task"], send["count"]) == ("mail.send", 4)


@pytest.mark.parametrize("age", ["", "-1d", "30 days"])
def test_an_age_that_is_none(command, age):
    """Breaks when it is looked at after somebody was asked."""
    shown = command("history", "prune", "--older-than", age)
    assert (shown.exit_code, shown.stderr) == (2, f"rqueue: older_than {age!r}: write it as 90s, 15m, 3h or 7d\n")


def test_an_age_is_needed(command):
    assert command("history", "prune", "--yes").exit_code == 2
    assert len(left(command)) == 5
