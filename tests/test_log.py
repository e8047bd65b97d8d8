"""One event is one line, for people and for machines, whatever is in its fields."""

import json
import logging
import sys

import pytest

from rqueue.log import LOGGER, JsonFormatter, Recurring, TextFormatter, event


def record(text: str = "job done", level: int = logging.INFO, exc: bool = False, **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("rqueue", level, __file__, 1, text, (), sys.exc_info() if exc else None)
    made.created = 1_795_324_741.294
    made.rqueue = fields
    return made


# --- events -----------------------------------------------------------------------------------------------------------


def test_an_event_is_a_constant_text_and_its_fields(caplog):
    with caplog.at_level(logging.INFO, logger="rqueue"):
        event(logging.INFO, "job done", id="a", seconds=0.5)
    (logged,) = caplog.records
    assert (logged.getMessage(), logged.rqueue, logged.name) == ("job done", {"id": "a", "seconds": 0.5}, "rqueue")


def test_a_field_may_have_any_name(caplog):
    with caplog.at_level(logging.INFO, logger="rqueue"):
        event(logging.INFO, "x", level="y", text="z", name="n", message="m", args=1)
    assert caplog.records[0].rqueue["message"] == "m"


def test_what_recurs_is_written_a_few_times_and_then_each_half_minute(caplog, monkeypatch):
    now = 1000.0
    monkeypatch.setattr("rqueue.log.time.monotonic", lambda: now)
    waits = Recurring()
    written = []
    for second in range(100):
        now = 1000.0 + second
        waits.event(logging.WARNING, "waiting", error="away", worker="w")
        if caplog.records:
            written.append(second)
            caplog.clear()
    assert written == [0, 1, 2, 3, 4, 34, 64, 94]
    now += 31
    for _ in range(9):
        waits.event(logging.WARNING, "waiting", error="away")
    assert len(caplog.records) == 5, "after half a minute without it, it is news"


def test_another_error_or_text_is_another_event(caplog):
    waits = Recurring()
    for _ in range(20):
        for text, error in (("waiting", "away"), ("waiting", "loading"), ("refused", "away")):
            waits.event(logging.WARNING, text, error=error, worker="w")
    assert len(caplog.records) == 15
    assert caplog.records[0].rqueue == {"worker": "w", "error": "away"}


def test_errors_that_are_never_the_same_do_not_fill_the_memory(caplog):
    waits = Recurring()
    for number in range(1000):
        waits.event(logging.WARNING, "waiting", error=str(number))
    assert len(waits._seen) <= 16


def test_an_event_below_the_level_is_not_made(caplog):
    with caplog.at_level(logging.WARNING, logger="rqueue"):
        event(logging.INFO, "job done")
    assert not caplog.records
    assert LOGGER.name == "rqueue"


# --- text -------------------------------------------------------------------------------------------------------------


def test_a_line_for_people():
    line = TextFormatter().format(record(id="a", queue="email", priority=None, seconds=0.25))
    assert line == "2026-11-22T05:19:01.294Z info    job done id=a queue=email priority=None seconds=0.25"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("plain", "plain"),
        ("two words", "'two words'"),
        ("", "''"),
        ("a\nb", r"'a\nb'"),
        ("a\r\x1b[31mred", r"'a\r\x1b[31mred'"),
        ("\u2028", r"'\u2028'"),
        ("\ud800", r"'\ud800'"),
        ("müde", "müde"),
        (b"\x00", r"b'\x00'"),
        (["a", 1], "\"['a', 1]\""),
        (3, "3"),
    ],
    ids=ascii,
)
def test_a_field_is_one_word_on_one_line(value, shown):
    assert TextFormatter().format(record(id=value)).endswith(f" job done id={shown}")


def test_a_line_with_an_error_shows_it_below():
    try:
        raise LookupError("no")  # noqa: TRY301
    except LookupError:
        text = TextFormatter().format(record(exc=True, level=logging.ERROR))
    first, *rest = text.splitlines()
    assert first == "2026-11-22T05:19:01.294Z error   job done"
    assert rest[0] == "Traceback (most recent call last):"
    assert rest[-1] == "LookupError: no"


def test_a_record_of_somebody_elses_has_no_fields():
    made = logging.LogRecord("asyncio", logging.WARNING, __file__, 1, "took %s s", (3,), None)
    made.created = 0.0
    assert TextFormatter().format(made) == "1970-01-01T00:00:00.000Z warning took 3 s"
    assert json.loads(JsonFormatter().format(made))["event"] == "took 3 s"


# --- json -------------------------------------------------------------------------------------------------------------


def test_a_line_for_machines():
    line = JsonFormatter().format(record(id="a", queue="email", priority=None, seconds=0.25))
    assert json.loads(line) == {
        "time": "2026-11-22T05:19:01.294Z",
        "level": "info",
        "event": "job done",
        "id": "a",
        "queue": "email",
        "priority": None,
        "seconds": 0.25,
    }


class Unfriendly:
    """Its text cannot be had."""

    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = __str__


@pytest.mark.parametrize(
    "value",
    [
        "a\nb",
        "\u2028\x00",
        "\ud800",
        b"\xff",
        {1, 2},
        2**70,
        float("nan"),
        {(1, 2): 3},
        ["\udcff"],
        object(),
        Unfriendly(),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()], ids=["text", "json"])
def test_no_value_costs_the_line(formatter, value):
    """A field may hold what a user's code has raised. Breaks when the formatter raises: the event is then lost."""
    line = formatter.format(record(id="a", value=value))
    assert "\n" not in line
    line.encode()
    if isinstance(formatter, JsonFormatter):
        fields = json.loads(line)
        assert (fields["id"], fields["event"]) == ("a", "job done")
        assert "value" in fields
    else:
        assert " job done id=a value=" in line


def test_a_field_does_not_take_the_place_of_the_event():
    """Breaks when a field that a task's code has named decides what a log search finds."""
    made = record()
    made.rqueue = {"event": "other", "level": "other", "time": "other", "id": "a"}
    fields = json.loads(JsonFormatter().format(made))
    assert fields["id"] == "a"
    assert (fields["event"], fields["level"], fields["time"]) == ("job done", "info", "2026-11-22T05:19:01.294Z")


def test_an_error_is_a_field():
    try:
        raise LookupError("no\nsuch")  # noqa: TRY301
    except LookupError:
        line = JsonFormatter().format(record(exc=True))
    assert "\n" not in line
    assert json.loads(line)["exception"].endswith("LookupError: no\nsuch")
