"""The tree of errors: what each can be caught as, what it says, and that it survives the way to another process."""

import copy
import inspect
import pickle
from datetime import timedelta

import pytest

from rqueue import errors
from rqueue.errors import (
    BrokerError,
    BrokerUnavailable,
    ConfigError,
    EnqueueManyFailed,
    EnqueueUnknown,
    JobError,
    JobExpired,
    JobFailed,
    JobNotFound,
    JobRevoked,
    NotDurable,
    Reject,
    ReplyLost,
    ResultNotKept,
    Retry,
    RQueueError,
    Signal,
    Snooze,
    SoftTimeLimitExceeded,
    TimeLimitExceeded,
)

ALL = [
    each
    for name, each in inspect.getmembers(errors, inspect.isclass)
    if issubclass(each, BaseException) and not name.startswith("_")
]

EXAMPLES = [
    JobFailed("order-17", "ValueError", "no", "Traceback …"),
    JobRevoked("order-17", "job order-17 was revoked"),
    JobExpired("order-17", "job order-17 had expired"),
    JobNotFound("order-17"),
    ResultNotKept("order-17"),
    EnqueueUnknown(["a", "b"]),
    NotDurable(["a", "b"], "no replica has it"),
    EnqueueManyFailed(["a handle", None], [None, BrokerError("WRONGTYPE")]),
    Retry(5.0, exc=OSError("refused"), max_retries=None),
    Retry(),
    Retry(timedelta(minutes=1), args=[1], kwargs={"a": 2}, queue="email"),
    Snooze(30),
    Reject("not mine", requeue=True),
    SoftTimeLimitExceeded(),
    TimeLimitExceeded("the job has run for longer than its time_limit of 3 s"),
    *(each("text") for each in ALL if "__init__" not in vars(each) and not issubclass(each, JobError | Signal)),
]


def test_each_is_an_error_or_a_signal_and_never_both():
    for each in ALL:
        assert issubclass(each, RQueueError) != issubclass(each, Signal), each


def test_a_signal_is_no_error_that_a_task_catches_by_accident():
    assert not issubclass(Signal, RQueueError)


@pytest.mark.parametrize(
    ("name", "also"),
    [
        ("ConfigError", ValueError),
        ("MissingDependency", ImportError),
        ("MessageTooLarge", ValueError),
        ("MalformedMessage", ValueError),
        ("BrokerUnavailable", ConnectionError),
        ("ReplyLost", BrokerUnavailable),
        ("BrokerFull", BrokerError),
        ("EnqueueUnknown", BrokerError),
        ("NotDurable", EnqueueUnknown),
        ("DurabilityRefused", BrokerError),
        ("DurabilityRefused", ConfigError),
        ("EnqueueManyFailed", BrokerError),
        ("JobNotFound", LookupError),
        ("JobExpired", JobRevoked),
        ("WaitTimeout", TimeoutError),
    ],
)
def test_each_can_be_caught_as_what_it_also_is(name: str, also: type[Exception]):
    assert issubclass(getattr(errors, name), also)


def test_an_unknown_enqueue_is_not_a_failed_one():
    """Whoever enqueues again after BrokerUnavailable must not do so after this."""
    assert not issubclass(EnqueueUnknown, BrokerUnavailable)
    assert not issubclass(EnqueueManyFailed, BrokerUnavailable)


def test_each_has_a_sentence_that_says_when():
    assert [each.__name__ for each in ALL if not (each.__doc__ or "").strip().endswith((".", ".."))] == []


# --- what they say ----------------------------------------------------------------------------------------------------


def test_a_failed_job_says_how():
    error = JobFailed("order-17", "ValueError", "no", "Traceback …")
    assert (error.job_id, error.error_type, error.message, error.traceback) == (
        "order-17",
        "ValueError",
        "no",
        "Traceback …",
    )
    assert str(error) == "job order-17 failed: ValueError: no"


def test_a_job_that_nobody_knows_says_so():
    error = JobNotFound("order-17")
    assert error.job_id == "order-17"
    assert str(error) == "job order-17 is not known: never enqueued, or its result is no longer kept"


def test_an_unknown_enqueue_keeps_all_ids_and_shows_five():
    error = EnqueueUnknown([f"job-{number}" for number in range(7)])
    assert error.ids == tuple(f"job-{number}" for number in range(7))
    assert "an enqueue of 7 job(s) was lost (job-0, job-1, job-2, job-3, job-4 …)" in str(error)
    assert "(a, b)" in str(EnqueueUnknown(["a", "b"]))


def test_an_enqueue_that_is_not_durable_says_that_it_is_stored():
    error = NotDurable(["a"], "no replica has it")
    assert error.ids == ("a",)
    assert str(error) == "1 job(s) were enqueued, but are not known to be safe (a): no replica has it"


def test_a_failed_enqueue_of_many_says_which_and_why():
    refused = BrokerError("WRONGTYPE a waiting list holds a string")
    error = EnqueueManyFailed(["handle", None, None], [None, refused, EnqueueUnknown(["c"])])
    assert error.jobs == ("handle", None, None)
    assert error.errors[:2] == (None, refused)
    assert str(error) == "2 of 3 calls were not enqueued, the first because: WRONGTYPE a waiting list holds a string"


@pytest.mark.parametrize("defer", [-1, float("nan"), float("inf"), 1e10, True, "60", [1]])
def test_a_retry_that_has_no_time_is_refused_where_it_is_raised(defer):
    """Breaks when the worker meets it first: the job could not be settled."""
    with pytest.raises(ConfigError, match="defer"):
        Retry(defer)


@pytest.mark.parametrize("limit", [-1, 1.5, True, "3"])
def test_a_retry_with_a_wrong_limit_is_refused_where_it_is_raised(limit):
    with pytest.raises(ConfigError, match="max_retries"):
        Retry(max_retries=limit)


@pytest.mark.parametrize("wrong", [{"args": 5}, {"args": "ab"}, {"kwargs": [1]}, {"kwargs": "a"}], ids=repr)
def test_arguments_that_are_none_are_refused_where_they_are_written(wrong):
    """Breaks when a text becomes a list of its letters."""
    with pytest.raises(ConfigError, match=r"^(args|kwargs) "):
        Retry(**wrong)


def test_requeue_is_yes_or_no():
    with pytest.raises(ConfigError, match="True or False"):
        Reject("why", requeue="no")  # type: ignore[arg-type]


@pytest.mark.parametrize("delay", [-1, float("nan"), 1e10, True, "60", None, timedelta(-1)])
def test_a_snooze_that_has_no_time_is_refused_where_it_is_raised(delay):
    with pytest.raises(ConfigError, match="delay"):
        Snooze(delay)


def test_signals_take_a_timedelta_and_say_what_they_are():
    assert (Snooze(timedelta(minutes=1)).delay_s, Retry(timedelta(minutes=1)).defer) == (60.0, 60.0)
    assert str(Snooze(0)) == "snooze for 0 s"
    assert (str(Reject()), str(Reject(OSError("no"))), Reject().requeue) == ("the task rejected it", "no", False)


def test_a_retry_says_when_and_leaves_the_limit_alone():
    assert (str(Retry(60)), str(Retry()), str(Retry(0))) == ("retry in 60 s", "retry", "retry in 0 s")
    assert Retry().max_retries is ...
    assert Retry(max_retries=None).max_retries is None
    cause = OSError()
    assert Retry(exc=cause).exc is cause


# --- on their way -----------------------------------------------------------------------------------------------------


def test_there_is_an_example_of_each():
    made_only_to_be_caught = {RQueueError, JobError, Signal}
    assert {type(example) for example in EXAMPLES} | made_only_to_be_caught >= set(ALL)


def seen(error: BaseException) -> tuple[type, str, dict[str, str]]:
    return type(error), str(error), {name: repr(value) for name, value in vars(error).items()}


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_it_survives_the_way_to_another_process(error: Exception):
    """From a prefork child, or out of a process pool that waits for a job."""
    assert seen(pickle.loads(pickle.dumps(error))) == seen(error)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_it_can_be_copied(error: Exception):
    """As frameworks do that raise one error to several waiters."""
    assert seen(copy.copy(error)) == seen(error)


def test_lost_replies_are_connection_errors_to_a_task_that_retries_on_them():
    assert issubclass(ReplyLost, ConnectionError)
