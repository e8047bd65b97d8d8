"""judge: every outcome, with every option, to what is to be done; pure."""

import asyncio
from datetime import timedelta

import orjson
import pytest

from rqueue import Retry
from rqueue.client.options import TaskOptions
from rqueue.config import Limits, WorkerConfig
from rqueue.wire.keys import MAIN, Keys
from rqueue.wire.message import Call, Header, Message
from rqueue.wire.record import Failure, Letter
from rqueue.worker.inflight import ClaimedJob
from rqueue.worker.judge import RETRY_RECORD_TTL_S, Judge
from rqueue.worker.outcome import (
    Ack,
    Bury,
    Defer,
    Expired,
    Failed,
    Interrupted,
    Rejected,
    Release,
    Revoke,
    Revoked,
    Snoozed,
    Succeeded,
    Unknown,
    Unreadable,
    WantsRetry,
)

NOW = 1_767_225_600_000
BOOM = Failure("ValueError", "boom", "Traceback …")
CALL = Call("tasks.t", enqueued=NOW - 100, parent_id="p", root_id="r")


@pytest.fixture
def judge():
    return Judge(Limits(), WorkerConfig(unknown_task_s=300, unknown_retry_s=10), lambda: NOW)


def claimed(*, job_id="j", **header):
    body = b'{"task":"tasks.t"}'
    message = Message.build(Header(id=job_id, **header), body)
    return ClaimedJob(Keys().queue("q"), "w", message, "j", 5, started_ms=NOW - 10)


def fields(record):
    assert record.startswith(b'{"state":"')
    return orjson.loads(record)


ABOUT = {
    "task": "tasks.t",
    "worker": "w",
    "enqueued": NOW - 100,
    "started": NOW - 10,
    "finished": NOW,
    "parent_id": "p",
    "root_id": "r",
}
ERROR = {"error": {"type": "ValueError", "message": "boom"}, "traceback": "Traceback …"}
HISTORY = {"history": [[NOW, "ValueError: boom"]]}


# Succeeded


def test_what_a_store_keeps_for_ever_redis_keeps_for_a_while():
    """Breaks when a task's own `result_ttl=None` fills Redis though a store has its results."""
    judge = Judge(Limits(result_ttl_s=None, copy_ttl_s=3600), WorkerConfig(), lambda: NOW)
    assert judge.ttl(TaskOptions()) == judge.ttl(TaskOptions(result_ttl=None)) == "3600"
    assert judge.ttl(TaskOptions(result_ttl=60)) == "60"
    assert judge.ttl(TaskOptions(result_ttl=0)) == "0"


@pytest.mark.parametrize(
    ("options", "ttl"),
    [
        (TaskOptions(), "3600"),
        (TaskOptions(result_ttl=0), "0"),
        (TaskOptions(result_ttl=None), ""),
        (TaskOptions(result_ttl=60), "60"),
        (TaskOptions(result_ttl=0.2), "1"),
        (TaskOptions(result_ttl=timedelta(minutes=2)), "120"),
    ],
)
def test_success_is_kept_as_long_as_the_task_says(judge, options, ttl):
    settlement = judge.decide(claimed(), Succeeded(b"[1]"), CALL, options)
    assert isinstance(settlement, Ack)
    assert settlement.ttl == ttl
    assert fields(settlement.record) == {"state": "SUCCESS", "result": [1], **ABOUT}


@pytest.mark.parametrize(("ttl_s", "ttl"), [(0, "0"), (None, ""), (7200.0, "7200"), (0.5, "1")])
def test_the_apps_default_counts_where_the_task_says_nothing(ttl_s, ttl):
    judge = Judge(Limits(result_ttl_s=ttl_s), WorkerConfig(), lambda: NOW)
    assert judge.ttl(TaskOptions()) == ttl
    assert judge.ttl(TaskOptions(result_ttl=5)) == "5"


def test_an_ignored_result_is_announced_and_not_kept(judge):
    settlement = judge.decide(claimed(), Succeeded(b"[1]"), CALL, TaskOptions(ignore_result=True))
    assert isinstance(settlement, Ack)
    assert settlement.ttl == "0"
    assert fields(settlement.record) == {"state": "SUCCESS", **ABOUT}


def test_retries_and_losses_are_told(judge):
    settlement = judge.decide(claimed(retries=2, losses=1), Succeeded(b"null"), CALL)
    assert fields(settlement.record) == {"state": "SUCCESS", "result": None, "retries": 2, "losses": 1, **ABOUT}


# Failed


def test_a_failure_is_a_dead_letter_too(judge):
    job = claimed(level=9, retries=3, losses=1)
    settlement = judge.decide(job, Failed(ValueError("boom"), BOOM), CALL)
    assert isinstance(settlement, Bury)
    assert settlement.ttl == "3600"
    assert fields(settlement.record) == {"state": "FAILURE", **ERROR, "retries": 3, "losses": 1, **ABOUT}
    assert Letter.decode(settlement.letter) == Letter(
        "j", "failed", job.message.raw, "tasks.t", BOOM, NOW, retries=3, losses=1
    )


def test_a_failure_of_a_task_that_wants_no_dead_letter(judge):
    settlement = judge.decide(claimed(), Failed(ValueError("boom"), BOOM), CALL, TaskOptions(dead_letter=False))
    assert isinstance(settlement, Ack)
    assert fields(settlement.record) == {"state": "FAILURE", **ERROR, **ABOUT}


def test_a_failure_of_a_task_that_ignores_its_result_is_kept(judge):
    settlement = judge.decide(claimed(), Failed(ValueError("boom"), BOOM), CALL, TaskOptions(ignore_result=True))
    assert isinstance(settlement, Bury)
    assert settlement.ttl == "3600"


@pytest.mark.parametrize(
    ("errors", "error", "is_retried"),
    [
        ((ValueError,), ValueError(), True),
        ((Exception,), ValueError(), True),
        ((OSError, ValueError), ValueError(), True),
        ((OSError,), ValueError(), False),
        ((), ValueError(), False),
        ((Exception,), SystemExit(), False),
        ((BaseException,), SystemExit(), True),
        ((asyncio.CancelledError,), asyncio.CancelledError(), True),
    ],
)
def test_autoretry_for_names_the_errors(judge, errors, error, is_retried):
    settlement = judge.decide(claimed(), Failed(error, BOOM), CALL, TaskOptions(autoretry_for=errors))
    assert isinstance(settlement, Defer if is_retried else Bury)


@pytest.mark.parametrize(
    ("task", "call", "retries", "is_retried"),
    [
        (3, ..., 2, True),
        (3, ..., 3, False),
        (0, ..., 0, False),
        (None, ..., 10_000, True),
        (3, 5, 4, True),
        (3, 5, 5, False),
        (3, None, 10_000, True),
        (3, 0, 0, False),
    ],
)
@pytest.mark.parametrize("how", ["automatic", "by hand"])
def test_the_limit_is_the_calls_else_the_tasks(judge, how, task, call, retries, is_retried):
    options = TaskOptions(max_retries=task, autoretry_for=(ValueError,))
    outcome = Failed(ValueError(), BOOM) if how == "automatic" else WantsRetry(Retry(), BOOM)
    settlement = judge.decide(claimed(retries=retries), outcome, Call("tasks.t", max_retries=call), options)
    assert isinstance(settlement, Defer if is_retried else Bury)


def test_a_retry_keeps_everything_and_counts_one(judge):
    """The body's fields, the level, the losses and the id stay; ``since`` too. The error is noted."""
    job = claimed(level=7, losses=1, retries=1)
    settlement = judge.decide(job, Failed(ValueError("boom"), BOOM), CALL, TaskOptions(autoretry_for=(ValueError,)))
    assert isinstance(settlement, Defer)
    assert settlement.message.raw == b'1 7 1 2 0 j {"task":"tasks.t","history":[[%d,"ValueError: boom"]]}' % NOW
    assert settlement.delay_s == 180
    assert fields(settlement.record) == {"state": "RETRY", **ERROR, "retries": 1, "losses": 1, **ABOUT, **HISTORY}


def test_a_retried_message_without_an_id_is_given_the_jobs(judge):
    job = claimed(job_id=None)
    settlement = judge.decide(job, WantsRetry(Retry(), None), CALL)
    assert settlement.message.header.id == "j"


@pytest.mark.parametrize(
    ("options", "retries", "low", "high"),
    [
        ({"default_retry_delay": 7}, 0, 7, 7),
        ({"default_retry_delay": timedelta(minutes=1)}, 0, 60, 60),
        ({"retry_backoff": True, "retry_jitter": False}, 0, 1, 1),
        ({"retry_backoff": True, "retry_jitter": False}, 3, 8, 8),
        ({"retry_backoff": 5, "retry_jitter": False}, 1, 10, 10),
        ({"retry_backoff": True, "retry_backoff_max": 4, "retry_jitter": False}, 9, 4, 4),
        ({"retry_backoff": True, "retry_backoff_max": timedelta(seconds=4)}, 9, 0, 4),
    ],
)
def test_automatic_delays(judge, options, retries, low, high):
    options = TaskOptions(autoretry_for=(ValueError,), max_retries=None, **options)
    settlement = judge.decide(claimed(retries=retries), Failed(ValueError(), BOOM), CALL, options)
    assert low <= settlement.delay_s <= high


# WantsRetry


@pytest.mark.parametrize(("defer", "delay_s"), [(None, 33), (0, 0), (2.5, 2.5)])
def test_a_retry_by_hand_says_when_else_the_task_does(judge, defer, delay_s):
    settlement = judge.decide(claimed(), WantsRetry(Retry(defer), BOOM), CALL, TaskOptions(default_retry_delay=33))
    assert isinstance(settlement, Defer)
    assert settlement.delay_s == delay_s
    assert fields(settlement.record) == {"state": "RETRY", **ERROR, **ABOUT, **HISTORY}


def test_a_retry_by_hand_needs_no_error(judge):
    """And then changes nothing of the message but its header."""
    settlement = judge.decide(claimed(), WantsRetry(Retry(1), None), CALL)
    assert settlement.message.raw == b'1 - 0 1 0 j {"task":"tasks.t"}'
    assert fields(settlement.record) == {"state": "RETRY", **ABOUT}


@pytest.mark.parametrize(("limit", "retries", "is_retried"), [(1, 0, True), (1, 1, False), (None, 99, True)])
def test_a_retry_by_hand_may_name_the_limit(judge, limit, retries, is_retried):
    outcome = WantsRetry(Retry(max_retries=limit), BOOM)
    call = Call("tasks.t", max_retries=50)
    settlement = judge.decide(claimed(retries=retries), outcome, call, TaskOptions(max_retries=70))
    assert isinstance(settlement, Defer if is_retried else Bury)


def test_no_retry_left_fails_with_the_error_that_was_given(judge):
    settlement = judge.decide(claimed(retries=3), WantsRetry(Retry(exc=ValueError("boom")), BOOM), CALL)
    assert isinstance(settlement, Bury)
    assert fields(settlement.record)["error"] == ERROR["error"]


def test_no_retry_left_and_no_error_is_max_retries_exceeded(judge):
    settlement = judge.decide(claimed(retries=3), WantsRetry(Retry(), None), CALL)
    assert isinstance(settlement, Bury)
    assert fields(settlement.record)["error"] == {
        "type": "MaxRetriesExceeded",
        "message": "no retry left after 3",
    }


def test_max_retries_exceeded_has_what_was_being_handled_as_its_cause(judge):
    """Breaks when the signal's own text, or nothing, is told in place of the cause."""
    signal = Retry()
    signal.__context__ = ValueError("boom")
    said = fields(judge.decide(claimed(retries=3), WantsRetry(signal, BOOM), CALL).record)
    assert said["error"] == {"type": "MaxRetriesExceeded", "message": "no retry left after 3: ValueError: boom"}
    assert "ValueError: boom\n\nThe above exception was the direct cause" in said["traceback"]


# The history


def test_the_history_is_the_last_ten_errors_cut_to_their_length(judge):
    history = [[number, f"E: {number}"] for number in range(10)]
    call = Call("tasks.t", history=history)
    long = Failure("ValueError", "x" * 500)
    settlement = judge.decide(claimed(retries=3), WantsRetry(Retry(max_retries=None), long), call)
    kept = [*history[1:], [NOW, "ValueError: " + "x" * 188]]
    assert orjson.loads(settlement.message.body)["history"] == fields(settlement.record)["history"] == kept


@pytest.mark.parametrize("outcome", [Succeeded(b"1"), Failed(ValueError("boom"), BOOM), Revoked()])
def test_the_history_is_told_to_the_end(judge, outcome):
    history = [[5, "E: x"]]
    settlement = judge.decide(claimed(retries=1), outcome, Call("tasks.t", history=history))
    assert fields(settlement.record)["history"] == history


def test_fields_that_nobody_knows_outlive_a_retry(judge):
    body = b'{"x-trace":{"$bytes":"AA=="},"task":"tasks.t","args":[{"$dict":{"$bytes":1}}],"history":[]}'
    job = ClaimedJob(Keys().queue("q"), "w", Message.build(Header(id="j"), body), "j", 5)
    settlement = judge.decide(job, WantsRetry(Retry(), BOOM, {"kwargs": b'{"a":1}'}), CALL)
    assert settlement.message.body == (
        b'{"x-trace":{"$bytes":"AA=="},"task":"tasks.t","args":[{"$dict":{"$bytes":1}}],"kwargs":{"a":1},'
        b'"history":[[%d,"ValueError: boom"]]}' % NOW
    )


def test_a_body_that_is_too_deep_to_be_written_again_fails(judge):
    """Breaks when it is an error of the worker's own."""
    body = b'{"task":"tasks.t","args":[' + b"[" * 300 + b"]" * 300 + b"]}"
    job = ClaimedJob(Keys().queue("q"), "w", Message.build(Header(id="j"), body), "j", 5)
    settlement = judge.decide(job, Failed(ValueError(), BOOM), CALL, TaskOptions(autoretry_for=(ValueError,)))
    assert isinstance(settlement, Bury)


# Snoozed, Rejected, throws, dont_autoretry_for


def test_a_snoozed_job_goes_on_as_it_came(judge):
    """No retry more, no history, no error; its record says PENDING, since one may say that it runs."""
    settlement = judge.decide(claimed(level=7, losses=1, job_id=None), Snoozed(30.0), CALL)
    assert isinstance(settlement, Defer)
    assert settlement.message.raw == b'1 7 1 0 0 j {"task":"tasks.t"}'
    assert (settlement.delay_s, settlement.is_quiet) == (30.0, True)
    assert fields(settlement.record) == {"state": "PENDING", "losses": 1, **ABOUT}


def test_a_snoozed_retry_still_tells_its_last_error(judge):
    call = Call("tasks.t", history=[[1, "KeyError: 'k'"], [2, "ValueError: boom: no"]])
    said = fields(judge.decide(claimed(retries=2), Snoozed(30.0), call).record)
    assert (said["state"], said["retries"]) == ("RETRY", 2)
    assert said["error"] == {"type": "ValueError", "message": "boom: no"}


@pytest.mark.parametrize("options", [TaskOptions(), TaskOptions(autoretry_for=(BaseException,), max_retries=None)])
def test_a_rejected_job_is_a_dead_letter_at_once(judge, options):
    settlement = judge.decide(claimed(), Rejected(BOOM), CALL, options)
    assert isinstance(settlement, Bury)
    assert fields(settlement.record)["state"] == "FAILURE"
    assert Letter.decode(settlement.letter).reason == "rejected"


def test_a_task_without_dead_letters_has_none_of_what_it_rejects(judge):
    assert isinstance(judge.decide(claimed(), Rejected(BOOM), CALL, TaskOptions(dead_letter=False)), Ack)


@pytest.mark.parametrize(
    ("options", "settled"),
    [
        ({}, Bury),
        ({"throws": (ValueError,)}, Ack),
        ({"throws": (LookupError,)}, Bury),
        ({"throws": (ValueError,), "autoretry_for": (ValueError,)}, Defer),
        ({"throws": (ValueError,), "autoretry_for": (ValueError,), "max_retries": 0}, Ack),
        ({"autoretry_for": (Exception,), "dont_autoretry_for": (ValueError,)}, Bury),
        ({"autoretry_for": (Exception,), "dont_autoretry_for": (LookupError,)}, Defer),
        ({"autoretry_for": (Exception,), "dont_autoretry_for": (ValueError,), "throws": (Exception,)}, Ack),
    ],
)
def test_an_expected_error_is_no_dead_letter_and_an_excluded_one_no_retry(judge, options, settled):
    settlement = judge.decide(claimed(), Failed(ValueError("boom"), BOOM), CALL, TaskOptions(**options))
    assert isinstance(settlement, settled)
    if settled is Ack:
        assert settlement.is_expected
        assert fields(settlement.record) == {"state": "FAILURE", **ERROR, **ABOUT}


def test_an_expected_error_of_the_last_retry_is_expected_too(judge):
    outcome = WantsRetry(Retry(exc=ValueError("boom")), BOOM)
    settlement = judge.decide(claimed(retries=3), outcome, CALL, TaskOptions(throws=(ValueError,)))
    assert isinstance(settlement, Ack)
    assert settlement.is_expected


# The rest


def test_expired_is_revoked_and_no_dead_letter(judge):
    settlement = judge.decide(claimed(), Expired(), CALL)
    assert isinstance(settlement, Ack)
    said = fields(settlement.record)
    assert (said["state"], said["error"]["type"]) == ("REVOKED", "JobExpired")


@pytest.mark.parametrize("options", [TaskOptions(), TaskOptions(autoretry_for=(BaseException,))])
def test_a_job_that_was_cancelled_while_it_ran_is_revoked_and_no_dead_letter(judge, options):
    settlement = judge.decide(claimed(), Revoked(), CALL, options)
    assert isinstance(settlement, Revoke)
    said = fields(settlement.record)
    assert (said["state"], said["error"]["type"]) == ("REVOKED", "JobRevoked")


def test_an_unknown_task_is_put_off_with_the_time_of_the_first_meeting(judge):
    settlement = judge.decide(claimed(level=4), Unknown("tasks.t"))
    assert isinstance(settlement, Defer)
    assert settlement.message.header == Header(4, 0, 0, NOW, "j")
    assert (settlement.delay_s, settlement.record) == (10, b"")


def test_an_unknown_task_keeps_the_first_time(judge):
    settlement = judge.decide(claimed(since=NOW - 299_999), Unknown("tasks.t"))
    assert isinstance(settlement, Defer)
    assert settlement.message.header.since == NOW - 299_999


def test_an_unknown_task_is_a_dead_letter_at_last(judge):
    job = claimed(since=NOW - 300_000)
    settlement = judge.decide(job, Unknown("tasks.t"))
    assert isinstance(settlement, Bury)
    letter = Letter.decode(settlement.letter)
    assert (letter.reason, letter.task, letter.raw) == ("unknown task", "tasks.t", job.message.raw)
    assert fields(settlement.record)["error"]["type"] == "UnknownTask"


def test_what_cannot_be_read_is_a_dead_letter_with_its_bytes(judge):
    raw = b"\xff\x00not a message"
    job = ClaimedJob(Keys().queue("q"), "w", Message(raw, Header(), raw), "made-up", 5)
    settlement = judge.decide(job, Unreadable("malformed", "why"))
    assert isinstance(settlement, Bury)
    letter = Letter.decode(settlement.letter)
    assert letter == Letter("made-up", "malformed", raw, None, Failure("MalformedMessage", "why"), NOW)
    assert fields(settlement.record)["state"] == "FAILURE"


def test_interrupted_is_given_back(judge):
    assert judge.decide(claimed(losses=1), Interrupted(), CALL) == Release()


def test_started_has_no_end(judge):
    record = fields(judge.started(claimed(), CALL))
    assert record == {"state": "STARTED", **{key: value for key, value in ABOUT.items() if key != "finished"}}


def test_a_records_retention_while_it_waits_for_its_retry_is_a_day():
    assert RETRY_RECORD_TTL_S == 86_400
    assert MAIN == 0
