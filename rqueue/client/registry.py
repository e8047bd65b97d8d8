"""The app's tasks by name."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rqueue.client.task import Task
from rqueue.errors import ConfigError
from rqueue.policy.redaction import hides_nothing, is_plain, redacted

_MOST_SHAPES: Final = 1000


class Registry:
    """Tasks by name; a bare function name finds the one task that has it."""

    def __init__(self) -> None:
        self._tasks: dict[str, Task[Any, Any]] = {}
        self._bare: dict[str, list[str]] = {}
        self._open: dict[tuple[object, ...], bool] = {}  # shapes of calls, and whether they hide nothing by their names

    def add(self, task: Task[Any, Any]) -> None:
        """Register a task.

        Raises:
            ConfigError: another function has the name already.
        """
        known = self._tasks.get(task.name)
        if known is not None and _origin(known.function) != _origin(task.function):
            raise ConfigError(
                f"task {task.name!r}: registered twice, by {_origin(known.function)} and {_origin(task.function)}; "
                "give one of them another name="
            )
        if known is None:
            self._bare.setdefault(task.name.rpartition(".")[2], []).append(task.name)
        self._tasks[task.name] = task
        self._open.clear()

    def find(self, name: str) -> Task[Any, Any] | None:
        """The task of that name, or the only one whose last part is that name."""
        task = self._tasks.get(name)
        if task is None and "." not in name and len(names := self._bare.get(name, [])) == 1:
            task = self._tasks[names[0]]
        return task

    def full_name(self, task: Task[Any, Any] | str) -> str:
        """The whole name of a task; a name that is not known stands for itself, since another app may know it."""
        if not isinstance(task, str):
            return task.name
        known = self.find(task)
        return task if known is None else known.name

    def names(self, task: Task[Any, Any] | str) -> frozenset[str]:
        """The names by which messages may call a task: its whole name, and its last part where that finds it."""
        name = self.full_name(task)
        bare = name.rpartition(".")[2]
        return frozenset({name, bare} if self.full_name(bare) == name else {name})

    def shown(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """The arguments of a call as they may be shown; of a task that is not known only names tell."""
        shape = (name, len(args), *kwargs)
        is_open = self._open.get(shape)
        if is_open and is_plain(args) and is_plain(kwargs.values()):
            return list(args), dict(kwargs)
        task = self.find(name)
        if task is None:
            return redacted(args, kwargs)
        sensitive, parameters = task.defaults.sensitive, task.parameters
        if is_open is None and len(self._open) < _MOST_SHAPES:
            self._open[shape] = hides_nothing(len(args), kwargs, sensitive, parameters)
        return redacted(args, kwargs, sensitive, parameters)

    def __iter__(self) -> Iterator[Task[Any, Any]]:
        return iter(self._tasks.values())

    def __len__(self) -> int:
        return len(self._tasks)


def default_name(function: Callable[..., Any]) -> str:
    """``module.function``; for a script that is run directly, the module's name as a worker will import it.

    Raises:
        ConfigError: it has no name (a partial, a callable object).
    """
    if not hasattr(function, "__name__"):
        raise ConfigError(f"{function!r} has no name of its own: give the task one with name=")
    module = function.__module__
    if module == "__main__":
        main = sys.modules["__main__"]
        spec = getattr(main, "__spec__", None)
        file = getattr(main, "__file__", None)
        module = spec.name if spec is not None else Path(file).stem if file else module
    return f"{module}.{function.__name__}"


def _origin(function: Callable[..., Any]) -> str:
    return f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', function)}"
