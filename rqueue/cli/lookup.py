"""Finds the app: by ``-A``, ``RQUEUE_APP``, pyproject.toml, or the one ``RQueue`` in the working directory's usual files.

It alone imports the user's code, and says in one line why that did not work.
"""

from __future__ import annotations

import importlib
import sys
import tomllib
import traceback
from pathlib import Path
from types import ModuleType
from typing import Final

from rqueue.app import RQueue
from rqueue.broker.endpoint import Endpoint
from rqueue.errors import ConfigError

USUAL_MODULES: Final = ("tasks", "app", "main")


class NoApp(ConfigError):
    """No app was named, and none was found."""


def find_app(name: str | None, url: str | None = None) -> RQueue:
    """The app.

    Args:
        name: ``module:attribute`` from ``-A`` or ``RQUEUE_APP``; ``module`` alone is enough where it holds one app.
        url: takes the place of the app's own URL.

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
    return app


def find_client(name: str | None, url: str | None, namespace: str | None) -> RQueue:
    """The app for a command that only looks: with a URL, and no app named, none is loaded.

    Raises:
        ConfigError: an app was named or found, and cannot be used.
    """
    if url is None or name is not None:
        try:
            app = find_app(name, url)
        except NoApp:
            url = url or "redis://localhost:6379/0"
        else:
            return app if namespace is None else _renamed(app, namespace)
    return RQueue(url, namespace=namespace or "rqueue")


def _renamed(app: RQueue, namespace: str) -> RQueue:
    """A client for another namespace at the same place."""
    client = RQueue(namespace=namespace)
    client.endpoint = app.endpoint
    return client


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
        raise ConfigError(
            f"{module.__name__} holds {len(apps)} apps ({', '.join(apps)}): say which, as -A {module.__name__}:{next(iter(apps))}"
        )
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
