"""Options are checked where they are written, and the text names the option, its value and what is allowed."""

import inspect
import math
import re
from dataclasses import fields
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, get_type_hints
from zoneinfo import ZoneInfo

import pytest

from rqueue import ConfigError, RQueue
from rqueue.client.options import (
    INHERIT,
    CallKwargs,
    CallOptions,
    TaskKwargs,
    TaskOptions,
    epoch_ms,
    refuse_unknown,
    seconds,
)

PRIORITY = "a whole number from 1 (lowest) to 10 (highest)"
QUEUE = "1 to 64 of the characters A-Z a-z 0-9 . _ -"
JOB_ID = "1 to 128 printable ASCII characters without spaces"
RETRIES = "None for no limit, or a whole number from 0"
ZONE = "needs a time zone"
NAIVE = datetime(2030, 1, 1)  # noqa: DTZ001

UNIQUE = (True, "", "until_end", 60, [3], timedelta(0), timedelta(-1))

WRONG_EVERYWHERE = [
    *[("priority", value, PRIORITY) for value in (0, 11, -1, True, False, "3", 3.0, 5.5, [3])],
    *[("queue", value, QUEUE) for value in ("{email}", "e mail", "", "a" * 65, "é", "a:b", "a\n", 3, b"email")],
    *[("max_retries", value, RETRIES) for value in (-1, True, 1.5, "3")],
    *[
        (name, value, "")
        for name in ("time_limit", "soft_time_limit")
        for value in (0, -1, math.nan, math.inf, "10", True, timedelta(0), [3])
    ],
    *[("unique", value, "'until_done', 'until_start', None, or a timedelta above 0") for value in UNIQUE],
    *[("unique_key", value, "a function of the call's arguments, or a template") for value in ("", 3, b"{a}")],
    *[
        (name, value, "")
        for name in ("debounce", "throttle")
        for value in (0, -1, math.nan, math.inf, "10", True, timedelta(0))
    ],
]
WRONG_IN_A_CALL = [
    *WRONG_EVERYWHERE,
    *[("countdown", value, "seconds") for value in (-1, -0.001, math.nan, math.inf, 1e300, "10", True, timedelta(-1))],
    *[("job_id", value, JOB_ID) for value in ("", "a b", "a" * 129, "é", "a\n", "-", 7, b"id")],
    *[("eta", value, "datetime") for value in (10, "2030-01-01", timedelta(1))],
    ("eta", NAIVE, ZONE),
    ("expires", NAIVE, ZONE),
    *[("expires", value, "") for value in (0, -1, math.nan, math.inf, 1e300, "10", True, timedelta(0))],
]
WRONG_IN_A_TASK = [
    *WRONG_EVERYWHERE,
    *[("name", value, "string") for value in ("", 3)],
    *[("expires", value, "") for value in (0, -1, math.nan, math.inf, "10", NAIVE)],
    *[("default_retry_delay", value, "seconds") for value in (-1, "10", True, math.nan, math.inf, timedelta(-1))],
    *[
        (name, value, "tuple of exception classes")
        for name in ("autoretry_for", "dont_autoretry_for", "throws")
        for value in (OSError, [OSError], (OSError(),), ("a",))
    ],
    *[("retry_backoff", value, "a number above 0") for value in (-1, 0, "yes", math.nan)],
    *[("retry_backoff_max", value, "") for value in (0, -1, "10", math.inf)],
    *[
        (name, value, "True or False")
        for name in ("retry_jitter", "acks_late", "ignore_result", "track_started", "dead_letter")
        for value in (1, "yes", None)
    ],
    *[("result_ttl", value, "") for value in (-1, "10", math.nan, math.inf, timedelta(-1))],
]


def shown(value: object) -> str:
    return ascii(value)[:30]


def shows(value: object, text: str) -> bool:
    return repr(value) in text or (isinstance(value, timedelta) and repr(value.total_seconds()) in text)


@pytest.fixture
def task() -> Any:
    app = RQueue("memory://")

    @app.task
    async def add(a: int, b: int) -> int:
        return a + b

    return add


# --- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "value", "allowed"), WRONG_IN_A_CALL, ids=shown)
def test_a_wrong_call_option_is_refused_where_it_is_written(task, name, value, allowed):
    with pytest.raises(ConfigError) as caught:
        task.options(**{name: value})
    assert name in str(caught.value)
    assert shows(value, str(caught.value))
    assert allowed in str(caught.value)


@pytest.mark.parametrize(("name", "value", "allowed"), WRONG_IN_A_TASK, ids=shown)
def test_a_wrong_task_option_is_refused_where_it_is_written(name, value, allowed):
    app = RQueue("memory://")
    with pytest.raises(ConfigError) as caught:
        app.task(**{name: value})
    assert name in str(caught.value)
    assert shows(value, str(caught.value))
    assert allowed in str(caught.value)
    assert len(app.tasks) == 0


def test_apply_async_refuses_the_same_and_sends_nothing(task):
    with pytest.raises(ConfigError, match="priority 11"):
        task.apply_async((1, 2), priority=11)
    with pytest.raises(ConfigError, match="did you mean 'countdown'"):
        task.apply_async((1, 2), count_down=1)
    assert task.client._portal is None


@pytest.mark.parametrize(
    ("given", "meant"), [("priorty", "priority"), ("taskid", "task_id"), ("max_retrys", "max_retries")]
)
def test_an_unknown_call_option_names_the_nearest_and_all_that_are_allowed(task, given, meant):
    with pytest.raises(ConfigError) as caught:
        task.options(**{given: 1})
    text = str(caught.value)
    assert f"unknown call option {given!r}; did you mean {meant!r}?" in text
    allowed = text.partition("Allowed: ")[2].split(", ")
    assert set(allowed) == set(get_type_hints(CallKwargs))


def test_an_unknown_task_option_names_the_nearest_and_all_that_are_allowed():
    app = RQueue("memory://")
    with pytest.raises(ConfigError) as caught:
        app.task(autoretry_on=(OSError,))
    text = str(caught.value)
    assert "unknown task option 'autoretry_on'; did you mean 'autoretry_for'?" in text
    assert set(text.partition("Allowed: ")[2].split(", ")) == {*get_type_hints(TaskKwargs), "bind"}


def test_without_a_near_name_the_text_is_still_a_sentence():
    with pytest.raises(ConfigError) as caught:
        refuse_unknown("call option", {"zzz": 1}, ["b", "a"])
    assert re.fullmatch(r"unknown call option 'zzz'[.:;,] [Aa]llowed: a, b", str(caught.value))


def test_countdown_and_eta_together_are_refused(task):
    eta = datetime.now(UTC)
    for wrong in (
        lambda: task.options(countdown=1, eta=eta),
        lambda: task.options(countdown=1).options(eta=eta),
        lambda: task.options(eta=eta).options(countdown=1),
    ):
        with pytest.raises(ConfigError, match="countdown and eta: give one of the two"):
            wrong()


# --- accepted ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("priority", range(1, 11))
def test_priorities_go_from_1_to_10(task, priority):
    task.options(priority=priority)
    TaskOptions(priority=priority)


@pytest.mark.parametrize("job_id", ["a", "!", "~" * 128, "user:42/report#1", "--"])
def test_ids_are_printable_ascii(task, job_id):
    assert task.options(job_id=job_id).s(1, 2).options.job_id == job_id


def test_task_id_is_celerys_name_for_job_id(task):
    assert task.options(task_id="custom").s(1, 2).options.job_id == "custom"
    with pytest.raises(ConfigError, match="job_id 'a b'"):
        task.options(task_id="a b")


def test_later_options_go_before_earlier_ones_and_leave_the_rest(task):
    first = task.options(priority=1, queue="email", job_id="a")
    second = first.options(priority=9, task_id="b")
    assert second.s(1, 2).options == CallOptions(priority=9, queue="email", job_id="b")
    assert first.s(1, 2).options == CallOptions(priority=1, queue="email", job_id="a")


@pytest.mark.parametrize(
    ("options", "due"),
    [
        ({}, ""),
        ({"countdown": 0}, ""),
        ({"countdown": 1.5}, "+1500"),
        ({"countdown": timedelta(minutes=1)}, "+60000"),
        ({"eta": datetime(2030, 1, 1, tzinfo=UTC)}, "1893456000000"),
        ({"eta": datetime(2030, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))}, "1893456000000"),
    ],
)
def test_when_it_is_due(options, due):
    assert CallOptions(**options).due() == due


@pytest.mark.parametrize(
    ("call", "task", "expires"),
    [
        (None, None, None),
        (None, 60, 1_060_000),
        (None, timedelta(minutes=2), 1_120_000),
        (5, 60, 1_005_000),
        (timedelta(milliseconds=1500), 60, 1_001_500),
        (datetime.fromtimestamp(2000, UTC), 60, 2_000_000),
    ],
)
def test_the_calls_expires_goes_before_the_tasks(call, task, expires):
    assert CallOptions(expires=call).expires_ms(1_000_000, task) == expires


@pytest.mark.parametrize(
    ("given", "kept"), [(INHERIT, 7.0), (None, None), (0, 0), (2.5, 2.5), (timedelta(hours=1), 3600)]
)
def test_the_tasks_result_ttl_goes_before_the_apps(given, kept):
    assert TaskOptions(result_ttl=given).ttl_s(7.0) == kept


def test_the_defaults_are_celerys():
    assert TaskOptions() == TaskOptions(
        name=None,
        queue=None,
        priority=None,
        expires=None,
        max_retries=3,
        default_retry_delay=180,
        autoretry_for=(),
        dont_autoretry_for=(),
        throws=(),
        retry_backoff=False,
        retry_backoff_max=600,
        retry_jitter=True,
        acks_late=True,
        ignore_result=False,
        track_started=False,
        result_ttl=INHERIT,
        dead_letter=True,
        time_limit=None,
        soft_time_limit=None,
    )


@pytest.mark.parametrize("options", [TaskOptions, CallOptions])
@pytest.mark.parametrize("soft", [30, 31.5, timedelta(minutes=1)])
def test_the_soft_limit_is_below_the_hard_one(options, soft):
    with pytest.raises(ConfigError, match=r"soft_time_limit .*: below the time_limit, which is 30\.0"):
        options(time_limit=30, soft_time_limit=soft)
    assert options(time_limit=30, soft_time_limit=29.9).soft_time_limit == 29.9


def test_what_a_type_checker_allows_is_what_is_allowed():
    assert set(get_type_hints(TaskKwargs)) == {field.name for field in fields(TaskOptions)}
    assert set(get_type_hints(CallKwargs)) == {field.name for field in fields(CallOptions)} | {"task_id"}


@pytest.mark.parametrize("options", [TaskOptions, CallOptions])
def test_each_option_is_described(options):
    described = set(re.findall(r"^ {4}(\w+): ", inspect.getdoc(options) or "", re.MULTILINE))
    assert described == {field.name for field in fields(options)}


def test_seconds_are_numbers_or_timedeltas():
    assert (seconds(2), seconds(0.5), seconds(timedelta(minutes=1))) == (2.0, 0.5, 60.0)


@pytest.mark.parametrize("value", ["5", True, None, [1], float("nan"), float("inf"), -float("inf")])
def test_what_are_no_seconds_is_refused_by_its_options_name(value):
    """Breaks when an endless or nameless delay gets as far as Redis."""
    with pytest.raises(ConfigError, match=rf"^lease {re.escape(repr(value))}: seconds"):
        seconds(value, "lease")


def test_an_id_is_given_once(task):
    with pytest.raises(ConfigError, match="task_id and job_id"):
        task.options(task_id="a", job_id="a")


def test_epoch_ms_is_exact():
    assert epoch_ms(datetime(1970, 1, 1, tzinfo=UTC)) == 0
    assert epoch_ms(datetime(2026, 11, 22, 5, 19, 1, 294_000, tzinfo=UTC)) == 1_795_324_741_294


@pytest.mark.parametrize(
    ("moment", "zone", "fold", "expected"),
    [
        ((2026, 3, 29, 1, 59), "Europe/Berlin", 0, (2026, 3, 29, 0, 59)),
        ((2026, 3, 29, 3, 0), "Europe/Berlin", 0, (2026, 3, 29, 1, 0)),
        ((2026, 10, 25, 2, 30), "Europe/Berlin", 0, (2026, 10, 25, 0, 30)),
        ((2026, 10, 25, 2, 30), "Europe/Berlin", 1, (2026, 10, 25, 1, 30)),
        ((2026, 11, 1, 1, 30), "America/New_York", 0, (2026, 11, 1, 5, 30)),
        ((2026, 11, 1, 1, 30), "America/New_York", 1, (2026, 11, 1, 6, 30)),
        ((2026, 4, 5, 2, 30), "Australia/Sydney", 1, (2026, 4, 4, 16, 30)),
    ],
)
def test_an_eta_means_its_own_time_zone(moment, zone, fold, expected):
    """Also in the hour that a change of the clocks repeats: there `fold` tells which of the two is meant."""
    eta = datetime(*moment, tzinfo=ZoneInfo(zone), fold=fold)
    assert CallOptions(eta=eta).due() == str(round(datetime(*expected, tzinfo=UTC).timestamp() * 1000))


@pytest.mark.parametrize("headers", ["tenant", {1: "x"}, {"": 1}, [("a", 1)]])
def test_headers_are_names_and_values(headers):
    with pytest.raises(ConfigError, match="names and JSON values"):
        CallOptions.of({"headers": headers})
