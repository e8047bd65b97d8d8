"""What can be configured: each default as documented, each wrong value refused where it is written."""

import inspect
import math
import re
from dataclasses import FrozenInstanceError, fields
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rqueue.config import AppConfig, Limits, Queue, Results, WorkerConfig, age_s, check_ttl, positive, whole
from rqueue.errors import ConfigError

NOT_NUMBERS = [None, "1", True, False, [1], math.nan]


def values(config: Any) -> dict[str, Any]:
    return {field.name: getattr(config, field.name) for field in fields(config)}


# --- defaults ---------------------------------------------------------------------------------------------------------


def test_the_defaults_are_the_designs():
    assert values(Queue("email")) == {"name": "email", "priority": 5}
    assert values(Limits()) == {
        "max_message_bytes": 1024 * 1024,
        "result_ttl_s": 3600,
        "copy_ttl_s": None,
        "dead_max": 10_000,
        "dead_ttl_s": 14 * 24 * 3600,
        "enqueue_timeout_s": 10,
        "durability": "memory",
        "replicas": 1,
    }
    assert values(WorkerConfig()) == {
        "queues": (),
        "concurrency": 100,
        "prefetch_multiplier": 4,
        "lease_s": 15,
        "shutdown_timeout_s": 30,
        "pool": "async",
        "time_limit_s": None,
        "soft_time_limit_s": None,
        "max_tasks": None,
        "max_memory_bytes": None,
        "autoscale": None,
        "max_deliveries": 3,
        "max_loop_stall_s": 300,
        "unknown_task_s": 300,
        "unknown_retry_s": 10,
        "block_s": 4,
    }
    assert values(AppConfig()) == {
        "namespace": "rqueue",
        "queues": {},
        "routes": (),
        "limits": Limits(),
        "results": None,
    }


@pytest.mark.parametrize("config", [Queue, Limits, WorkerConfig, AppConfig])
def test_each_field_is_described(config: type):
    described = set(re.findall(r"^ {4}(\w+): ", inspect.getdoc(config) or "", re.MULTILINE))
    assert described == {field.name for field in fields(config)}


@pytest.mark.parametrize("config", [Queue("email"), Limits(), WorkerConfig(), AppConfig()])
def test_nothing_is_changed_after_it_was_checked(config: Any):
    name = fields(config)[0].name
    with pytest.raises(FrozenInstanceError):
        setattr(config, name, "other")


# --- queues -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "a b", "a{b}", "ä", "a" * 65, None, 1])
def test_a_queue_needs_a_queues_name(name: Any):
    with pytest.raises(ConfigError, match=re.escape(f"queue {name!r}")):
        Queue(name)


@pytest.mark.parametrize("priority", [0, 11, 5.0, "5", None, True])
def test_a_queue_needs_a_priority_from_1_to_10(priority: Any):
    with pytest.raises(ConfigError, match=re.escape(f"priority {priority!r}: a whole number from 1")):
        Queue("email", priority)


def test_a_queue_that_was_not_declared_has_the_default_priority():
    app = AppConfig(queues={"email": Queue("email", 3)})
    assert app.queue("email") == Queue("email", 3)
    assert app.queue("other") == Queue("other", 5)


def test_a_queue_that_can_have_no_name_is_refused_at_its_look_up():
    with pytest.raises(ConfigError):
        AppConfig().queue("a b")


# --- limits -----------------------------------------------------------------------------------------------------------

BAD_LIMITS = [
    *(("max_message_bytes", bad) for bad in [0, -1, 1.5, math.inf, *NOT_NUMBERS]),
    *(("dead_max", bad) for bad in [0, -1, 0.5, math.inf, *NOT_NUMBERS]),
    *(("dead_ttl_s", bad) for bad in [0, -1, math.inf, *NOT_NUMBERS]),
    *(("enqueue_timeout_s", bad) for bad in [0, -1, 3600.001, math.inf, *NOT_NUMBERS]),
    *(("durability", bad) for bad in ["", "disk", "REPLICATED", None, ["memory"]]),
    *(("replicas", bad) for bad in [0, -1, 1.5, *NOT_NUMBERS]),
    *(("result_ttl_s", bad) for bad in [-1, -0.5, math.inf, "1", True, False, [1], math.nan]),
]


@pytest.mark.parametrize(("name", "bad"), BAD_LIMITS)
def test_a_wrong_limit_is_refused_by_the_name_of_its_option(name: str, bad: Any):
    with pytest.raises(ConfigError, match=re.escape(f"{name.removesuffix('_s')} {bad!r}: ")):
        Limits(**{name: bad})


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("result_ttl_s", None),
        ("result_ttl_s", 0),
        ("result_ttl_s", 0.0),
        ("result_ttl_s", 1),
        ("enqueue_timeout_s", 3600),
        ("enqueue_timeout_s", 0.1),
        ("max_message_bytes", 1),
        ("dead_max", 1),
    ],
)
def test_a_limit_at_its_border_is_allowed(name: str, good: Any):
    assert getattr(Limits(**{name: good}), name) == good


# --- workers ----------------------------------------------------------------------------------------------------------

SECONDS = ["lease_s", "max_loop_stall_s", "unknown_task_s", "unknown_retry_s", "block_s"]
BAD_WORKERS = [
    *((name, bad) for name in ("concurrency", "max_deliveries") for bad in [0, -1, 1.0, *NOT_NUMBERS]),
    *(("prefetch_multiplier", bad) for bad in [0, -1, 1.5, *NOT_NUMBERS]),
    *((name, bad) for name in SECONDS for bad in [0, -1, math.inf, *NOT_NUMBERS]),
    *(("shutdown_timeout_s", bad) for bad in [-1, *NOT_NUMBERS]),
]


@pytest.mark.parametrize(("name", "bad"), BAD_WORKERS)
def test_a_wrong_worker_option_is_refused_by_its_name(name: str, bad: Any):
    with pytest.raises(ConfigError, match=re.escape(name.removesuffix("_s"))):
        WorkerConfig(**{name: bad})


def test_celerys_prefetch_of_0_is_refused_with_what_to_write_instead():
    with pytest.raises(ConfigError, match=r"Celery's 0.*1 holds only what can start now"):
        WorkerConfig(prefetch_multiplier=0)


@pytest.mark.parametrize("queues", ["email", b"email", ["email", "a b"], [1], None], ids=repr)
def test_queues_are_a_sequence_of_names(queues: Any):
    """A bare string is one name to its writer, and five queues to a loop."""
    with pytest.raises(ConfigError):
        WorkerConfig(queues=queues)


def test_a_worker_may_stop_at_once():
    assert WorkerConfig(shutdown_timeout_s=0).shutdown_timeout_s == 0


def test_two_heartbeats_may_fail_before_the_lease_runs_out():
    assert WorkerConfig(lease_s=15).heartbeat_s == 5


@pytest.mark.parametrize(("lease_s", "block_s", "longest"), [(15, 4, 4), (6, 4, 2), (12, 4, 4), (60, 10, 10)])
def test_a_block_ends_before_a_third_of_the_lease(lease_s: float, block_s: float, longest: float):
    assert WorkerConfig(lease_s=lease_s, block_s=block_s).longest_block_s == longest


@given(st.floats(0, 0.01), st.floats(0, 0.01))
def test_times_that_redis_would_round_to_nothing_are_refused(lease_s: float, block_s: float):
    """A lease of 0 ms is never owned, and a blocking pop with `0.000` waits for ever."""
    try:
        config = WorkerConfig(lease_s=lease_s, block_s=block_s)
    except ConfigError:
        return
    assert round(config.lease_s * 1000) > 0
    assert float(f"{config.longest_block_s:.3f}") > 0


# --- the checks themselves --------------------------------------------------------------------------------------------


@given(st.floats(min_value=0, exclude_min=True, allow_infinity=False) | st.integers(min_value=1, max_value=2**53))
def test_a_positive_number_is_allowed(value: float):
    positive("x", value)


def test_a_positive_number_over_its_maximum_is_refused():
    positive("x", 5, maximum=5)
    with pytest.raises(ConfigError, match=r"x 5\.5: at most 5"):
        positive("x", 5.5, maximum=5)


@given(st.integers(), st.integers())
def test_a_whole_number_is_allowed_from_the_minimum(value: int, minimum: int):
    if value >= minimum:
        whole("x", value, minimum)
        return
    with pytest.raises(ConfigError, match=re.escape(f"x {value}: a whole number from {minimum}")):
        whole("x", value, minimum)


@pytest.mark.parametrize("value", [None, 0, 0.0, 1, 0.5, 1e9])
def test_a_time_to_live_is_allowed(value: float | None):
    check_ttl("x", value)


@pytest.mark.parametrize("value", [-1, "1", True, False, math.nan, math.inf], ids=repr)
def test_what_is_no_time_to_live_is_refused(value: object):
    with pytest.raises(ConfigError, match=re.escape(f"x {value!r}")):
        check_ttl("x", value)


def test_what_a_pool_and_its_limits_refuse():
    for wrong in (
        {"pool": "gevent"},
        {"pool": "prefork", "concurrency": 2},
        {"pool": "solo"},
        {"time_limit_s": 0},
        {"soft_time_limit_s": -1},
        {"time_limit_s": 5, "soft_time_limit_s": 5},
        {"max_tasks": 0},
        {"max_memory_bytes": 0},
        {"autoscale": (1, 2)},
        {"autoscale": (2, 0)},
    ):
        with pytest.raises(ConfigError, match=next(iter(wrong)).removesuffix("_s").removesuffix("_bytes")):
            WorkerConfig(**wrong)
    assert WorkerConfig(pool="prefork", concurrency=1, time_limit_s=5, soft_time_limit_s=4.5).pool == "prefork"


@pytest.mark.parametrize(
    ("age", "seconds"),
    [
        *[("90s", 90), ("15m", 900), ("3h", 10_800), ("7d", 604_800), ("1.5h", 5400), ("45", 45), (0, 0), (0.5, 0.5)],
        (timedelta(days=30), 2_592_000),
    ],
)
def test_an_age_is_a_number_a_timedelta_or_a_text_with_a_unit(age: Any, seconds: float):
    assert age_s(age) == seconds


@pytest.mark.parametrize("age", ["soon", "", "d", "-1d", "nan", "inf", "1e10", -1, True, None, timedelta(days=-1)])
def test_what_is_no_age_is_refused_by_its_name(age: Any):
    with pytest.raises(ConfigError) as refused:
        age_s(age, "retention")
    assert str(refused.value) == f"retention {age!r}: write it as 90s, 15m, 3h or 7d"


@pytest.mark.parametrize("retention", ["30d", 3600, timedelta(hours=1), None])
def test_a_retention_is_an_age_of_an_hour_or_more(retention: Any):
    assert Results("sqlite:///h.db", retention=retention).retention == retention


def test_passwords_are_not_shown():
    kept = Results("postgresql://u:secret@db/app", outbox="postgresql://u:secret@db/shop")
    assert "secret" not in repr(kept)
    with pytest.raises(ConfigError) as raised:
        Results("u:secret@db/app")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("retention", ["30 days", "59m", 0, -1, timedelta(minutes=59), "1y"])
def test_a_wrong_retention_is_refused_where_it_is_written(retention: Any):
    with pytest.raises(ConfigError, match=f"^retention {re.escape(repr(retention))}: "):
        Results("sqlite:///h.db", retention=retention)
