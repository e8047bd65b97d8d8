"""Finds the app: by ``-A``, ``RQUEUE_APP``, pyproject.toml, or the one ``RQueue`` in the usual files.

It alone imports the user's code, and says in one line why that did not work.
"""

from __future__ import annotations

import importlib
import os
import sys
import tomllib
import traceback
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Final

from rqueue.app import RQueue
from rqueue.broker.endpoint import Endpoint
from rqueue.environment import REDIS_COPY_S, Environment
from rqueue.errors import ConfigError
from rqueue.wire.keys import Keys

USUAL_MODULES: Final = ("tasks", "app", "main")
DEFAULT_NAMESPACE: Final = "rqueue"


class NoApp(ConfigError):
    """No app was named, and none was found."""


def find_app(
    name: str | None, url: str | None = None, namespace: str | None = None, results: str | None = None
) -> RQueue:
    """The app.

    Args:
        name: ``module:attribute`` from ``-A`` or ``RQUEUE_APP``; ``module`` alone is enough where it holds one app.
        url: takes the place of the app's own URL.
        namespace: takes the place of the app's own namespace.
        results: takes the place of the app's own store's URL.

    Raises:
        NoApp: none was named, and there is none in the usual places.
        ConfigError: one was named or found, and cannot be used; the text says why.
    """
    directory = Path.cwd()
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))
    name = name or _from_pyproject(directory / "pyproject.toml")
    app = _load(name) if name else _from_usual_files(directory)
    if url is not None:
        app.endpoint = Endpoint(url)
        app.variables = tuple(name for name in app.variables if not name.startswith("CELERY_BROKER"))
    if namespace is not None:
        app.keys = Keys(namespace)
    return app if results is None else _keeping(app, results)


def find_app_or_bare(name: str | None, url: str | None, namespace: str | None) -> RQueue:
    """The app, or where none is named and none is found, one that knows only where Redis is.

    Raises:
        ConfigError: an app was named or found, and cannot be used.
    """
    try:
        return find_app(name, url, namespace)
    except NoApp:
        return bare(url, namespace)


def find_client(name: str | None, url: str | None, namespace: str | None) -> RQueue:
    """The app for a command that only looks: with a URL and no app named, none is loaded.

    Raises:
        ConfigError: an app was named or found, and cannot be used.
    """
    if url is not None and name is None:
        return bare(url, namespace)
    return find_app_or_bare(name, url, namespace)


def find_keeper(name: str | None, results: str | None) -> RQueue:
    """The app for a command that asks the database: with a URL of one and no app named, none is loaded.

    Raises:
        ConfigError: an app was named or found, and cannot be used; or nobody says where the database is.
    """
    if results is None:
        app = find_app_or_bare(name, None, None)
        if app.config.results is None:
            raise ConfigError("no database keeps history: RQueue(results=…) of the app, or --results, names one")
        return app
    return find_app(name, results=results) if name else _keeping(bare(None, None), results)


def bare(url: str | None, namespace: str | None) -> RQueue:
    """An app without tasks, queues and routes, that knows only where Redis is, by the environment where nobody says."""
    return RQueue(url or None, namespace=namespace or DEFAULT_NAMESPACE)


def unknown_task(client: RQueue, name: str) -> str | None:
    """What is probably wrong with a task's name; None where the app knows it, or no app was found."""
    known = sorted(task.name for task in client.tasks)
    if not known or client.tasks.find(name) is not None:
        return None
    near = get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]}?" if near else f"it knows {', '.join(known)}"
    return f"the app has no task {name!r}; {hint}"


def warn_of_unknown_task(client: RQueue, name: str | None) -> None:
    """Say on stderr that a task's name is probably wrong; it may all the same be another app's."""
    if name is not None and (wrong := unknown_task(client, name)):
        print(f"rqueue: {wrong}", file=sys.stderr)  # noqa: T201 - as every command says it


def _keeping(app: RQueue, results: str) -> RQueue:
    """The app with another store, and its other settings as they are."""
    kept, named = app.config.results, Environment(os.environ).results(results, app.endpoint)
    limits = replace(app.config.limits, copy_ttl_s=None if named is None else REDIS_COPY_S)
    app.config = replace(app.config, limits=limits, results=replace(kept, url=named.url) if kept and named else named)
    return app


def _from_pyproject(file: Path) -> str | None:
    if not file.is_file():
        return None
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as exc:
        raise ConfigError(f"{file.name} cannot be read: {exc}") from None
    tool = table.get("tool", {})
    name = tool.get("rqueue", {}).get("app") if isinstance(tool, dict) else None
    if name is not None and not isinstance(name, str):
        raise ConfigError(f"{file.name}: [tool.rqueue] app is {name!r}; write it as 'module:attribute'")
    return name


def _from_usual_files(directory: Path) -> RQueue:
    for name in USUAL_MODULES:
        if (directory / f"{name}.py").is_file() and (apps := _apps(module := _import(name, f"{name}.py"))):
            return _only(module, apps)
    raise NoApp(
        f"no app: give -A module:attribute, or RQUEUE_APP, or [tool.rqueue] app in pyproject.toml; "
        f"there is no RQueue in tasks.py, app.py or main.py of {directory}"
    )


def _load(name: str) -> RQueue:
    module_name, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in module_name.split(".")):
        raise ConfigError(f"app {name!r}: write it as 'module:attribute', for example 'tasks:app'")
    module = _import(module_name, f"app {name!r}")
    if not attribute:
        if apps := _apps(module):
            return _only(module, apps)
        raise ConfigError(f"app {name!r}: there is no RQueue in the module {module_name!r}")
    value: object = module
    for part in attribute.split("."):
        if not hasattr(value, part):
            known = ", ".join(_apps(module)) or "none"
            raise ConfigError(f"app {name!r}: {module_name!r} has no {attribute!r}; its apps are: {known}")
        value = getattr(value, part)
    if not isinstance(value, RQueue):
        raise ConfigError(f"app {name!r}: it is a {type(value).__name__}, and an RQueue is needed")
    return value


def _apps(module: ModuleType) -> dict[str, RQueue]:
    """The module's apps by name; one that has two names counts once."""
    found = {id(value): (name, value) for name, value in vars(module).items() if isinstance(value, RQueue)}
    return dict(found.values())


def _only(module: ModuleType, apps: dict[str, RQueue]) -> RQueue:
    if len(apps) > 1:
        name, names = module.__name__, list(apps)
        raise ConfigError(f"{name} holds {len(apps)} apps ({', '.join(names)}): say which, as -A {name}:{names[0]}")
    return next(iter(apps.values()))


def _import(name: str, what: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name is not None and (name == exc.name or name.startswith(f"{exc.name}.")):
            raise ConfigError(f"{what}: there is no module {exc.name!r} in {Path.cwd()} or on Python's path") from None
        raise ConfigError(f"{what}: {_cause(exc)}") from exc
    except (Exception, SystemExit) as exc:
        raise ConfigError(f"{what}: {_cause(exc)}") from exc


def _cause(error: BaseException) -> str:
    """What the import of the user's code raised, and where."""
    if isinstance(error, SyntaxError):
        return f"importing it failed: SyntaxError: {error}"
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"importing it failed: {type(error).__name__}: {error} ({last.filename}:{last.lineno})"
