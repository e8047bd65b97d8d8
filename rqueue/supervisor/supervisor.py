"""Keeps worker processes: as many as there should be, replaced in time, and none that is stuck.

It alone ends processes and starts them. What a dead one held is :mod:`rqueue.supervisor.custody`'s affair. It loads
nothing of the user's, waits for nothing, and looks at everything four times a second.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, NamedTuple

from rqueue.cli.exits import REPLACE, Code
from rqueue.config import whole
from rqueue.errors import BrokerError, ConfigError
from rqueue.log import event
from rqueue.policy.autoscale import Autoscale
from rqueue.policy.clock import elapsed_s
from rqueue.policy.renewal import STEADY_S, is_memory_low, is_successor_due, pause_s
from rqueue.supervisor.channel import Message
from rqueue.supervisor.child import Child, describe
from rqueue.supervisor.reload import Sources
from rqueue.supervisor.served import ServedApp
from rqueue.supervisor.settings import FleetSettings

OVERDUE_GRACE_S: Final = 2.0
"""How long after a job's time limit its process may take to end it by itself."""

_LOOK_S: Final = 0.25
_SCALE_S: Final = 1.0
_STUCK_STOP_S: Final = (
    10.0  # beyond the shutdown timeout, once for jobs and once for what they share: settling, leaving
)
_CUSTODY_S: Final = 5.0
_USUAL_STARTUP_S: Final = 1.0
_ENOUGH_STARTS: Final = 10
_IDLE_STANDBY_S: Final = 30.0
_STANDS_STILL_S: Final = 1.0
_REQUESTS_KEPT: Final = 100  # every process of the fleet hears a request within a second
_MOST_UNTOLD: Final = 1000  # while no process works
_MOST_AHEAD: Final = 4  # starting a process takes a core for a while: more at once would not be ready sooner


class _Vacancy(NamedTuple):
    """A process that is to be started, not before then, and how many of its line have died at once."""

    not_before_s: float
    deaths: int


class Supervisor:
    """The parent of worker processes.

    Args:
        settings: how they are kept.
    """

    def __init__(self, settings: FleetSettings) -> None:
        self._settings, self._config = settings, settings.process.config()
        self._target = settings.autoscale[1] if settings.autoscale else settings.processes
        self._scale = Autoscale(*settings.autoscale) if settings.autoscale else None
        self._children: dict[int, Child] = {}
        self._vacancies: list[_Vacancy] = []
        self._no_standby_until_s, self._standby_deaths = 0.0, 0
        self._apps: list[ServedApp] = []  # the last one is in use
        self._untold: list[dict[str, Any]] = []  # ends that no process has been told of yet
        self._duties: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._looked_s, self._judges_from_s = elapsed_s(), 0.0
        self._stops = 0
        self._code = 0
        self._was_ready = False
        self._rate, self._startup_s = 0.0, _USUAL_STARTUP_S
        self._requests: dict[str, Message] = {}
        self._regular: dict[str, tuple[float, asyncio.Task[None]]] = {}
        self._sources = Sources(".") if settings.reload else None

    def run(self) -> int:
        """Keep the processes until a signal ends them; the exit code."""
        return asyncio.run(self._main())

    async def _main(self) -> int:
        self._listen()
        event(logging.INFO, "supervisor started", pid=os.getpid(), processes=self._target)
        while not (self._is_stopping and not self._children):
            self.tick()
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):  # wait_for would make a task each time
                    await self._wake.wait()
            self._wake.clear()
        if self._duties:
            await asyncio.wait(self._duties, timeout=_CUSTODY_S)
        for duty in self._duties:
            duty.cancel()
        for app in self._apps:
            await app.close()
        event(logging.INFO, "supervisor stopped", pid=os.getpid())
        return self._code

    def tick(self) -> None:
        """One look at everything."""
        self._collect()
        self._end_what_is_stuck()
        if self._config.pool == "prefork":
            self._renew_leases()
        if self._scale is not None and not self._is_stopping:
            self._regularly(self._follow_backlog, _SCALE_S)
        if self._sources is not None and not self._is_stopping:
            self._regularly(self._follow_sources, _SCALE_S)
        self._relieve()
        self._fill()

    # Ends

    def _collect(self) -> None:
        """Take note of every process that has ended; as pid 1 also of those that nobody else waits for."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            child = self._children.pop(pid, None)
            if child is not None:
                child.ended(status)
                self._account_for(child)
                self._duty(self._bury(child, elapsed_s()))

    def _account_for(self, child: Child) -> None:
        """A process has ended: say so, and leave its place to another one."""
        lived_s = elapsed_s() - child.born_s
        # One that ends in peace before it has worked would be started again and again without a pause.
        is_expected = child.why != "" or child.code == REPLACE or (child.code == 0 and child.is_ready)
        event(
            logging.INFO if is_expected and not child.killed else logging.ERROR,
            "process ended" if is_expected else "process died",
            **describe(child),
            **_how(child.code),
            why=child.why or ("it asked to be replaced" if child.code == REPLACE else "by itself"),
            seconds=round(lived_s, 1),
        )
        if child.code == Code.USAGE and not self._was_ready and self._sources is None:
            self._code = Code.USAGE  # it was told something wrong, and said so: another one would say the same
            self.stop()
        elif not is_expected or (child.why == "" and child.code == 0):  # nobody asked it to end: it may do so each time
            self._leave_vacancy(child, 1 if lived_s > STEADY_S else child.deaths + 1)

    async def _bury(self, child: Child, died_s: float) -> None:
        """Take back what a process held that is no more."""
        is_ours = child.killed not in ("", _STALLED)
        overdue = list(child.board.overdue(died_s)) if is_ours else []
        questioned = child.board.questioned(died_s)
        await child.last_words()
        child.close()
        if (app := child.app) is None:
            return
        for worker in child.workers:
            await app.custody().take_back(
                worker,
                uncharged=is_ours or child.code == REPLACE or (child.code == 0 and child.why != ""),
                suspect=questioned.id if questioned is not None else None,
                overdue=overdue,
            )
        app.users -= 1
        if app.users == 0 and app is not self._apps[-1]:
            self._apps.remove(app)
            await app.close()

    def _leave_vacancy(self, child: Child, deaths: int) -> None:
        if child.is_standby:
            self._standby_deaths += 1
            deaths = self._standby_deaths
        pause = pause_s(deaths, has_worked=child.is_ready and not child.is_standby)
        if pause:
            event(logging.WARNING, "process dies at once", **describe(child), times=deaths, restart_in_s=pause)
        if child.is_standby:
            self._no_standby_until_s = elapsed_s() + max(pause, 1.0)
        else:
            self._vacancies.append(_Vacancy(elapsed_s() + pause, deaths))

    def _end_what_is_stuck(self) -> None:
        """Not right after a sleep: the machine was suspended, or all were frozen, and the others wake up just now."""
        now_s = elapsed_s()
        if now_s - self._looked_s > OVERDUE_GRACE_S:
            self._judges_from_s = now_s + OVERDUE_GRACE_S
        self._looked_s = now_s
        for child in list(self._children.values()) if now_s >= self._judges_from_s else ():
            self._end_if_stuck(child)

    def _end_if_stuck(self, child: Child) -> None:
        """Kill what cannot be waited for: an overdue job, a loop that does not move, a stop that does not end."""
        now_s, figures = elapsed_s(), child.figures()
        if overdue := next(child.board.overdue(now_s - OVERDUE_GRACE_S), None):
            event(logging.ERROR, "job outran its time limit", id=overdue.id, queue=overdue.queue, **describe(child))
            child.kill("a job outran its time limit")
        elif figures.moved_s and now_s - figures.moved_s > self._config.max_loop_stall_s:
            event(logging.ERROR, "event loop stalled", seconds=round(now_s - figures.moved_s), **describe(child))
            child.kill(_STALLED)
        elif child.stopped_s is not None:
            allowed_s = _STUCK_STOP_S + (2 * self._config.shutdown_timeout_s if child.stops == 1 else 0)
            if now_s - child.stopped_s > allowed_s:
                event(logging.ERROR, "process does not stop", **describe(child))
                child.kill("it did not stop")

    # Starts

    def _fill(self) -> None:
        """Start what is missing, stop what is too much."""
        if self._is_stopping:
            return
        working = [child for child in self._children.values() if child.has_place]
        working.sort(key=lambda child: child.figures().running)  # who is idle goes first, then who is older
        missing = self._target - len(working)
        working.sort(key=lambda child: child.figures().running)
        for child in working[:-missing] if missing < 0 else ():  # the idle ones first
            child.retire("there are too many")
        while missing > len(self._vacancies):
            self._vacancies.append(_Vacancy(0.0, 0))
        del self._vacancies[max(0, missing) :]
        for vacancy in [each for each in self._vacancies if each.not_before_s <= elapsed_s()]:
            self._vacancies.remove(vacancy)
            self._start(vacancy.deaths)

    def _start(self, deaths: int, *, standby: bool = False) -> None:
        try:
            child = Child(self._settings, deaths, standby, self._hear)
        except OSError as exc:  # no process, no descriptor, no memory is to be had: later, perhaps
            pause = max(1.0, pause_s(deaths + 1))
            event(logging.ERROR, "process cannot be started", error=str(exc), retry_in_s=pause)
            if standby:
                self._no_standby_until_s = elapsed_s() + pause
            else:
                self._vacancies.append(_Vacancy(elapsed_s() + pause, deaths + 1))
            return
        self._children[child.pid] = child
        event(logging.INFO, "process started", pid=child.pid, standby=standby)

    # Replacements

    def _relieve(self) -> None:
        """Have successors ready before they are needed; one that is spent makes place for one that is ready."""
        if self._is_stopping:
            return
        standbys = [child for child in self._children.values() if child.is_staying and child.is_standby]
        wanted = 0
        for child in [each for each in self._children.values() if each.has_place]:
            self._measure(child)
            child.due = child.due or self._why_due(child)
            if not child.due:
                continue
            if (child.is_spent or child.due == _RENEWED) and (ready := next(filter(_is_ready, standbys), None)):
                standbys.remove(ready)
                ready.take_place()
                child.retire(child.due)
                wanted += self._ahead() - 1
            else:
                wanted += self._ahead()
        if elapsed_s() >= self._no_standby_until_s:
            for _ in range(wanted - len(standbys)):
                self._start(0, standby=True)
        for child in standbys[wanted:]:  # a burst is over
            if child.is_ready and elapsed_s() - child.placed_s > _IDLE_STANDBY_S:
                child.retire("it is not needed")

    def _ahead(self) -> int:
        """How many successors must be on their way at once: more than one where a life is shorter than a start."""
        max_tasks = self._config.max_tasks
        needed = 1 if max_tasks is None else math.ceil(self._startup_s * self._rate / max_tasks)
        return min(max(1, needed), _MOST_AHEAD)

    def _measure(self, child: Child) -> None:
        """How fast it starts jobs; before it has started a few, the one before it is the measure."""
        started, age_s = child.figures().started, elapsed_s() - child.placed_s
        if child.is_ready and (started >= _ENOUGH_STARTS or age_s > _IDLE_STANDBY_S):
            self._rate = started / max(age_s, _LOOK_S)

    def _why_due(self, child: Child) -> str:
        if not child.is_ready:
            return ""
        if child.is_spent:
            return "it has done its share"
        figures, config = child.figures(), self._config
        if config.max_tasks is not None and is_successor_due(
            figures.started, config.max_tasks, self._rate, self._startup_s
        ):
            return f"it nears {config.max_tasks} jobs"
        if config.max_memory_bytes is not None and is_memory_low(figures.rss, config.max_memory_bytes):
            return f"it uses {figures.rss // 1_000_000} of {config.max_memory_bytes // 1_000_000} MB"
        return ""

    # Duties that wait for something

    def _renew_leases(self) -> None:
        """Thrice in a heartbeat, but not before Redis has answered the last time."""
        for child in self._children.values():
            if child.workers and not child.is_renewing and elapsed_s() - child.renewed_s > self._config.heartbeat_s / 3:
                child.renewed_s = elapsed_s()
                self._duty(self._renew_lease(child))

    async def _renew_lease(self, child: Child) -> None:
        """Keep the lease of a process whose only job may hold the interpreter for longer than a lease."""
        if child.app is None:
            return
        custody, worker, sent_s, card = child.app.custody(), child.workers[-1], elapsed_s(), child.board.card()
        if card and sent_s - child.figures().moved_s > _STANDS_STILL_S:
            card = custody.busy(card)
        child.is_renewing = True
        try:
            is_registered = await custody.renew(worker, card, child.queues | child.added)
            if is_registered and worker == child.workers[-1]:
                child.queues, child.added = child.queues | child.added, set()
            elif child.queues and child.added:  # in one of the latter it may not be registered yet
                is_registered = await custody.renew(worker, card, child.queues)
        except BrokerError as exc:
            event(logging.WARNING, "lease not renewed", worker=worker, error=str(exc))
            return
        finally:
            child.is_renewing = False
        if is_registered:
            child.renewed = worker
        if child.renewed == worker:  # before its first renewal it may just be registering
            child.tell({"lease": worker, "sent_s": sent_s, "is_registered": is_registered})

    async def _follow_backlog(self) -> None:
        children = [child for child in self._children.values() if child.has_place and child.is_ready]
        busy = sum(child.figures().running > 0 for child in children)
        waiting = 0
        if self._apps and busy >= self._target:
            try:
                waiting = await self._apps[-1].custody().backlog()
            except BrokerError as exc:
                event(logging.WARNING, "backlog not known", error=str(exc))
                return
        assert self._scale is not None
        change = self._scale.decide(elapsed_s(), self._target, busy, waiting)
        if change is not None and not self._is_stopping:
            event(logging.INFO, "autoscale", processes=change.size, before=self._target, why=change.reason)
            self._target = change.size
            self._wake.set()

    async def _follow_sources(self) -> None:
        assert self._sources is not None
        changed = await asyncio.to_thread(self._sources.changed)
        if changed is not None and not self._is_stopping:
            event(logging.INFO, "reloading", file=changed)
            self._vacancies.clear()
            for child in self._children.values():
                child.stop(1, "the code has changed")
            self._wake.set()

    # What processes say

    def _hear(self, child: Child, message: Message) -> None:
        if "app" in message:
            child.app = self._app_of(message["app"])
            child.app.users += 1
            child.serves(message["app"]["queues"])
        if "serves" in message:
            child.serves([message["serves"]])
        if message.get("ready"):
            self._was_ready, self._standby_deaths = True, 0
            for told in self._untold:
                child.tell({"ended": told})
            self._untold = []
            self._startup_s = max(elapsed_s() - child.born_s, self._startup_s / 2)
        if (max_tasks := self._config.max_tasks) is not None and message.get("spent"):
            self._rate = max_tasks / max(elapsed_s() - child.placed_s, 1e-3)
        if message.keys() & {"ready", "spent"}:
            self._wake.set()
        if "ask" in message:
            is_shutdown = message["verb"] == "shutdown"
            answer = {"ok": {"stopping": True}} if is_shutdown else self._resize(message["verb"], message["arguments"])
            child.tell({"answer": message["ask"], "value": answer})  # before its stop: it passes the answer on
            if is_shutdown:
                self._shut_down(child)
            self._wake.set()

    def _app_of(self, known: dict[str, Any]) -> ServedApp:
        """After a change of code there may be two, until the last process with the old code is buried."""
        for app in self._apps:
            if app.known == known:
                return app
        self._apps.append(ServedApp(known, self._config, self._tell_of_end))
        return self._apps[-1]

    def _tell_of_end(self, told: dict[str, Any]) -> None:
        """A process calls the hooks of a job that was settled here; where none works now, the next one that does."""
        for child in self._children.values():
            if child.is_ready and child.is_staying:
                child.tell({"ended": told})
                return
        self._untold = [*self._untold, told][-_MOST_UNTOLD:]

    def _shut_down(self, child: Child) -> None:
        """A process is to stop for good, and with the last one the supervisor; all may say so, and repeat it."""
        self._target -= child.has_place
        if child.is_staying:
            child.stop(1, "shutdown by remote control")
        if self._target <= 0 and not self._is_stopping:
            self.stop()

    def _resize(self, verb: str, arguments: dict[str, Any]) -> Message:
        """There are to be more or fewer processes: once, however many of them have heard the request."""
        request = arguments.get("request")
        if request in self._requests:
            return self._requests[request]
        if self._scale is not None:
            answer: Message = {"error": "the number of processes follows the backlog (--autoscale)"}
        else:
            answer = self._grow(arguments["n"], 1 if verb == "pool_grow" else -1)
        if request is not None:
            self._requests[request] = answer
            while len(self._requests) > _REQUESTS_KEPT:
                del self._requests[next(iter(self._requests))]
        return answer

    def _grow(self, n: object, sign: int) -> Message:
        try:
            whole("n", n, 1)
        except ConfigError as exc:
            return {"error": str(exc)}
        assert isinstance(n, int)
        self._target = max(1, self._target + sign * n)
        return {"ok": {"processes": self._target}}

    # Signals

    @property
    def _is_stopping(self) -> bool:
        return self._stops > 0

    def stop(self, times: int = 1) -> None:
        """Begin to stop, or, the second time, stop at once; the third time wait for nothing."""
        self._stops += times
        for child in self._children.values():
            if self._stops > 2:
                child.kill("shutdown, not waited for")
            else:
                child.stop(self._stops, "shutdown")
        self._wake.set()

    def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, self._wake.set)
        loop.add_signal_handler(signal.SIGTERM, self._signalled, "SIGTERM", self.stop)
        loop.add_signal_handler(signal.SIGINT, self._signalled, "SIGINT", self.stop)
        loop.add_signal_handler(signal.SIGQUIT, self._signalled, "SIGQUIT", lambda: self.stop(2))
        loop.add_signal_handler(signal.SIGHUP, self._signalled, "SIGHUP", self._renew_all)

    def _signalled(self, name: str, react: Callable[[], None]) -> None:
        event(logging.INFO, "signal received", signal=name)
        react()

    def _renew_all(self) -> None:
        """Every process gets a successor, as at the end of its life; those in waiting are from before, too."""
        for child in self._children.values():
            if child.is_standby:
                child.retire(_RENEWED)
            else:
                child.due = _RENEWED
        self._wake.set()

    # Small things

    def _duty(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._duties.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._duties.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            event(logging.CRITICAL, "the supervisor failed", error=repr(error))

    def _regularly(self, duty: Callable[[], Coroutine[Any, Any, None]], every_s: float) -> None:
        """Do it so often; while Redis does not answer the last time, it is not done again."""
        began_s, last = self._regular.get(duty.__name__, (-math.inf, None))
        if elapsed_s() >= began_s + every_s and (last is None or last.done()):
            self._regular[duty.__name__] = elapsed_s(), self._duty(duty())


_STALLED: Final = "its event loop stalled"
_RENEWED: Final = "SIGHUP"


def _is_ready(child: Child) -> bool:
    return child.is_ready


def _how(code: int | None) -> dict[str, Any]:
    """How a process ended, for the log."""
    if code is not None and code < 0:
        with suppress(ValueError):
            return {"signal": signal.Signals(-code).name}
    return {"code": code}
