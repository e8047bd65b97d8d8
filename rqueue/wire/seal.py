"""What is stored in Redis, signed or encrypted, so that whoever can write there cannot make a worker run things.

It alone keeps that nothing counts as ours which none of our keys made, for the very place and the very name under which
it is found. A signed object is the object with one field more, at its end; of an encrypted one only what scripts and
operators need stands outside. What is in a message's header is covered by neither, but for the id.
"""

from __future__ import annotations

import base64
import hmac
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple, Self

import orjson

from rqueue.errors import ConfigError, MissingDependency, NotAuthentic
from rqueue.wire.message import Message
from rqueue.wire.record import Failure, Letter

KEY_BYTES: Final = 32
ENVIRONMENT: Final = ("RQUEUE_SIGNING_KEYS", "RQUEUE_ENCRYPTION_KEYS", "RQUEUE_ALLOW_UNSIGNED")

JOB: Final = b"job"
RECORD: Final = b"record"
LETTER: Final = b"letter"
SCHEDULE: Final = b"schedule"
CONTROL: Final = b"control"

_ANY_ID: Final = "*"
_NO_NAME: Final = ""  # the place's, where it is good under each id: no job has it, and one may be called *
_SIGNED = re.compile(rb',"signed":"(\*?)([0-9a-f]{8})\.([A-Za-z0-9_-]{43})"\}\Z')
_SIGNED_BYTES: Final = 72
_SEALED = re.compile(r"(\*?)([0-9a-f]{8})\.([A-Za-z0-9_-]+)\Z")
_SALT_BYTES: Final = 16
_NONCE_BYTES: Final = 12
_BY_SCRIPTS = re.compile(rb'\{"state":"(?:[A-Z]{1,16}","dropped":true|RETRY","moved":"[A-Za-z0-9._-]{1,64}")\}\Z')
"""What scripts write of a job's end by themselves where Redis is full: it carries no value, and has no seal."""


class _Key(NamedTuple):
    """A key, and what it is known by: nobody can tell the one from the other."""

    id: str
    secret: bytes

    @classmethod
    def of(cls, given: bytes, use: bytes) -> Self:
        return cls(hmac.digest(given, b"rqueue id " + use, "sha256")[:4].hex(), hmac.digest(given, use, "sha256"))


class Place(NamedTuple):
    """Where a seal is good, and nowhere else.

    Attributes:
        kind: what it is.
        queue: the queue's main key, which names the namespace as well.
        name: the job's id, or the schedule's name.
    """

    kind: bytes
    queue: bytes
    name: str

    def encode(self) -> bytes:
        """What goes before the bytes that are signed; no part of it can hold a NUL."""
        name = self.name.encode("utf-8", "surrogateescape")  # it may be anybody's bytes
        return b"rqueue 1\0%b\0%b\0%b\0" % (self.kind, self.queue, name)


class Keyring:
    """An app's keys: the first one of its kind seals, all of them open.

    Args:
        signing: keys of 32 bytes, or their base64.
        encryption: the same. With one, what is stored is encrypted, which tells a forgery as well as a signature does.
        allow_unsigned: take also what has no seal, while keys are rolled out.

    Raises:
        ConfigError: a key is none, or there is none at all.
        MissingDependency: to encrypt takes the extra ``crypto``.
    """

    def __init__(
        self,
        signing: Iterable[str | bytes] = (),
        encryption: Iterable[str | bytes] = (),
        *,
        allow_unsigned: bool = False,
    ) -> None:
        if not isinstance(allow_unsigned, bool):
            raise ConfigError(f"allow_unsigned {allow_unsigned!r}: True or False")
        self._given = _keys("signing_keys", signing), _keys("encryption_keys", encryption)
        if not any(self._given):
            raise ConfigError("signing_keys, encryption_keys: at least one key is needed")
        self.allow_unsigned = allow_unsigned
        self._signing = [_Key.of(key, b"sign") for key in self._given[0]]
        self._encryption = [_Key.of(key, b"encrypt") for key in self._given[1]]
        self._secrets = {(b"sign", key.id): key.secret for key in self._signing}
        self._secrets |= {(b"encrypt", key.id): key.secret for key in self._encryption}
        if self._encryption:
            self._aead, self._tampered = _cipher()

    @classmethod
    def of(
        cls,
        signing: Iterable[str | bytes] | None,
        encryption: Iterable[str | bytes] | None,
        allow_unsigned: bool | None,
        environment: Mapping[str, str],
    ) -> Keyring | None:
        """The keys that are given, else the environment's, whose keys are parted by commas; None for no keys.

        Raises:
            ConfigError, MissingDependency: as :class:`Keyring`.
        """
        names = ENVIRONMENT
        signing = _listed(environment.get(names[0], "")) if signing is None else signing
        encryption = _listed(environment.get(names[1], "")) if encryption is None else encryption
        if allow_unsigned is None:
            allow_unsigned = _switch(names[2], environment.get(names[2], ""))
        if isinstance(signing, str | bytes) or isinstance(encryption, str | bytes):
            raise ConfigError("signing_keys, encryption_keys: lists of keys")
        given = tuple(signing), tuple(encryption)
        return cls(*given, allow_unsigned=allow_unsigned) if any(given) else None

    def __repr__(self) -> str:
        ids = [[key.id for key in keys] for keys in (self._signing, self._encryption)]
        return f"Keyring(signing={ids[0]}, encryption={ids[1]}, allow_unsigned={self.allow_unsigned})"

    @property
    def encrypts(self) -> bool:
        """What is stored is encrypted."""
        return bool(self._encryption)

    def told(self) -> dict[str, Any]:
        """The keys themselves, for a supervisor's pipe: the arguments of a second keyring."""
        signing, encryption = ([base64.b64encode(key).decode() for key in keys] for keys in self._given)
        return {"signing": signing, "encryption": encryption, "allow_unsigned": self.allow_unsigned}

    def seal(self, place: Place, body: bytes, outside: Sequence[str] = (), *, any_name: bool = False) -> bytes:
        """A JSON object's bytes with a seal.

        Args:
            place: where it is good.
            body: the object, which is not empty.
            outside: fields that an encrypted one shows, at its beginning and in this order.
            any_name: it is good under every name there.
        """
        mark = _ANY_ID if any_name else ""
        place = place._replace(name=_NO_NAME) if any_name else place
        if not self._encryption:
            key = self._signing[0]
            mac = _text(hmac.digest(key.secret, place.encode() + body, "sha256"))
            return b'%b,"signed":"%b%b.%b"}' % (body[:-1], mark.encode(), key.id.encode(), mac)
        key, salt, nonce = self._encryption[0], os.urandom(_SALT_BYTES), os.urandom(_NONCE_BYTES)
        fields = orjson.loads(body) if outside else {}
        shown = {name: fields[name] for name in outside if name in fields}
        hidden = self._aead(_one_time(key.secret, salt)).encrypt(nonce, body, place.encode() + orjson.dumps(shown))
        return orjson.dumps(shown | {"sealed": f"{mark}{key.id}.{_text(salt + nonce + hidden).decode()}"})

    def open(self, place: Place, stored: bytes) -> bytes:
        """The object that was sealed, to the byte.

        Raises:
            NotAuthentic: none of the keys made it for this place.
        """
        signed = _SIGNED.search(stored, max(0, len(stored) - _SIGNED_BYTES))
        if signed is not None:
            return self._verified(place, stored[: signed.start()] + b"}", *signed.groups())
        try:
            fields = orjson.loads(stored)
        except ValueError:
            fields = None
        sealed = fields.pop("sealed", None) if isinstance(fields, dict) else None
        if sealed is not None:
            return self._decrypted(place, fields, sealed)
        if self.allow_unsigned or (place.kind == RECORD and _BY_SCRIPTS.match(stored) is not None):
            return stored
        raise NotAuthentic("it is not signed, and allow_unsigned is off")

    def _verified(self, place: Place, body: bytes, mark: bytes, key_id: bytes, mac: bytes) -> bytes:
        secret = self._secret(b"sign", key_id.decode())
        place = _marked(place) if mark else place
        if not hmac.compare_digest(_text(hmac.digest(secret, place.encode() + body, "sha256")), mac):
            raise NotAuthentic("its signature is wrong: it was changed, or made for another place")
        return body

    def _decrypted(self, place: Place, shown: dict[str, Any], sealed: object) -> bytes:
        found = _SEALED.match(sealed) if isinstance(sealed, str) else None
        if found is None:
            raise NotAuthentic("it is sealed in a way that is not known here")
        secret = self._secret(b"encrypt", found[2])
        place = _marked(place) if found[1] else place
        try:
            data, outside = _bytes(found[3]), orjson.dumps(shown)
        except (ValueError, TypeError):  # it is nested deeper than JSON is written
            data, outside = b"", b""
        if _text(data) != found[3].encode():
            raise NotAuthentic("it is sealed in a way that is not known here")  # or two texts would be the same seal
        salt, nonce = data[:_SALT_BYTES], data[_SALT_BYTES : _SALT_BYTES + _NONCE_BYTES]
        try:
            opened: bytes = self._aead(_one_time(secret, salt)).decrypt(
                nonce, data[_SALT_BYTES + _NONCE_BYTES :], place.encode() + outside
            )
        except (self._tampered, ValueError):
            raise NotAuthentic("it cannot be decrypted: it was changed, or made for another place") from None
        return opened

    def _secret(self, use: bytes, key_id: str) -> bytes:
        try:
            return self._secrets[use, key_id]
        except KeyError:
            raise NotAuthentic(f"it was sealed with the key {key_id}, which is none of the keys here") from None


@dataclass(slots=True)
class SealedMessage(Message):
    """A message whose object was sealed: ``body`` is the object that was, ``stored`` what stands in the list.

    A changed header stays good, but for the id; a rewritten object is sealed again.
    """

    stored: bytes
    keyring: Keyring
    queue: bytes

    def changed(self, **changes: Any) -> Message:
        """The same object under a changed header."""
        header = replace(self.header, **changes)
        if header.id != self.header.id:
            return sealed(self.keyring, Message.build(header, self.body), self.queue)
        return SealedMessage(header.encode() + self.stored, header, self.body, self.stored, self.keyring, self.queue)

    def for_queue(self, queue: str) -> Message:
        """The same for another queue of the namespace, sealed for it."""
        place = self.queue[: self.queue.rindex(b"{")] + b"{%b}" % queue.encode()
        return sealed(self.keyring, Message.build(self.header, self.body), place)

    def with_body(self, body: bytes) -> Message:
        """Another object under the same header, sealed."""
        return sealed(self.keyring, Message.build(self.header, body), self.queue)

    def rewritten(self, fields: Mapping[str, bytes | None], **changes: Any) -> Message:
        """The same with some of its object's fields changed, sealed again."""
        plain = Message.build(self.header, self.body)
        return sealed(self.keyring, plain.rewritten(fields, **changes), self.queue)


def sealed(keyring: Keyring | None, message: Message, queue: bytes, *, any_id: bool = False) -> Message:
    """A message with an id, sealed for a queue's main key; as it is without keys."""
    if keyring is None:
        return message
    stored = seal_call(keyring, queue, str(message.header.id), message.body, any_id=any_id)
    return SealedMessage(message.header.encode() + stored, message.header, message.body, stored, keyring, queue)


def seal_call(keyring: Keyring, queue: bytes, job_id: str, body: bytes, *, any_id: bool = False) -> bytes:
    """A call's object, sealed for a job of that queue; of an encrypted one the task's name is seen."""
    return keyring.seal(Place(JOB, queue, job_id), body, ("task",), any_name=any_id)


def opened(keyring: Keyring | None, message: Message, queue: bytes) -> Message:
    """A message whose object can be read, and is ours; as it is without keys.

    Raises:
        NotAuthentic: it is not.
    """
    if keyring is None:
        return message
    body = keyring.open(Place(JOB, queue, message.header.id or "-"), message.body)
    if body is message.body:
        return message
    return SealedMessage(message.raw, message.header, body, message.body, keyring, queue)


def as_far_as_known(keyring: Keyring | None, message: Message, queue: bytes) -> Message:
    """The same for those who only look: a message that is not ours is as it stands, with what is to be seen of it."""
    try:
        return opened(keyring, message, queue)
    except NotAuthentic:
        return message


def as_trusted(keyring: Keyring | None, message: Message, queue: bytes) -> Message:
    """The same for those who act on what it says: of a message that is not ours there is nothing to read."""
    try:
        return opened(keyring, message, queue)
    except NotAuthentic:
        return Message(message.raw, message.header, b"")


def open_record(keyring: Keyring | None, queue: bytes, job_id: str, record: bytes) -> bytes:
    """A job's record as it was made; as it is without keys.

    Raises:
        NotAuthentic: none of the keys made it.
    """
    return record if keyring is None else keyring.open(Place(RECORD, queue, job_id), record)


def seal_record(keyring: Keyring | None, queue: bytes, job_id: str, record: bytes) -> bytes:
    """A job's record, sealed; scripts see its state, and where it has gone."""
    if keyring is None:
        return record
    return keyring.seal(Place(RECORD, queue, job_id), record, ("state", "moved"))


def seal_letter(keyring: Keyring | None, queue: bytes, letter: Letter) -> Letter:
    """A dead letter whose error, which may quote arguments, is encrypted where the message is."""
    failure = letter.failure
    if keyring is None or not keyring.encrypts or failure is None:
        return letter
    body = orjson.dumps({"message": failure.message, "traceback": failure.traceback})
    hidden = keyring.seal(Place(LETTER, queue, letter.id), body).decode()
    return replace(letter, failure=Failure(failure.type, hidden))


def open_letter(keyring: Keyring | None, queue: bytes, letter: Letter) -> Letter:
    """The letter with its error, as far as it can be read here."""
    failure = letter.failure
    if keyring is None or failure is None or not failure.message.startswith('{"sealed":'):
        return letter
    given = failure.message.encode()
    try:
        body = keyring.open(Place(LETTER, queue, letter.id), given)
    except NotAuthentic:
        return letter
    if body is given:
        return letter  # it only looks like one, and what has no seal is allowed
    told = orjson.loads(body)
    return replace(letter, failure=Failure(failure.type, told["message"], told["traceback"]))


def open_schedule(keyring: Keyring | None, queue: bytes, name: str, stored: bytes) -> bytes:
    """A stored schedule as it was made; as it is without keys, and where there is none.

    Raises:
        NotAuthentic: none of the keys made it.
    """
    return stored if keyring is None or not stored else keyring.open(Place(SCHEDULE, queue, name), stored)


def seal_schedule(keyring: Keyring | None, queue: bytes, name: str, entry: bytes) -> bytes:
    """A schedule as it is to be stored."""
    return entry if keyring is None else keyring.seal(Place(SCHEDULE, queue, name), entry, ("v",))


def seal_request(keyring: Keyring | None, channel: bytes, request: bytes) -> bytes:
    """A request to workers as it is published on their channel."""
    return request if keyring is None else keyring.seal(Place(CONTROL, channel, "-"), request)


def open_request(keyring: Keyring | None, channel: bytes, said: bytes) -> bytes:
    """A request to workers as it was made; as it is without keys.

    Raises:
        NotAuthentic: none of the keys made it.
    """
    return said if keyring is None else keyring.open(Place(CONTROL, channel, "-"), said)


def _marked(place: Place) -> Place:
    """Where a seal is good that is marked to be good under each id: only calls are sealed so."""
    if place.kind != JOB:
        raise NotAuthentic("it is sealed in a way that is not known here")
    return place._replace(name=_NO_NAME)


def _keys(option: str, given: Iterable[str | bytes]) -> tuple[bytes, ...]:
    found = []
    for number, key in enumerate(given, 1):
        try:
            data = key if isinstance(key, bytes) else _bytes(key.strip().rstrip("="))
        except (AttributeError, ValueError):
            data = b""
        if len(data) != KEY_BYTES:
            # The key itself is not shown.
            raise ConfigError(
                f"{option}: key {number} is not {KEY_BYTES} bytes, or their base64, as `openssl rand -base64 32` prints"
            )
        found.append(data)
    return tuple(found)


def _listed(text: str) -> list[str]:
    return [part for part in re.split(r"[\s,]+", text) if part]


def _switch(name: str, text: str) -> bool:
    if text.lower() not in ("", "0", "1", "true", "false", "yes", "no"):
        raise ConfigError(f"{name} {text!r}: 1 or 0")
    return text.lower() in ("1", "true", "yes")


def _cipher() -> tuple[Any, type[Exception]]:
    try:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError:
        raise MissingDependency("encryption_keys need cryptography: pip install 'rqueue[crypto]'") from None
    return AESGCM, InvalidTag


def _one_time(secret: bytes, salt: bytes) -> bytes:
    """A key for one message: under one key alone, chance would repeat a nonce after some billions of messages."""
    return hmac.digest(secret, b"message" + salt, "sha256")


def _text(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _bytes(text: str) -> bytes:
    """What base64 stands for, of both alphabets, without padding."""
    return base64.b64decode(text.replace("+", "-").replace("/", "_") + "=" * (-len(text) % 4), b"-_", validate=True)
