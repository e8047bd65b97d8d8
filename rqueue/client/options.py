"""The options of a task and of a call: checked where they are written, with the allowed values in the message."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from typing import Any, Final, Literal, TypedDict

from rqueue.client.signals import HOOKS, JobOutcome, check_outcome_hook
from rqueue.config import check_time_limits, check_ttl, positive
from rqueue.errors import ConfigError
from rqueue.policy.redaction import Sensitive
from rqueue.policy.routing import choose_priority, choose_queue
from rqueue.wire.keys import MAIN, check_job_id, check_queue_name
from rqueue.wire.message import check_priority, rare_fields

Seconds = float | timedelta
Unique = Literal["until_done", "until_start"] | timedelta
UniqueKey = Callable[..., object] | str


class CallKwargs(TypedDict, total=False):
    """What ``task.options(…)`` and ``apply_async`` accept; see :class:`CallOptions`."""

    queue: str
    priority: int
    countdown: Seconds
    eta: datetime
    expires: Seconds | datetime
    job_id: str
    task_id: str
    max_retries: int | None
    time_limit: Seconds | None
    soft_time_limit: Seconds | None
    unique: Unique | None
    unique_key: UniqueKey
    debounce: Seconds
    throttle: Seconds
    headers: Mapping[str, Any]


class TaskKwargs(TypedDict, total=False):
    """What ``app.task(…)`` accepts beside ``bind``; see :class:`TaskOptions`."""

    name: str
    queue: str
    priority: int
    expires: Seconds
    max_retries: int | None
    default_retry_delay: Seconds
    autoretry_for: tuple[type[BaseException], ...]
    dont_autoretry_for: tuple[type[BaseException], ...]
    throws: tuple[type[BaseException], ...]
    retry_backoff: bool | float
    retry_backoff_max: Seconds
    retry_jitter: bool
    acks_late: bool
    ignore_result: bool
    track_started: bool
    result_ttl: Seconds | None
    dead_letter: bool
    sensitive: Sensitive
    time_limit: Seconds | None
    soft_time_limit: Seconds | None
    unique: Unique | None
    unique_key: UniqueKey
    debounce: Seconds
    throttle: Seconds
    on_success: Callable[[JobOutcome], object]
    on_failure: Callable[[JobOutcome], object]
    on_retry: Callable[[JobOutcome], object]
    on_dead: Callable[[JobOutcome], object]


INHERIT: Final[Any] = ...
"""The value of an option that was not given: the app's default counts."""


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """A task's options, with Celery's names.

    Args:
        name: default ``module.function``.
        queue: default: the first route that matches, else ``default``.
        priority: 1 lowest to 10 highest; default none, the queue's rank counts.
        expires: seconds after the enqueue when the job must not start any more; default never.
        max_retries: retries beside the first run; None is no limit. Default 3.
        default_retry_delay: seconds until a retry that names none. Default 180, as in Celery.
        autoretry_for: exceptions that make the job run again.
        dont_autoretry_for: exceptions that do not, though ``autoretry_for`` names them or a class above them.
        throws: exceptions that are expected: the job fails with them, and that is no news: logged as information,
            and no dead letter.
        retry_backoff: True or a factor in seconds: automatic retries wait exponentially longer. Default False.
        retry_backoff_max: seconds; no automatic retry waits longer. Default 600.
        retry_jitter: choose the wait evenly between 0 and what the backoff gives. Default True.
        acks_late: settle after the run (default): a job whose worker dies runs again. False settles before the start:
            it runs at most once.
        ignore_result: keep no value, only announce the end.
        track_started: write the state STARTED when the job starts.
        result_ttl: seconds the result is kept; 0 keeps none, None for ever. Default: the app's.
        dead_letter: keep a job that failed for good among the dead letters. Default True.
        sensitive: True: none of its arguments is shown in logs and to operators; or the names of parameters that are
            not. Those whose names speak of secrets (``password``, ``token``, …) never are. Default False.
        time_limit: seconds after which a run is ended, with TimeLimitExceeded. Default: the worker's.
        soft_time_limit: seconds after which SoftTimeLimitExceeded is raised inside the task. Default: the worker's.
        unique: while a job of the same task and arguments is there, in the same queue, enqueueing it again gives that
            job's handle: ``until_done``, ``until_start`` (of its first run), or a timedelta: until it is done, and no
            longer than that after its enqueue. Default None: never.
        unique_key: what makes two calls the same, in place of all arguments: a template over the parameters, for
            example ``"{tenant}:{doc}"``, or a function of the call's arguments. The task's name is always part of it.
        debounce: seconds; run so long after the last of several calls, with its arguments.
        throttle: seconds; of the calls within such a period the first one runs, the others get its handle.
        on_success: called with a :class:`~rqueue.client.signals.JobOutcome` in the worker once a job has succeeded, and
            Redis has confirmed it; more of them by ``@task.on_success``, and for all tasks by ``@app.on_success``.
        on_failure: the same, once a job has failed for good.
        on_retry: the same, once a job is to run again.
        on_dead: the same, once a job has become a dead letter.
    """

    name: str | None = None
    queue: str | None = None
    priority: int | None = None
    expires: Seconds | None = None
    max_retries: int | None = 3
    default_retry_delay: Seconds = 180.0
    autoretry_for: tuple[type[BaseException], ...] = ()
    dont_autoretry_for: tuple[type[BaseException], ...] = ()
    throws: tuple[type[BaseException], ...] = ()
    retry_backoff: bool | float = False
    retry_backoff_max: Seconds = 600.0
    retry_jitter: bool = True
    acks_late: bool = True
    ignore_result: bool = False
    track_started: bool = False
    result_ttl: Seconds | None = INHERIT
    dead_letter: bool = True
    sensitive: Sensitive = False
    time_limit: Seconds | None = None
    soft_time_limit: Seconds | None = None
    unique: Unique | None = None
    unique_key: UniqueKey | None = None
    debounce: Seconds | None = None
    throttle: Seconds | None = None
    on_success: Callable[[JobOutcome], object] | None = None
    on_failure: Callable[[JobOutcome], object] | None = None
    on_retry: Callable[[JobOutcome], object] | None = None
    on_dead: Callable[[JobOutcome], object] | None = None

    def __post_init__(self) -> None:
        name: object = self.name
        if name is not None and (not isinstance(name, str) or not name):
            raise ConfigError(f"name {name!r}: a task's name is a string that is not empty")
        _check_common(self)
        if self.expires is not None:
            positive("expires", seconds(self.expires, "expires"))
        if seconds(self.default_retry_delay, "default_retry_delay") < 0:
            raise ConfigError(f"default_retry_delay {self.default_retry_delay!r}: seconds, 0 or more")
        for name in ("autoretry_for", "dont_autoretry_for", "throws"):
            _check_errors(name, getattr(self, name))
        if not isinstance(self.retry_backoff, bool):
            positive("retry_backoff", self.retry_backoff)
        positive("retry_backoff_max", seconds(self.retry_backoff_max, "retry_backoff_max"))
        for flag in ("retry_jitter", "acks_late", "ignore_result", "track_started", "dead_letter"):
            if not isinstance(value := getattr(self, flag), bool):
                raise ConfigError(f"{flag} {value!r}: True or False")
        names: object = self.sensitive
        if not isinstance(names, bool) and not (
            isinstance(names, tuple | list | set | frozenset) and all(isinstance(name, str) and name for name in names)
        ):
            raise ConfigError(f"sensitive {names!r}: True, False, or parameters' names, for example ('card_number',)")
        if self.result_ttl is not INHERIT:
            check_ttl("result_ttl", None if self.result_ttl is None else seconds(self.result_ttl, "result_ttl"))
        _check_hooks(self)

    @classmethod
    def of(cls, given: dict[str, Any]) -> TaskOptions:
        """Options from keyword arguments.

        Raises:
            ConfigError: one is unknown or wrong; the text says which are allowed.
        """
        refuse_unknown("task option", given, [field.name for field in fields(cls)] + ["bind"])
        return cls(**given)

    @property
    def is_locking(self) -> bool:
        """Whether a second job of the same kind is not simply enqueued."""
        return self.unique is not None or self.debounce is not None or self.throttle is not None

    def ttl_s(self, default: float | None) -> float | None:
        """Seconds the result is kept, with the app's default."""
        if self.result_ttl is INHERIT:
            return default
        return None if self.result_ttl is None else seconds(self.result_ttl)


@dataclass(frozen=True, slots=True)
class CallOptions:
    """The options of one call; they go before the task's.

    Args:
        queue: the queue.
        priority: 1 lowest to 10 highest.
        countdown: seconds from now until the job may start.
        eta: when the job may start; a datetime with a time zone.
        expires: seconds from now, or a datetime with a time zone, after which the job must not start any more.
        job_id: the job's id, 1 to 128 printable ASCII characters without spaces; while a job of that id is alive,
            enqueueing it again gives the existing job's handle. ``task_id`` is the same.
        max_retries: retries beside the first run; None is no limit.
        time_limit: seconds after which a run is ended; None: the task's, else the worker's.
        soft_time_limit: seconds after which SoftTimeLimitExceeded is raised inside the task; None as above.
        unique: while a job of the same task and arguments is there, in the same queue, enqueueing it again gives that
            job's handle: ``until_done``, ``until_start`` (of its first run), or a timedelta: until it is done, and no
            longer than that after its enqueue. None: not, whatever the task says.
        unique_key: what makes two calls the same, in place of all arguments: a template over the parameters, for
            example ``"{tenant}:{doc}"``, or a function of the call's arguments. The task's name is always part of it.
        debounce: seconds; run so long after the last of several calls, with its arguments.
        throttle: seconds; of the calls within such a period the first one runs, the others get its handle.
        headers: what is to be known of the job beside its arguments, by name: ``{"tenant": "acme"}``. Values are JSON;
            the task finds them in ``self.request.headers``, and jobs can be cancelled by them. Jobs that it enqueues
            do not inherit them.
    """

    queue: str | None = None
    priority: int | None = None
    countdown: Seconds | None = None
    eta: datetime | None = None
    expires: Seconds | datetime | None = None
    job_id: str | None = None
    max_retries: int | None = INHERIT
    time_limit: Seconds | None = None
    soft_time_limit: Seconds | None = None
    unique: Unique | None = INHERIT
    unique_key: UniqueKey | None = None
    debounce: Seconds | None = None
    throttle: Seconds | None = None
    headers: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        _check_common(self)
        headers: object = self.headers
        if headers is not None and not (
            isinstance(headers, Mapping) and all(isinstance(name, str) and name for name in headers)
        ):
            raise ConfigError(f"headers {headers!r}: names and JSON values, for example {{'tenant': 'acme'}}")
        if self.job_id is not None:
            check_job_id(self.job_id)
        if self.countdown is not None:
            if self.eta is not None:
                raise ConfigError("countdown and eta: give one of the two")
            if seconds(self.countdown, "countdown") < 0:
                raise ConfigError(f"countdown {self.countdown!r}: seconds, 0 or more")
        for name, moment in (("eta", self.eta), ("expires", self.expires)):
            if isinstance(moment, datetime) and moment.tzinfo is None:
                raise ConfigError(f"{name} {moment!r}: a datetime needs a time zone, for example datetime.now(UTC)")
        if self.eta is not None and not isinstance(self.eta, datetime):
            raise ConfigError(f"eta {self.eta!r}: a datetime with a time zone; for seconds from now use countdown")
        if self.expires is not None and not isinstance(self.expires, datetime):
            positive("expires", seconds(self.expires, "expires"))

    @classmethod
    def of(cls, given: dict[str, Any], base: CallOptions | None = None) -> CallOptions:
        """Options from keyword arguments, over those of an earlier ``options(…)``.

        Raises:
            ConfigError: one is unknown or wrong; the text says which are allowed.
        """
        if "task_id" in given:
            if "job_id" in given:
                raise ConfigError("task_id and job_id: they are the same, give one of the two")
            given = {**given, "job_id": given["task_id"]}
            del given["task_id"]
        refuse_unknown("call option", given, [*(field.name for field in fields(cls)), "task_id"])
        return replace(base, **given) if base is not None else cls(**given)

    @property
    def is_locking(self) -> bool:
        """Whether the call says itself if a second job of the same kind is simply enqueued; else the task does."""
        return self.unique is not INHERIT or self.debounce is not None or self.throttle is not None

    def due(self) -> str:
        """When it may start, as the enqueue script takes it: '' now, '+ms' from now, 'ms' since the epoch."""
        if self.eta is not None:
            return str(epoch_ms(self.eta))
        if self.countdown is not None and (delay := seconds(self.countdown)) > 0:
            return f"+{round(delay * 1000)}"
        return ""

    def expires_ms(self, now_ms: int, default: Seconds | None) -> int | None:
        """After when it must not start, in ms since the epoch."""
        expires = self.expires if self.expires is not None else default
        if expires is None:
            return None
        return epoch_ms(expires) if isinstance(expires, datetime) else now_ms + round(seconds(expires) * 1000)


@dataclass(slots=True)
class Terms:
    """What a call's options and its task's come to, whatever its arguments are.

    Attributes:
        queue: its queue.
        level: the list it goes to, where no job enqueues it.
        job_id: the id that the caller chose, or None.
        due: when it may start, as the enqueue script takes it.
        is_locking: a second job of the same kind is not simply enqueued.
        is_plain: the message says of it what every message says, and no more.
    """

    queue: str
    level: int
    job_id: str | None
    due: str
    is_locking: bool
    is_plain: bool
    _task: TaskOptions
    _call: CallOptions

    @classmethod
    def of(cls, name: str, task: TaskOptions, call: CallOptions, routes: Sequence[tuple[str, str]]) -> Terms:
        """The terms of a call of the task with this name."""
        is_locking = call.is_locking or task.is_locking
        wishes = (call.max_retries, call.expires, task.expires, call.time_limit, call.soft_time_limit, call.headers)
        return cls(
            queue=choose_queue(name, (call.queue, task.queue), routes),
            level=choose_priority(call.priority, None, task.priority) or MAIN,
            job_id=call.job_id,
            due=call.due(),
            is_locking=is_locking,
            is_plain=not is_locking and wishes == (INHERIT, None, None, None, None, None),
            _task=task,
            _call=call,
        )

    @property
    def expires(self) -> bool:
        """Whether it must start within a time: then Redis's clock has to be known."""
        return self._call.expires is not None or self._task.expires is not None

    def fields(
        self, now_ms: int, parent_id: str | None, root_id: str | None, lock: Sequence[str] | None
    ) -> dict[str, Any]:
        """What the message says beyond what every message does, at this time, for a call by that job."""
        call = self._call
        return rare_fields(
            call.expires_ms(now_ms, self._task.expires),
            parent_id,
            root_id,
            optional_seconds(call.time_limit, "time_limit"),
            optional_seconds(call.soft_time_limit, "soft_time_limit"),
            lock,
            call.max_retries,
            call.headers,
        )

    def level_under(self, parent: int | None) -> int:
        """The list it goes to where a job with this priority enqueues it."""
        return choose_priority(self._call.priority, parent, self._task.priority) or MAIN


def optional_seconds(value: Seconds | None, name: str) -> float | None:
    """As :func:`seconds`, where None is none."""
    return None if value is None else seconds(value, name)


def refuse_unknown(kind: str, given: dict[str, Any], allowed: list[str]) -> None:
    """Refuse what is not among the allowed names.

    Raises:
        ConfigError: the text names the unknown one, the nearest allowed one, and all that are allowed.
    """
    for name in given:
        if name not in allowed:
            near = get_close_matches(name, allowed, 1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise ConfigError(f"unknown {kind} {name!r}{hint} Allowed: {', '.join(sorted(allowed))}")


def seconds(value: Seconds, name: str = "a delay") -> float:
    """A number of seconds, or a timedelta, as seconds.

    Raises:
        ConfigError: it is neither, not finite, or longer than three centuries; the text has the name.
    """
    given: object = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(given, bool) or not isinstance(given, int | float) or not abs(given) < 1e10:
        raise ConfigError(f"{name} {value!r}: seconds as a number, or a timedelta")
    return float(given)


def epoch_ms(moment: datetime) -> int:
    """A datetime as ms since the epoch."""
    return round((moment - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(milliseconds=1))


def _check_errors(name: str, errors: object) -> None:
    if not isinstance(errors, tuple) or not all(isinstance(e, type) and issubclass(e, BaseException) for e in errors):
        raise ConfigError(f"{name} {errors!r}: a tuple of exception classes")


def _check_hooks(options: TaskOptions) -> None:
    for name in HOOKS:
        if (hook := getattr(options, name)) is not None:
            check_outcome_hook(name, hook)


def _check_common(options: TaskOptions | CallOptions) -> None:
    if options.queue is not None:
        check_queue_name(options.queue)
    if options.priority is not None:
        check_priority(options.priority)
    limit: object = options.max_retries
    if (
        limit is not None
        and limit is not INHERIT
        and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 0)
    ):
        raise ConfigError(f"max_retries {limit!r}: None for no limit, or a whole number from 0")
    check_time_limits(
        optional_seconds(options.time_limit, "time_limit"),
        optional_seconds(options.soft_time_limit, "soft_time_limit"),
    )
    _check_locking(options)


def _check_locking(options: TaskOptions | CallOptions) -> None:
    unique: object = options.unique
    is_period = isinstance(unique, timedelta) and unique > timedelta()
    if unique is not None and unique is not INHERIT and unique not in ("until_done", "until_start") and not is_period:
        raise ConfigError(f"unique {unique!r}: 'until_done', 'until_start', None, or a timedelta above 0")
    periods = {"debounce": options.debounce, "throttle": options.throttle}
    given = [name for name, period in periods.items() if period is not None]
    for name in given:
        positive(name, seconds(periods[name] or 0, name))
    if len(given) + (unique is not None and unique is not INHERIT) > 1:
        raise ConfigError("unique, debounce and throttle: give one of the three")
    key: object = options.unique_key
    if key is not None and not callable(key) and (not isinstance(key, str) or not key):
        raise ConfigError(f"unique_key {key!r}: a function of the call's arguments, or a template over its parameters")


NO_OPTIONS: Final = CallOptions()
