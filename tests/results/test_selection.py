"""What a caller may ask of history: times, states, words, and the cursor of a page."""

import base64
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rqueue.errors import ConfigError
from rqueue.results.selection import MOST_WORDS, Position, Selection, Word, moment, words_of

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
BERLIN = timezone(timedelta(hours=1))


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("90s", NOW - timedelta(seconds=90)),
        ("15m", NOW - timedelta(minutes=15)),
        ("1.5h", NOW - timedelta(minutes=90)),
        ("7d", NOW - timedelta(days=7)),
        ("90", NOW - timedelta(seconds=90)),
        ("20261101", datetime(2026, 11, 1, tzinfo=UTC)),
        ("2026-11-01", datetime(2026, 11, 1, tzinfo=UTC)),
        ("2026-11-01T12:00", datetime(2026, 11, 1, 12, tzinfo=UTC)),
        ("2026-11-01T12:00+01:00", datetime(2026, 11, 1, 11, tzinfo=UTC)),
        ("2026-11-01 12:00:00Z", datetime(2026, 11, 1, 12, tzinfo=UTC)),
        (60, NOW - timedelta(minutes=1)),
        (timedelta(hours=24), NOW - timedelta(hours=24)),
        (datetime(2026, 11, 1, 13, tzinfo=BERLIN), datetime(2026, 11, 1, 12, tzinfo=UTC)),
    ],
)
def test_a_moment_may_be_said_in_many_ways(given, found):
    assert moment("since", given, NOW) == found


@pytest.mark.parametrize(
    "given",
    [
        "",
        "d",
        "-7d",
        "yesterday",
        "2026-13-01",
        "99999999999d",
        "9999-12-31T23:59-12:00x",
        timedelta.max,
        -1,
        True,
        b"7d",
        "0001-01-01T00:00+14:00",
        datetime(2026, 11, 1),  # noqa: DTZ001 - naive on purpose
    ],
)
def test_what_is_no_moment_is_refused_by_its_name(given):
    with pytest.raises(ConfigError, match="since"):
        moment("since", given, NOW)


def test_a_selection_of_everything():
    assert Selection.of({}, NOW) == Selection()
    assert (
        Selection.of(dict.fromkeys(["state", "task", "queue", "since", "until", "search", "root_id"]), NOW)
        == Selection()
    )


def test_a_state_in_any_case():
    assert Selection.of({"state": "failure"}, NOW).state == "FAILURE"


@pytest.mark.parametrize(
    ("name", "value"),
    [("state", "STARTED"), ("state", 1), ("task", 1), ("task", "a\0b"), ("queue", "a b"), ("parent_id", b"1")],
)
def test_what_is_wrong_is_named(name, value):
    with pytest.raises(ConfigError, match=name):
        Selection.of({name: value}, NOW)


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("timeout", [("timeout", False)]),
        ("time*", [("time", True)]),
        ("ann@example.org", [("ann", False), ("example", False), ("org", False)]),
        ("ann@exam*", [("ann", False), ("exam", True)]),
        ("a*b", [("a", False), ("b", False)]),
        ("naïve Straße naïve", [("naïve", False), ("Straße", False)]),
        ("it's \\ 'quoted'", [("it", False), ("s", False), ("quoted", False)]),
        ("a\0b", [("a", False), ("b", False)]),
    ],
)
def test_signs_part_words(search, found):
    assert words_of(search) == tuple(Word(*each) for each in found)


@pytest.mark.parametrize("search", ["", "  ", "*", "!?", " ".join(map(str, range(MOST_WORDS + 1)))])
def test_a_search_for_nothing_or_too_much_is_refused(search):
    with pytest.raises(ConfigError, match="words"):
        words_of(search)


moments = st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001 - bounds


@given(moments, st.text(), moments)
def test_a_position_is_one_word_and_back(finished, job_id, enqueued):
    """To the microsecond: fails when it is rounded, since rows would be skipped or told twice."""
    position = Position(finished, job_id, enqueued)
    word = position.encode()
    assert word.replace("-", "").replace("_", "").isalnum()
    assert not word.startswith("-"), "a command line would take it for an option"
    assert Position.decode(word) == position


@given(st.text())
def test_any_other_text_is_no_position(text):
    with pytest.raises(ConfigError, match="cursor"):
        Position.decode(text)


@pytest.mark.parametrize(
    "json",
    ["[]", "[1,2]", "[1,2,3]", '[1.5,1,"a"]', '{"1":1}', '[9999999999999999999,1,"a"]', '[999999999999999999,1,"a"]'],
)
def test_json_of_another_kind_is_no_position(json):
    with pytest.raises(ConfigError, match="cursor"):
        Position.decode(base64.urlsafe_b64encode(json.encode()).decode().rstrip("="))
