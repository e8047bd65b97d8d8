"""The Lua scripts and their loader.

A script's header is its schema: its ``-- KEYS[n]`` and ``-- ARGV[n]`` lines name each index, ``[n..]`` for "from here
on". The loader refuses a body that uses an index its header does not declare. SHAs are computed at import; scripts are
loaded when a connection opens, and once more where a server has forgotten them (``NOSCRIPT``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha1
from importlib import resources

from rqueue.wire.state import LIFECYCLE, OTHER_VERBS, VERBS_WITHOUT_SCRIPT, WORKER_VERBS

_SCHEMA_LINE = re.compile(r"^-- (?:KEYS|ARGV)\[.*", re.MULTILINE)
_DECLARED = re.compile(r"(KEYS|ARGV)\[(\d+)(\.\.)?(\d*)\]")
_USED = re.compile(r"\b(KEYS|ARGV)\[(\d+)")


@dataclass(frozen=True, slots=True)
class Script:
    """One script: a verb, its source, and the SHA under which a server knows it."""

    verb: str
    source: bytes
    sha: bytes


def check_schema(verb: str, source: str) -> None:
    """Refuse a script whose header does not say what its body uses.

    Raises:
        ValueError: the first line does not name the verb, or an index is used that the header does not declare.
    """
    if not source.startswith(f"-- {verb}: "):
        raise ValueError(f"{verb}.lua must begin with '-- {verb}: what it does'")
    declared: list[tuple[str, range]] = []
    for kind, first, dots, last in _DECLARED.findall("\n".join(_SCHEMA_LINE.findall(source))):
        declared.append((kind, range(int(first), int(last or (1 << 30 if dots else first)) + 1)))
    body = "\n".join(line.partition("--")[0] for line in source.splitlines())
    for kind, index in _USED.findall(body):
        if not any(kind == known and int(index) in indexes for known, indexes in declared):
            raise ValueError(f"{verb}.lua uses {kind}[{index}], which its header does not declare")


def _load(verb: str) -> Script:
    source = resources.files("rqueue.broker").joinpath("lua", f"{verb}.lua").read_text(encoding="utf-8")
    check_schema(verb, source)
    data = source.encode()
    return Script(verb, data, sha1(data, usedforsecurity=False).hexdigest().encode())


def moved(script: Script, clock: bytes) -> Script:
    """The same script under a clock that tests move: Redis's, and as many ms more as the key ``clock`` says.

    Production never sends it, and pays nothing for it.
    """
    prelude = (
        b"local function rqueue_time()\n"
        b"  local time, more = redis.call('TIME'), tonumber(redis.call('GET', '%b')) or 0\n"
        b"  local ms = time[1] * 1000 + math.floor(time[2] / 1000) + more\n"
        b"  return { math.floor(ms / 1000), (ms %% 1000) * 1000 }\n"
        b"end\n" % clock
    )
    source = prelude + script.source.replace(b"redis.call('TIME')", b"rqueue_time()")
    return Script(script.verb, source, sha1(source, usedforsecurity=False).hexdigest().encode())


VERBS = sorted(({move.verb for move in LIFECYCLE} | {*WORKER_VERBS, *OTHER_VERBS}) - VERBS_WITHOUT_SCRIPT)
SCRIPTS = {verb: _load(verb) for verb in VERBS}
