"""What the environment sets: ``RQUEUE_*``, and where that is absent Celery's variable of the same meaning.

It alone knows Celery's variables, so that a ``.env`` that was written for Celery works as it is. The code's arguments
and the command line go before all of them. A variable that is empty counts as absent.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import EllipsisType
from typing import Final, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit

from rqueue.broker.endpoint import Endpoint, redacted
from rqueue.client.options import Seconds, seconds
from rqueue.config import POOLS, Limits, Results
from rqueue.errors import ConfigError

T = TypeVar("T")

DEFAULT_URL: Final = "redis://localhost:6379/0"

REDIS_COPY_S: Final = 3600.0
"""What a store keeps for ever, Redis keeps for so long: whoever waits for a job asks Redis, and asks soon."""

_BROKER: Final = ("RQUEUE_URL", "CELERY_BROKER_URL", "CELERY_BROKER")
_RESULTS: Final = ("RQUEUE_RESULTS", "CELERY_RESULT_BACKEND")
_TTL: Final = ("RQUEUE_RESULT_TTL", "CELERY_RESULT_EXPIRES")
_RETENTION: Final = "RQUEUE_RESULTS_RETENTION"
_CELERY: Final = "CELERY_"

_REDIS: Final = re.compile(r"(redis|rediss|valkey|valkeys|unix|memory)(\+(sentinel|cluster))?", re.IGNORECASE)
_SQL: Final = re.compile(r"(db\+)?(postgres|postgresql|sqlite)(\+\w+)?", re.IGNORECASE)
_CELERYS_REDIS: Final = ("redis+socket", "socket", "sentinel")
_LOOPBACK: Final = ("", "localhost", "127.0.0.1", "[::1]")


class Environment:
    """The settings of an app and of a worker, as far as the environment gives them.

    Args:
        variables: the environment.

    Attributes:
        used: Celery's variables that were taken, in the order of asking.
        notes: what one of them asks for that is not to be had here, and what is done in its place.
    """

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables
        self.used: list[str] = []
        self.notes: list[str] = []
        self._is_disabled = False

    # An app's

    def endpoint(self, url: str | None) -> Endpoint:
        """Where Redis is: the code's, else ``RQUEUE_URL``, ``CELERY_BROKER_URL``, ``CELERY_BROKER``.

        Raises:
            ConfigError: it is no Redis; the text names the variable.
        """
        if url is not None:
            return Endpoint(url)
        name, value = self._first(*_BROKER)
        if not name:
            return Endpoint(DEFAULT_URL)
        return _blaming(name, lambda: Endpoint(self._redis_url(value) if name.startswith(_CELERY) else value))

    def results(self, given: Results | str | None, broker: Endpoint) -> Results | None:
        """The store beside the broker's Redis: the code's, else ``RQUEUE_RESULTS``, ``CELERY_RESULT_BACKEND``.

        ``redis`` means that there is none, and ``postgres`` takes ``DATABASE_URL``. The broker's own Redis is no store:
        named by Celery's variable it is what every app has, and by anybody else a mistake.

        Raises:
            ConfigError: it is no store; the text names the variable.
        """
        name, value = ("", given) if given is not None else self._first(*_RESULTS)
        if not value:
            return None
        found = _blaming(name, lambda: self._results(value, broker, is_celery=name.startswith(_CELERY)))
        _, age = self._first(_RETENTION)
        if found is None or found.retention is not None or not age:
            return found
        return _blaming(_RETENTION, lambda: replace(found, retention=age))

    def result_ttl(self, given: Seconds | EllipsisType | None) -> float | None:
        """Seconds a result is kept: the code's, else ``RQUEUE_RESULT_TTL``, ``CELERY_RESULT_EXPIRES``.

        Args:
            given: the code's; Ellipsis where it says nothing.

        Raises:
            ConfigError: it is no time; the text names the variable.
        """
        if given is not ...:
            return None if given is None else seconds(given, "result_ttl")
        name, value = self._first(*_TTL)
        if not name:
            return 0.0 if self._is_disabled else Limits().result_ttl_s
        ttl = None if value.lower() == "none" else self._seconds(name)
        # Celery's 0 is for ever, and rqueue's is not at all.
        return None if ttl == 0 and name.startswith(_CELERY) else ttl

    # A worker's

    def pool(self) -> str | None:
        """The pool that ``CELERY_WORKER_POOL`` names; ``async`` for one that is not here."""
        name, value = self._first("CELERY_WORKER_POOL")
        if not name:
            return None
        if (pool := {"processes": "prefork"}.get(value, value)) in POOLS:
            return pool
        self.notes.append(
            f"{name}={value}: there is no such pool here; async is used, in which coroutines share a loop"
        )
        return "async"

    def concurrency(self, pool: str) -> int | None:
        """``CELERY_WORKER_CONCURRENCY``; 0 is the default. The pool ``solo`` has always one, as in Celery."""
        count = self._count("CELERY_WORKER_CONCURRENCY")
        return None if self._is_alone(pool, "CELERY_WORKER_CONCURRENCY", count) else count or None

    def prefetch_multiplier(self) -> int | None:
        """``CELERY_WORKER_PREFETCH_MULTIPLIER``; for 0, which is no limit in Celery, the default."""
        count = self._count("CELERY_WORKER_PREFETCH_MULTIPLIER")
        if count == 0:
            self.notes.append("CELERY_WORKER_PREFETCH_MULTIPLIER=0: there is no 'no limit' here; the default is used")
        return count or None

    def max_tasks(self, pool: str) -> int | None:
        """``CELERY_WORKER_MAX_TASKS_PER_CHILD``; 0 is no limit. The pool ``solo`` has no child, as in Celery."""
        count = self._count("CELERY_WORKER_MAX_TASKS_PER_CHILD")
        return None if self._is_alone(pool, "CELERY_WORKER_MAX_TASKS_PER_CHILD", count) else count or None

    def time_limits(self, limit_s: float | None, soft_s: float | None) -> tuple[float | None, float | None]:
        """The hard and the soft limit: those given, else ``CELERY_TASK_TIME_LIMIT``, ``CELERY_TASK_SOFT_TIME_LIMIT``.

        0 is no limit. A soft limit that is not below the hard one, which Celery takes, never comes first: it is left
        out.
        """
        soft = "CELERY_TASK_SOFT_TIME_LIMIT"
        limit_s = limit_s if limit_s is not None else self._seconds("CELERY_TASK_TIME_LIMIT") or None
        if soft_s is not None:
            return limit_s, soft_s
        soft_s = self._seconds(soft) or None
        if limit_s is not None and soft_s is not None and soft_s >= limit_s:
            self.notes.append(f"{soft}={soft_s:g}: not below the hard limit, {limit_s:g}; it is not used")
            return limit_s, None
        return limit_s, soft_s

    # Reading

    def _first(self, *names: str) -> tuple[str, str]:
        """The first of the variables that is set, and its value; two empty texts where none is."""
        for name in names:
            if value := self._variables.get(name, "").strip():
                if name.startswith(_CELERY) and name not in self.used:
                    self.used.append(name)
                return name, value
        return "", ""

    def _seconds(self, *names: str) -> float | None:
        name, value = self._first(*names)
        if not name:
            return None
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not 0 <= number < 1e10:
            raise ConfigError(f"{name} {value!r}: seconds as a number, 0 or more")
        return number

    def _count(self, name: str) -> int | None:
        _, value = self._first(name)
        if value and not (value.isascii() and value.isdigit()):
            raise ConfigError(f"{name} {value!r}: a whole number, 0 or more")
        return int(value) if value else None

    def _is_alone(self, pool: str, name: str, count: int | None) -> bool:
        if pool != "solo" or count is None or count == 1:
            return False
        self.notes.append(f"{name}={count}: not used, since the pool solo is one process that runs one job at a time")
        return True

    # URLs

    def _redis_url(self, value: str) -> str:
        """Celery's way to write a Redis as rqueue's.

        Raises:
            ConfigError: it is none.
        """
        kind = _kind(value)
        if value.lower() == "redis":
            name, value = self._first("REDIS_URL")
            return _blaming(name, lambda: Endpoint(value).url) if name else DEFAULT_URL
        if kind == "sentinel":
            raise ConfigError("name the sentinels' master too, as redis+sentinel://host:26379,host:26379/master/0")
        if ";" in value:
            raise ConfigError("one address only; for a Redis that fails over redis+sentinel:// or redis+cluster://")
        if kind in _CELERYS_REDIS:
            url = urlsplit(value)
            options = {"db" if name == "virtual_host" else name: each for name, each in parse_qsl(url.query)}
            return f"unix://{url.netloc}{url.path}" + (f"?{urlencode(options)}" if options else "")
        if not _REDIS.fullmatch(kind):
            raise ConfigError(f"rqueue's broker is a Redis or a Valkey, and {_shown(value)} is none: set RQUEUE_URL")
        return re.sub(r"(?<=[?&]ssl_cert_reqs=)CERT_(\w+)", lambda found: found[1].lower(), value)

    def _results(self, given: Results | str, broker: Endpoint, *, is_celery: bool) -> Results | None:
        """The store that is meant; None for the broker's own Redis, and where none is wanted.

        Raises:
            ConfigError: it is none.
        """
        if isinstance(given, str):
            if given.lower() == "redis":
                return None
            url = self._celery_store(given) if is_celery else given
            if given.lower() in ("postgres", "postgresql"):
                url = self._database(given)
            if url is None:
                return None
            given = Results(url)
        elif not isinstance(given, Results):
            raise ConfigError(f"results {given!r}: a URL, or Results(…)")
        if not (_REDIS.fullmatch(_kind(given.url)) and _is_same(given.url, broker.url)):
            return given
        if is_celery:
            return None
        raise ConfigError(
            "results: that is the broker's own Redis, which keeps them by itself for result_ttl; leave it out, or name "
            "another database of that Redis"
        )

    def _celery_store(self, value: str) -> str | None:
        """The store's URL by Celery's setting; None where results come back by the broker, or are not kept.

        Raises:
            ConfigError: it is no store that is here.
        """
        kind = _kind(value)
        if kind in ("rpc", "amqp"):
            return None
        if kind in ("disabled", "dummy"):
            self._is_disabled = True  # nobody reads them
            return None
        if _SQL.fullmatch(kind):
            return value
        if _REDIS.fullmatch(kind) or kind in _CELERYS_REDIS:
            return self._redis_url(value)
        raise ConfigError(
            f"{_shown(value)} is no store here: postgres, redis, db+postgresql://…, db+sqlite:///… or redis://…; "
            "RQUEUE_RESULTS goes before it"
        )

    def _database(self, value: str) -> str:
        _, url = self._first("DATABASE_URL")
        if not url:
            raise ConfigError(f"{value} is the database of DATABASE_URL, which is not set")
        if not _kind(url).startswith("postgres"):
            raise ConfigError(
                f"{value} is the database of DATABASE_URL, which is not postgresql://… but {_kind(url)!r}"
            )
        return url


def _blaming(name: str, make: Callable[[], T]) -> T:
    """What is made of a variable's value; an error names the variable."""
    try:
        return make()
    except ConfigError as exc:
        raise ConfigError(f"{name}: {exc}" if name else str(exc)) from None


def _kind(url: str) -> str:
    return url.partition("://")[0].strip().lower()


def _shown(url: str) -> str:
    """Its kind alone, where that cannot be a password."""
    kind = _kind(url)
    return repr(kind if re.fullmatch(r"[\w+-]+", kind) else redacted(url))


def _is_same(url: str, other: str) -> bool:
    """Whether two URLs name the same database of the same Redis; every ``memory://`` is a server of its own."""
    return _place(url) == _place(other) and url.lower() != "memory://"


def _place(url: str) -> tuple[str, ...]:
    """What tells one Redis from another: neither who asks, nor how."""
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    host = parts.netloc.rpartition("@")[2].lower()
    kind, _, way = parts.scheme.partition("+")
    if kind in ("unix", "memory"):
        return kind, host + parts.path, options.get("db", "0")
    hosts = []
    for each in host.split(","):
        name, _, port = each.rpartition(":") if re.search(r":\d+$", each) else (each, "", "6379")
        hosts.append(f"{'localhost' if name in _LOOPBACK else name}:{port}")
    return way, *sorted(hosts), options.get("db") or parts.path.strip("/") or "0"
