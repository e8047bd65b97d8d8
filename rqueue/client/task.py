"""A registered function, typed by its own signature, and the ways to make a job of it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, Unpack, overload

from rqueue.client.context import Context
from rqueue.client.job import Job, SyncJob
from rqueue.client.options import NO_OPTIONS, CallKwargs, CallOptions, TaskOptions, Terms
from rqueue.client.resources import Provider, Resources, needs_of
from rqueue.client.signals import HOOKS, Hooks, JobOutcome
from rqueue.client.uniqueness import check_template
from rqueue.errors import ConfigError
from rqueue.policy.redaction import Sensitive

if TYPE_CHECKING:
    from rqueue.client.client import Client
    from rqueue.client.outbox import AsyncTransaction, SyncTransaction

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
Hook = TypeVar("Hook", bound=Callable[[JobOutcome], object])


@dataclass(slots=True)  # not frozen: that would cost each call four times as much
class Signature(Generic[R_co]):
    """A call that has not been enqueued: what ``enqueue_many`` takes.

    Attributes:
        task: the task.
        args, kwargs: its arguments.
        options: the call's options.
    """

    task: Task[Any, R_co]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    options: CallOptions

    @property
    def terms(self) -> Terms:
        """What the options come to."""
        task, options = self.task, self.options
        if options is NO_OPTIONS:
            return task.terms
        return Terms.of(task.name, task.defaults, options, task.client.config.routes)


class Prepared(Generic[P, R]):
    """A task with options for its next calls: ``task.options(priority=9)``."""

    def __init__(self, task: Task[P, R], options: CallOptions) -> None:
        self._task, self._options = task, options

    def options(self, **options: Unpack[CallKwargs]) -> Prepared[P, R]:
        """The same with more options; later ones count."""
        return Prepared(self._task, CallOptions.of(dict(options), self._options))

    def s(self, *args: P.args, **kwargs: P.kwargs) -> Signature[R]:
        """A call for ``enqueue_many``."""
        self._task.check(args, kwargs)
        return Signature(self._task, args, kwargs, self._options)

    async def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """Enqueue a job; returns when Redis has confirmed it. Errors as in :meth:`Task.enqueue`."""
        return await self._task.client.enqueue(Signature(self._task, args, kwargs, self._options))

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> SyncJob[R]:
        """Enqueue from synchronous code. Errors as in :meth:`Task.delay`."""
        return self._task.client.enqueue_sync(self.s(*args, **kwargs))

    async def enqueue_in(self, session: AsyncTransaction, /, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """Enqueue a job with the caller's transaction; see :meth:`Task.enqueue_in`. A delay counts from now."""
        return await self._task.client.enqueue_in(session, Signature(self._task, args, kwargs, self._options))

    def delay_in(self, session: SyncTransaction, /, *args: P.args, **kwargs: P.kwargs) -> SyncJob[R]:
        """The same from synchronous code; see :meth:`Task.delay_in`."""
        return self._task.client.delay_in(session, self.s(*args, **kwargs))


class Task(Generic[P, R]):
    """A registered function; calling it runs it here, like any function.

    Attributes:
        name: the name in messages.
        function: the function.
        is_bound: it takes a :class:`~rqueue.client.context.Context` first.
        is_coroutine: it runs on the event loop; others run in a thread.
        defaults: the task's options.
        terms: what they come to for a call without options.
        needs: its ``Depends`` parameters, and the provider of each.
        parameters: what a caller passes; None for a builtin that does not say.
        hooks: what is called once a job of it was settled.
    """

    def __init__(
        self, client: Client, function: Callable[..., Any], name: str, options: TaskOptions, *, bind: bool
    ) -> None:
        self.client = client
        self.function = function
        self.name = name
        self.defaults = options
        self.terms = Terms.of(name, options, NO_OPTIONS, client.config.routes)
        self.is_bound = bind
        self.is_coroutine = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
            getattr(function, "__call__", None)  # noqa: B004 - an object whose call is a coroutine function
        )
        self.hooks = Hooks(client.signals)
        for hook in HOOKS:
            if (given := getattr(options, hook)) is not None:
                self.hooks.add(hook, given)
        self.needs = needs_of(function)
        self.parameters = _parameters(name, function, bind, self.needs)
        self.check = _checker(name, self.parameters, self.needs)
        check_template(name, options.unique_key, self.parameters)
        _check_sensitive(name, options.sensitive, self.parameters)
        self.__doc__ = function.__doc__
        self.__name__ = getattr(function, "__name__", name)
        self.__module__ = getattr(function, "__module__", __name__)
        self.__wrapped__ = function

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Run the function here and now.

        Raises:
            RuntimeError: a resource that it needs was not passed, and none is open here.
        """
        if self.needs:
            return self._call_with_resources(args, kwargs)
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"Task({self.name!r})"

    def options(self, **options: Unpack[CallKwargs]) -> Prepared[P, R]:
        """The task with options for its next calls.

        Raises:
            ConfigError: an option is unknown or wrong; see :class:`~rqueue.client.options.CallOptions`.
        """
        return Prepared(self, CallOptions.of(dict(options)))

    def s(self, *args: P.args, **kwargs: P.kwargs) -> Signature[R]:
        """A call for ``enqueue_many``."""
        self.check(args, kwargs)
        return Signature(self, args, kwargs, NO_OPTIONS)

    # `async def`, though a function that returns the client's coroutine would cost less: frameworks ask whether what
    # they are given to call is a coroutine function, and would let the coroutine fall.
    async def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """Enqueue a job; returns when Redis has confirmed it.

        Raises:
            TypeError: an argument is missing, unknown or not JSON; nothing was sent.
            MessageTooLarge: over ``max_message_bytes``; nothing was sent.
            BrokerUnavailable, BrokerFull: nothing was enqueued.
            EnqueueUnknown: the reply was lost for good; the job may exist.
        """
        return await self.client.enqueue(Signature(self, args, kwargs, NO_OPTIONS))

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> SyncJob[R]:
        """Enqueue from synchronous code, from any thread where no event loop runs; errors as in :meth:`enqueue`.

        Raises:
            RuntimeError: an event loop runs here; ``await task.enqueue(…)`` instead.
        """
        return self.client.enqueue_sync(self.s(*args, **kwargs))

    def apply_async(
        self, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Unpack[CallKwargs]
    ) -> SyncJob[R]:
        """Enqueue from synchronous code, with options, as in Celery. Errors as in :meth:`delay`."""
        args, kwargs = tuple(args), dict(kwargs or {})
        self.check(args, kwargs)
        return self.client.enqueue_sync(Signature(self, args, kwargs, CallOptions.of(dict(options))))

    async def enqueue_in(self, session: AsyncTransaction, /, *args: P.args, **kwargs: P.kwargs) -> Job[R]:
        """Enqueue a job with the caller's transaction: once it is committed, and never if it is rolled back.

        The job is a row of the table ``rqueue_outbox``, in the caller's own database, until a worker whose app has
        that database as ``results`` has sent it to Redis. Redis is not asked for anything here.

        Args:
            session: SQLAlchemy's ``AsyncSession`` or ``AsyncConnection``; it is neither committed nor rolled back.
            *args: the task's.
            **kwargs: the task's.

        Raises:
            TypeError: an argument is missing, unknown or not JSON, or the session is a synchronous one.
            MessageTooLarge: over ``max_message_bytes``.
            SchemaMismatch: there is no such table; ``rqueue db upgrade`` makes it.
            MissingDependency: the extra ``sql`` is not installed.
            ConfigError: the app runs jobs where they are enqueued.
            sqlalchemy.exc.SQLAlchemyError: what the database has against it.
        """
        return await self.client.enqueue_in(session, Signature(self, args, kwargs, NO_OPTIONS))

    def delay_in(self, session: SyncTransaction, /, *args: P.args, **kwargs: P.kwargs) -> SyncJob[R]:
        """The same from synchronous code, within SQLAlchemy's ``Session`` or ``Connection``; as :meth:`enqueue_in`."""
        return self.client.delay_in(session, self.s(*args, **kwargs))

    # Hooks

    def on_success(self, hook: Hook) -> Hook:
        """Call a function when a job of this task has succeeded, as ``@task.on_success``.

        It is called in the worker once Redis has confirmed, at most once, beside the jobs' slots; what it raises is
        logged, and changes nothing.

        Args:
            hook: a function of one argument, the :class:`~rqueue.client.signals.JobOutcome`: a coroutine function runs
                on the event loop, any other in a thread.

        Raises:
            ConfigError: it cannot be called so.
        """
        return self.hooks.add("on_success", hook)

    def on_failure(self, hook: Hook) -> Hook:
        """Call a function when a job of this task has failed for good; as :meth:`on_success`."""
        return self.hooks.add("on_failure", hook)

    def on_retry(self, hook: Hook) -> Hook:
        """Call a function when a job of this task will run again; as :meth:`on_success`."""
        return self.hooks.add("on_retry", hook)

    def on_dead(self, hook: Hook) -> Hook:
        """Call a function when a job of this task has become a dead letter; as :meth:`on_success`."""
        return self.hooks.add("on_dead", hook)

    async def provide(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The values of its ``Depends`` parameters, for a run with these arguments of a message.

        Raises:
            TypeError: the message gives one of them.
            RuntimeError: nothing is open here.
            StartupFailed: one was not open yet, and could not be opened.
        """
        for name in self.needs:
            if name in kwargs:
                raise TypeError(f"{self.name}: {name!r} is given by the worker, and cannot be passed")
        return await self._open_resources(self.needs).values(self.needs)

    def _call_with_resources(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        passed = inspect.signature(self.function).bind_partial(*args, **kwargs).arguments
        needs = {name: provider for name, provider in self.needs.items() if name not in passed}
        if not needs:
            return self.function(*args, **kwargs)
        if not self.is_coroutine:
            return self.function(*args, **kwargs, **self._open_resources(needs).values_now(needs))

        async def call() -> Any:  # what is open is looked for in the loop that awaits it
            return await self.function(*args, **kwargs, **await self._open_resources(needs).values(needs))

        return call()

    def _open_resources(self, needs: Iterable[str]) -> Resources:
        resources = self.client.active_resources()
        if resources is None:
            raise RuntimeError(
                f"{self.name}: {', '.join(needs)}: no resource is open here; pass it, or call the task inside "
                "`async with app.resources():`"
            )
        return resources


class Decorator(Protocol):
    """What ``app.task(…)`` returns."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, Awaitable[R]], /) -> Task[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...
    def __call__(self, function: Callable[..., Any], /) -> Any:
        """Register the function."""


class BoundDecorator(Protocol):
    """What ``app.task(bind=True, …)`` returns: the first parameter is ``self``."""

    @overload
    def __call__(self, function: Callable[Concatenate[Context, P], Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], R], /) -> Task[P, R]: ...
    def __call__(self, function: Callable[..., Any], /) -> Any:
        """Register the function."""


def _check_sensitive(name: str, sensitive: Sensitive, parameters: inspect.Signature | None) -> None:
    """Refuse a name that is no parameter's: what it was to hide would be shown."""
    if isinstance(sensitive, bool) or parameters is None:
        return
    known = parameters.parameters
    if any(each.kind is each.VAR_KEYWORD for each in known.values()):
        return
    for each in sensitive:
        if each not in known:
            raise ConfigError(f"{name}: sensitive {each!r}: no such parameter; there are: {', '.join(known)}")


def _parameters(
    name: str, function: Callable[..., Any], bind: bool, needs: Mapping[str, Provider]
) -> inspect.Signature | None:
    """What a caller passes: the function's signature without what the worker gives."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a builtin that does not say
        return None
    parameters = list(signature.parameters.values())
    if bind:
        if not parameters or parameters[0].kind not in (
            inspect.Parameter.POSITIONAL_ONLY,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            inspect.Parameter.VAR_POSITIONAL,
        ):
            raise TypeError(f"task {name}: bind=True needs a first parameter, usually called self")
        if parameters[0].kind is not inspect.Parameter.VAR_POSITIONAL:
            parameters = parameters[1:]
    return signature.replace(parameters=_passed(parameters, needs))


def _checker(
    name: str, signature: inspect.Signature | None, needs: Mapping[str, Provider]
) -> Callable[[Any, Any], None]:
    """A check of a call's arguments against the function's signature, at the price of a call."""
    if signature is None:
        return lambda _args, _kwargs: None

    least, most = _counts(signature)

    def check(args: Any, kwargs: Any) -> None:
        if not kwargs and least <= len(args) <= most:
            return
        for given in needs:
            if given in kwargs:  # a task with **kwargs would take it
                raise TypeError(f"{name}{signature}: got an unexpected keyword argument {given!r}: the worker gives it")
        try:
            signature.bind(*args, **kwargs)
        except TypeError as exc:
            raise TypeError(f"{name}{signature}: {exc}") from None

    return check


def _counts(signature: inspect.Signature) -> tuple[float, float]:
    """How many arguments without a name are a complete call."""
    least, most = 0.0, 0.0
    for parameter in signature.parameters.values():
        is_needed = parameter.default is parameter.empty
        if parameter.kind is parameter.VAR_POSITIONAL:
            most = math.inf
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            least, most = least + is_needed, most + 1
        elif parameter.kind is parameter.KEYWORD_ONLY and is_needed:
            least = math.inf
    return least, most


def _passed(parameters: Iterable[inspect.Parameter], needs: Mapping[str, Provider]) -> list[inspect.Parameter]:
    """The parameters that a caller passes; by name what stands behind one that the worker gives, which has a place."""
    passed: list[inspect.Parameter] = []
    is_behind = False
    for parameter in parameters:
        if parameter.name in needs:
            is_behind = True
        elif is_behind and parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            passed.append(parameter.replace(kind=parameter.KEYWORD_ONLY))
        else:
            passed.append(parameter)
    return passed
