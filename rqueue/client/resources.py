"""Shared resources: what a task receives by ``Depends``, opened once in each worker process and closed at its end.

It alone keeps that a provider is opened once however many ask for it, and that whatever was begun is ended, the last
one first, each in the asyncio task that began it: a cancel scope or a task group inside it needs that. The app's
lifespan and its hooks are kept by the same means.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AsyncContextDecorator,
    ContextDecorator,
    asynccontextmanager,
    contextmanager,
)
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

from rqueue.client.portal import refuse_running_loop
from rqueue.errors import BrokerUnavailable, ConfigError, StartupFailed
from rqueue.log import event

if TYPE_CHECKING:
    from contextlib import _AsyncGeneratorContextManager, _GeneratorContextManager

    from rqueue.client.client import Client

T = TypeVar("T")

Provider = Callable[..., Any]


class Dependency:
    """What ``Depends`` leaves as a parameter's default.

    Attributes:
        provider: the function that makes the value.
    """

    __slots__ = ("provider",)

    def __init__(self, provider: Provider) -> None:
        self.provider = provider

    def __repr__(self) -> str:
        return f"Depends({name_of(self.provider)})"


# What contextlib's decorators make stands first: it is also a plain value, as which the last overload would take it.
@overload
def Depends(provider: Callable[..., _AsyncGeneratorContextManager[T]], /) -> T: ...
@overload
def Depends(provider: Callable[..., _GeneratorContextManager[T]], /) -> T: ...
@overload
def Depends(provider: Callable[..., AsyncIterator[T]], /) -> T: ...
@overload
def Depends(provider: Callable[..., Iterator[T]], /) -> T: ...
@overload
def Depends(provider: Callable[..., Awaitable[T]], /) -> T: ...
@overload
def Depends(provider: Callable[..., T], /) -> T: ...
def Depends(provider: Provider, /) -> Any:  # noqa: N802 - reads as a declaration, and is called so elsewhere
    """Declare that a task's parameter is a shared resource.

    ``client: AsyncClient = Depends(http)``: callers do not pass it, the worker does.

    Args:
        provider: a function, called once in each worker process, on its event loop. What it yields is the value, and
            what stands after the ``yield`` closes it; what it returns is the value as it is. It may be a coroutine
            function, a generator function of either kind, decorated as a context manager or not, or a class, and may
            have ``Depends`` parameters of its own.

    Raises:
        ConfigError: it is no function, or has a parameter that nobody gives.
    """
    _check(provider, "Depends")
    for name, parameter in _parameters(provider).items():
        is_given = parameter.default is not parameter.empty
        if not is_given and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise ConfigError(f"Depends({name_of(provider)}): nobody gives it {name!r}; a default, or Depends, does")
    return Dependency(provider)


def needs_of(function: Callable[..., Any]) -> dict[str, Provider]:
    """A function's ``Depends`` parameters, and the provider of each.

    Raises:
        ConfigError: one of them cannot be given by its name.
    """
    needs: dict[str, Provider] = {}
    for name, parameter in _parameters(function).items():
        if any(isinstance(each, Dependency) for each in getattr(parameter.annotation, "__metadata__", ())):
            raise ConfigError(f"{name_of(function)}: {name}: Annotated would have callers pass it; use = Depends(…)")
        if isinstance(parameter.default, Dependency):
            if parameter.kind is parameter.POSITIONAL_ONLY:
                raise ConfigError(f"{name_of(function)}: {name}: is given by its name, and cannot be positional only")
            needs[name] = parameter.default.provider
        elif parameter.kind is parameter.VAR_POSITIONAL and needs:
            raise ConfigError(f"{name_of(function)}: {', '.join(needs)}: Depends parameters stand after *{name}")
    return needs


def check_hook(hook: Callable[..., object]) -> None:
    """Refuse what cannot be called without arguments.

    Raises:
        ConfigError: it cannot.
    """
    try:
        inspect.signature(hook).bind()
    except TypeError as exc:
        raise ConfigError(f"{name_of(hook)}: a hook is a function without arguments: {exc}") from None


class Resources:
    """What is open in one event loop, for a worker or for a block of ``app.resources()``.

    Args:
        client: the app.

    Attributes:
        users: how many blocks share it; the last one closes it.
        is_open: until it is closed.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        self.loop = asyncio.get_running_loop()
        self.users = 1
        self.is_open = True
        # Not the context of whoever is the first to ask: a resource must not take its first job for its own.
        self._context = contextvars.copy_context()
        self._context.run(ACTIVE.set, self)
        self._kept: dict[Provider, _Kept] = {}
        self._begun: list[_Kept] = []
        self._entered: list[_Kept] = []

    async def start(self) -> None:
        """As a worker starts: the lifespan, the startup hooks, then all that its tasks need.

        Raises:
            StartupFailed: one of them raised; ``close`` ends what had begun.
            ConfigError: providers need each other in a circle.
            BrokerUnavailable: one of them needs Redis, which is away.
        """
        client = self.client
        if client.lifespan is not None:
            await self._enter(f"lifespan {name_of(client.lifespan)}", _lifespan(client.lifespan, client))
        for hook in client.startup_hooks:
            await self._enter(f"startup hook {name_of(hook)}", _at_start(hook))
        for hook in client.shutdown_hooks:
            await self._enter(f"shutdown hook {name_of(hook)}", _at_end(hook))
        await self.open()

    async def open(self) -> None:
        """Open what the registered tasks need; errors as in :meth:`start`."""
        for task in list(self.client.tasks):
            await self.values(task.needs)

    async def values(self, needs: Mapping[str, Provider]) -> dict[str, Any]:
        """The value for each name; what is not open yet is opened. Errors as in :meth:`start`."""
        return {name: await self.get(provider) for name, provider in needs.items()}

    async def get(self, provider: Provider) -> Any:
        """A provider's value; all who ask while it is being opened wait for the same one. Errors as in :meth:`start`.

        Raises:
            RuntimeError: what was open here has been closed.
        """
        provider = self._resolve(provider)
        kept = self._kept.get(provider)
        if kept is None:
            self._refuse_circle(provider, ())
            kept = self._begin(f"resource {name_of(provider)}", self._manage(provider))
            self._kept[provider] = kept
        if not kept.entered.done():
            await asyncio.wait([kept.entered])  # a caller that is cancelled here leaves it to the others
        if kept.entered.exception() is not None and self._kept.get(provider) is kept:
            del self._kept[provider]  # the next one tries again
        return kept.entered.result()

    def values_now(self, needs: Mapping[str, Provider]) -> dict[str, Any]:
        """The same for synchronous code: in a thread it waits for what is not open yet.

        Raises:
            RuntimeError: something is not open yet, and an event loop runs in this thread.
        """
        found = {name: self._kept.get(self._resolve(provider)) for name, provider in needs.items()}
        ready = {name: kept.entered.result() for name, kept in found.items() if kept and kept.entered.done()}
        if len(ready) == len(needs):
            return ready
        refuse_running_loop(f"opening {', '.join(needs.keys() - ready)}", "a coroutine function")
        return asyncio.run_coroutine_threadsafe(self.values(needs), self.loop).result()

    async def close(self) -> None:
        """End what was begun, the last one first; what one raises is logged, and the others are ended all the same.

        Cancelling it gives up waiting: what has not ended is cancelled.
        """
        self.is_open = False
        entering = [kept for kept in self._begun if not kept.entered.done()]
        try:
            for kept in entering:
                kept.task.cancel()
            if entering:
                await asyncio.wait([kept.task for kept in entering])
            for kept in entering:
                kept.fail(StartupFailed(f"{kept.what} was closed before it was open"))
            for kept in reversed(self._entered):
                kept.ending.set()
                await asyncio.wait([kept.task])
        except asyncio.CancelledError:
            left = [kept for kept in reversed(self._begun) if not kept.task.done()]
            for kept in left:
                kept.ending.set()
                kept.task.cancel()
            if left:
                await asyncio.wait([kept.task for kept in left])
            raise

    def _resolve(self, provider: Provider) -> Provider:
        if provider not in self.client.dependency_overrides:
            return provider
        other = self.client.dependency_overrides[provider]
        _check(other, f"dependency_overrides[{name_of(provider)}]")
        return other

    def _refuse_circle(self, provider: Provider, path: tuple[Provider, ...]) -> None:
        if provider in path:
            circle = " -> ".join(name_of(each) for each in (*path[path.index(provider) :], provider))
            raise ConfigError(f"resources need each other in a circle: {circle}")
        for needed in needs_of(provider).values():
            self._refuse_circle(self._resolve(needed), (*path, provider))

    async def _enter(self, what: str, manager: AbstractAsyncContextManager[Any]) -> None:
        kept = self._begin(what, manager)
        await asyncio.wait([kept.entered])
        kept.entered.result()

    def _begin(self, what: str, manager: AbstractAsyncContextManager[Any]) -> _Kept:
        if not self.is_open:
            raise RuntimeError(f"{what}: what the worker or app.resources() had open has been closed")
        kept = _Kept(what, self.loop)
        self._begun.append(kept)
        kept.task = self.loop.create_task(self._keep(kept, manager), name=f"rqueue {what}", context=self._context)
        return kept

    async def _keep(self, kept: _Kept, manager: AbstractAsyncContextManager[Any]) -> None:
        """One resource's life, from its opening to its close. Whatever it raises ends here."""
        try:
            async with manager as value:
                self._entered.append(kept)
                kept.entered.set_result(value)
                await kept.ending.wait()
        except BaseException as exc:  # noqa: BLE001 - SystemExit too: the others are still to be closed
            if not kept.entered.done():
                self._begun.remove(kept)
                kept.fail(_startup_error(kept.what, exc))
            elif not kept.ending.is_set():
                event(logging.ERROR, "ended by itself", exc_info=exc, what=kept.what, error=_told(exc))
            elif isinstance(exc, asyncio.CancelledError):
                event(logging.ERROR, "not closed in time", what=kept.what)
            else:
                event(logging.ERROR, "could not be closed", exc_info=exc, what=kept.what, error=_told(exc))

    @asynccontextmanager
    async def _manage(self, provider: Provider) -> AsyncIterator[Any]:
        """A provider of any kind as one: generators and what contextlib made of them are entered, nothing else is.

        A lock or a pool that happens to be a context manager is a value: to enter it would take the lock.
        """
        made = provider(**await self.values(needs_of(provider)))
        if inspect.isasyncgen(made):
            made = asynccontextmanager(lambda: made)()
        elif inspect.isgenerator(made):
            made = contextmanager(lambda: made)()
        if isinstance(made, AsyncContextDecorator):
            async with made as value:  # type: ignore[attr-defined] # the mixin of what is one
                yield value
        elif isinstance(made, ContextDecorator):
            with made as value:  # type: ignore[attr-defined]
                yield value
        else:
            yield await made if inspect.isawaitable(made) else made


class _Kept:
    """One thing that was begun, held open by a task of its own."""

    task: asyncio.Task[None]

    def __init__(self, what: str, loop: asyncio.AbstractEventLoop) -> None:
        self.what = what
        self.entered: asyncio.Future[Any] = loop.create_future()
        self.ending = asyncio.Event()

    def fail(self, error: BaseException) -> None:
        """Tell those who wait for it; a task that is cancelled before its first step cannot do that itself."""
        if not self.entered.done():
            self.entered.set_exception(error)
            self.entered.exception()  # seen: whoever asked may have been cancelled


ACTIVE: Final[ContextVar[Resources | None]] = ContextVar("rqueue_resources", default=None)
"""What is open for the code that runs in this context, if anything: a worker's jobs have it from their worker."""


def name_of(function: object) -> str:
    """``module.function``, or what stands for it."""
    name = getattr(function, "__qualname__", None)
    return repr(function) if name is None else f"{getattr(function, '__module__', '')}.{name}"


@asynccontextmanager
async def _lifespan(lifespan: Callable[[Any], Any], client: Client) -> AsyncIterator[None]:
    made = lifespan(client)
    async with asynccontextmanager(lambda: made)() if inspect.isasyncgen(made) else made:
        yield


@asynccontextmanager
async def _at_start(hook: Callable[[], object]) -> AsyncIterator[None]:
    await _call(hook)
    yield


@asynccontextmanager
async def _at_end(hook: Callable[[], object]) -> AsyncIterator[None]:
    yield
    await _call(hook)


async def _call(hook: Callable[[], object]) -> None:
    done = hook()
    if inspect.isawaitable(done):
        await done


def _check(provider: object, what: str) -> None:
    if not callable(provider):
        raise ConfigError(f"{what}: {provider!r} is a value, and not the function that makes it")
    try:
        hash(provider)
    except TypeError as exc:
        raise ConfigError(f"{what}: {exc}; wrap it in a function") from None


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):  # a builtin that does not say
        return {}


def _startup_error(what: str, error: BaseException) -> BaseException:
    # A failed resource under this one is named already; a worker waits for a Redis that is away, as ever.
    if isinstance(error, StartupFailed | BrokerUnavailable | SystemExit | KeyboardInterrupt):
        return error
    failed = StartupFailed(f"{what} failed: {_told(error)}")
    failed.__cause__ = error
    return failed


def _told(error: BaseException) -> str:
    return "".join(traceback.format_exception_only(error)).strip()
