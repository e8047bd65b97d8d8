"""Python values to JSON and back, exactly: what JSON cannot carry is refused, and ``bytes`` come back as bytes.

``bytes`` travel as ``{"$bytes": "<base64>"}``; a caller's own one-key object whose key is ``$bytes`` or ``$dict``
travels as ``{"$dict": {…}}``, so that nothing is ever taken for what it is not.
"""

from __future__ import annotations

import base64
import binascii
import math
import os
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, Final

import orjson

_TAGS: Final = frozenset({"$bytes", "$dict"})
# Every object whose first key begins with "$" shows these bytes in orjson's compact form. Text may show them too;
# then the slow path runs and changes nothing.
_HINT: Final = b'{"$'
_DOLLAR: Final = ord("$")
# orjson would send attributes that are no fields, and dies of a slotted field that was never set (3.13).
_OPTIONS: Final = orjson.OPT_PASSTHROUGH_DATACLASS


def dumps(value: Any) -> bytes:
    """Encode a value as compact JSON.

    Raises:
        TypeError: something in it is not JSON (a set, an integer beyond 64 bits, NaN, a key that is not a string, …).
    """
    try:
        data = orjson.dumps(value, _represent, _OPTIONS)
    except orjson.JSONEncodeError as exc:
        cause = exc.__cause__
        raise TypeError(str(cause or exc)) from None
    except RecursionError:
        raise TypeError("nested too deeply") from None
    # `find`, since `in` tries first whether bytes are a number, which costs as much as the encoding; a number is quick.
    if data.find(b"null") >= 0 and (bad := _non_finite(value)) is not None:
        # orjson writes NaN and infinities as null: a value would arrive as another one.
        raise TypeError(f"{bad} is not a JSON number")
    return _escape(value) if _DOLLAR in data and data.find(_HINT) >= 0 else data


def loads(data: bytes) -> Any:
    """Decode JSON made by :func:`dumps`, or by any other producer.

    Raises:
        ValueError: it is not JSON, or a ``$bytes`` object is not base64.
    """
    value = orjson.loads(data)
    try:
        return _untag(value) if _DOLLAR in data and data.find(b'"$') >= 0 else value
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _represent(value: Any) -> Any:
    if isinstance(value, bytes | bytearray | memoryview):
        return {"$bytes": base64.b64encode(value).decode()}
    if is_dataclass(value) and not isinstance(value, type):
        return _public_fields(value)
    raise TypeError(f"{type(value).__qualname__} is not JSON")


def _escape(value: Any) -> bytes:
    """Encode again with a tag that no caller can have written, so that the callers' own objects can be told apart."""
    nonce = "$" + os.urandom(16).hex()

    def tag(item: Any) -> Any:
        sent = _represent(item)
        return sent if is_dataclass(item) else {nonce: sent["$bytes"]}

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

    return orjson.dumps(walk(orjson.loads(orjson.dumps(value, default=tag, option=_OPTIONS))))


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


def _public_fields(value: Any) -> dict[str, Any]:
    """What of a dataclass is sent: as orjson does it, without names that begin with an underscore."""
    return {field.name: getattr(value, field.name) for field in fields(value) if not field.name.startswith("_")}


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
        parts = _public_fields(value).values()
    elif isinstance(value, Enum):
        parts = (value.value,)
    for part in parts:
        if (bad := _non_finite(part)) is not None:
            return bad
    return None
