"""Python values to JSON and back, exactly: what JSON cannot carry is refused, and ``bytes`` come back as bytes.

``bytes`` travel as ``{"$bytes": "<base64>"}``; a caller's own one-key object whose key is ``$bytes`` or ``$dict``
travels as ``{"$dict": {…}}``, so that nothing is ever taken for what it is not.
"""

from __future__ import annotations

import base64
import binascii
import math
import secrets
from dataclasses import fields, is_dataclass
from typing import Any, Final

import orjson

_TAGS: Final = frozenset({"$bytes", "$dict"})
# Every object whose first key begins with "$" shows these bytes in orjson's compact form. Text may show them too;
# then the slow path runs and changes nothing.
_HINT: Final = b'{"$'


def dumps(value: Any) -> bytes:
    """Encode a value as compact JSON.

    Raises:
        TypeError: something in it is not JSON (a set, an integer beyond 64 bits, NaN, a key that is not a string, …).
    """
    try:
        data = orjson.dumps(value, default=_tag_bytes)
    except orjson.JSONEncodeError as exc:
        cause = exc.__cause__
        raise TypeError(str(cause) if isinstance(cause, TypeError) else str(exc)) from None
    except RecursionError:
        raise TypeError("nested too deeply") from None
    if b"null" in data and (bad := _non_finite(value)) is not None:
        # orjson writes NaN and infinities as null: a value would arrive as another one.
        raise TypeError(f"{bad} is not a JSON number")
    return _escape(value) if _HINT in data else data


def loads(data: bytes) -> Any:
    """Decode JSON made by :func:`dumps`, or by any other producer.

    Raises:
        ValueError: it is not JSON, or a ``$bytes`` object is not base64.
    """
    value = orjson.loads(data)
    return _untag(value) if b'"$' in data else value


def _tag_bytes(value: Any) -> Any:
    if isinstance(value, bytes | bytearray | memoryview):
        return {"$bytes": base64.b64encode(value).decode()}
    raise TypeError(f"{type(value).__qualname__} is not JSON")


def _escape(value: Any) -> bytes:
    """Encode again with a tag that no caller can have written, so that the callers' own objects can be told apart."""
    nonce = "$" + secrets.token_hex(16)

    def tag(item: Any) -> Any:
        return {nonce: _tag_bytes(item)["$bytes"]}

    def walk(item: Any) -> Any:
        if isinstance(item, list):
            return [walk(each) for each in item]
        if not isinstance(item, dict):
            return item
        if len(item) == 1:
            (key,) = item
            if key == nonce:
                return {"$bytes": item[key]}
            if key in _TAGS:
                return {"$dict": {key: walk(item[key])}}
        return {key: walk(each) for key, each in item.items()}

    return orjson.dumps(walk(orjson.loads(orjson.dumps(value, default=tag))))


def _untag(item: Any) -> Any:
    if isinstance(item, list):
        return [_untag(each) for each in item]
    if not isinstance(item, dict):
        return item
    if len(item) == 1:
        ((key, inner),) = item.items()
        if key == "$bytes" and isinstance(inner, str):
            try:
                return base64.b64decode(inner, validate=True)
            except binascii.Error:
                raise ValueError("a $bytes object does not hold base64") from None
        if key == "$dict" and isinstance(inner, dict):
            return {name: _untag(each) for name, each in inner.items()}
    return {key: _untag(each) for key, each in item.items()}


def _non_finite(value: Any) -> float | None:
    """The first float in the value that is NaN or infinite."""
    if isinstance(value, float):
        return None if math.isfinite(value) else value
    parts: Any = ()
    if isinstance(value, dict):
        parts = value.values()
    elif isinstance(value, list | tuple):
        parts = value
    elif is_dataclass(value) and not isinstance(value, type):
        parts = [getattr(value, field.name, None) for field in fields(value)]
    for part in parts:
        if (bad := _non_finite(part)) is not None:
            return bad
    return None
