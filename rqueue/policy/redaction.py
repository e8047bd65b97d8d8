"""Which of a job's arguments are shown, in logs and to operators: those whose names speak of secrets are not.

It hides what is shown, never what is stored or run.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

HIDDEN: Final = "[hidden]"
"""Stands where a value was."""

_WORDS: Final = (
    "password|passwd|passphrase|pwd|secret|token|api[_-]?key|apikey|access[_-]?key|private[_-]?key|signing[_-]?key|"
    "encryption[_-]?key|authorization|auth[_-]?header|credential|cookie|session[_-]?id|card[_-]?number|cvv|"
    "(?<![a-z])(?:auth|pin|ssn|iban)(?![a-z])"
)
_SECRET = re.compile(_WORDS, re.IGNORECASE)
_DEEPEST: Final = 50
_SHORTEST: Final = 4
_PLAIN: Final = frozenset({str, int, float, bool, type(None)})

Sensitive = bool | Sequence[str]
"""``True``: all arguments of a task and what it returns; or its parameters by name."""


def is_secret(name: str, named: Sequence[str] = ()) -> bool:
    """Whether a value of that name is hidden: by what the name speaks of, or because it is named."""
    return name in named or _speaks_of_secrets(name)


@lru_cache(4096)
def _speaks_of_secrets(name: str) -> bool:
    return _SECRET.search(name) is not None


def redacted(
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    sensitive: Sensitive = False,
    parameters: inspect.Signature | None = None,
) -> tuple[list[Any], dict[str, Any]]:
    """The arguments as they may be shown.

    Args:
        args, kwargs: the arguments.
        sensitive: what their task says of them.
        parameters: what the function takes, so that positional arguments have names; None where nobody knows: then a
            task that names some has all of its positional ones hidden.
    """
    if sensitive is True:
        return [HIDDEN] * len(args), dict.fromkeys(kwargs, HIDDEN)
    named = () if sensitive is False else tuple(sensitive)
    names = _names(parameters, len(args))
    shown = [
        HIDDEN if (name is None and named) or (name is not None and is_secret(name, named)) else _inside(value, named)
        for name, value in zip(names, args, strict=True)
    ]
    return shown, {name: HIDDEN if is_secret(name, named) else _inside(kwargs[name], named) for name in kwargs}


def hides_nothing(
    count: int, kwargs: Iterable[str], sensitive: Sensitive, parameters: inspect.Signature | None
) -> bool:
    """Whether a call of this shape is shown as it is, as long as its values are texts, numbers and the like.

    Args:
        count: how many positional arguments it has.
        kwargs: the names of the others.
        sensitive, parameters: as for :func:`redacted`.
    """
    return sensitive is False and not any(is_secret(name or "") for name in (*_names(parameters, count), *kwargs))


def is_plain(values: Iterable[Any]) -> bool:
    """Whether nothing can be in these values but themselves."""
    return all(type(value) in _PLAIN for value in values)


def scrubbed(text: str, before: Sequence[Any], after: Sequence[Any]) -> str:
    """A text, an error's for example, without what was hidden of some values.

    Args:
        text: the text.
        before, after: the values, and what :func:`redacted` made of them.
    """
    for secret in sorted(_hidden(before, after), key=len, reverse=True):
        text = _without(text, secret)
    return text


def shown_value(value: Any) -> Any:
    """A value as it may be shown, without what stands in it under a secret's name."""
    return _inside(value, ())


def _without(text: str, secret: str) -> str:
    text = text.replace(secret, HIDDEN)
    for length in range(min(len(secret) - 1, len(text)), _SHORTEST - 1, -1):
        if text.endswith(secret[:length]):  # errors are cut to a length
            return text[:-length] + HIDDEN
    return text


def _hidden(before: Any, after: Any) -> set[str]:
    """The texts of what was hidden; the shortest stand in too many other words."""
    if isinstance(after, str) and after == HIDDEN and before != HIDDEN:
        return {text for text in _texts(before) if len(text) >= _SHORTEST}
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        return set().union(*(_hidden(before[name], after[name]) for name in before))
    if isinstance(before, list | tuple) and isinstance(after, list | tuple):
        return set().union(*map(_hidden, before, after))
    return set()


def _texts(value: Any) -> set[str]:
    if isinstance(value, Mapping):
        return set().union(*map(_texts, value.values()))
    if isinstance(value, list | tuple):
        return set().union(*map(_texts, value))
    if isinstance(value, bytes):
        return {value.decode("utf-8", "backslashreplace"), repr(value)[2:-1]}
    text = str(value)
    return {text, repr(text)[1:-1], json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]}


def _names(parameters: inspect.Signature | None, count: int) -> list[str | None]:
    """The names of so many positional arguments, as far as they have some."""
    names: list[str | None] = []
    for each in parameters.parameters.values() if parameters is not None else ():
        if len(names) >= count:
            break
        if each.kind is each.VAR_POSITIONAL:
            names += [each.name] * (count - len(names))
        elif each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD):
            names.append(each.name)
    return (names + [None] * count)[:count]


def _inside(value: Any, named: Sequence[str], depth: int = 0) -> Any:
    """A value without the secrets that stand in it by name."""
    if depth > _DEEPEST:
        return HIDDEN
    if type(value) in _PLAIN:
        return value
    if isinstance(value, Mapping):
        return {
            name: HIDDEN if isinstance(name, str) and is_secret(name, named) else _inside(each, named, depth + 1)
            for name, each in value.items()
        }
    if isinstance(value, list | tuple):
        return [_inside(each, named, depth + 1) for each in value]
    return value
