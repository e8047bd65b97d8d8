"""seal: what our keys made is opened for its place, to the byte, and nothing else is."""

import base64
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rqueue.errors import ConfigError, MalformedMessage, NotAuthentic
from rqueue.wire.message import Call, Message
from rqueue.wire.record import Failure, Letter
from rqueue.wire.seal import (
    JOB,
    RECORD,
    SCHEDULE,
    Keyring,
    Place,
    as_far_as_known,
    as_trusted,
    open_letter,
    open_record,
    open_schedule,
    opened,
    seal_letter,
    seal_record,
    sealed,
)

OLD, NEW, OTHER = bytes(range(32)), bytes(range(32, 64)), b"\xff" * 32
QUEUE = b"rqueue:{email}"
RAW = b'1 9 0 2 0 order-17 {"task":"tasks.pay","args":[1,{"$bytes":"AP8="}],"x-own":1}'
SIGNS, ENCRYPTS = Keyring([OLD]), Keyring(encryption=[OLD])

both = pytest.mark.parametrize("ring", [SIGNS, ENCRYPTS], ids=["signed", "encrypted"])


def stored(ring: Keyring, raw: bytes = RAW, **options: Any) -> bytes:
    return sealed(ring, Message.parse(raw), QUEUE, **options).raw


@both
def test_what_was_sealed_is_opened_to_the_byte(ring):
    raw = stored(ring)
    message = opened(ring, Message.parse(raw), QUEUE)
    assert (message.raw, message.body, message.header) == (raw, Message.parse(RAW).body, Message.parse(RAW).header)


@both
def test_scripts_find_its_header_and_an_object(ring):
    raw = stored(ring)
    header, _, body = raw.partition(b"order-17 ")
    assert header == b"1 9 0 2 0 "
    assert orjson.loads(body)["task"] == "tasks.pay"


def test_a_signed_message_is_one_for_readers_without_keys():
    message = Message.parse(stored(SIGNS))
    assert Call.decode(message.body) == Call.decode(Message.parse(RAW).body)


def test_of_an_encrypted_message_nothing_but_the_task_is_seen():
    raw = stored(ENCRYPTS)
    assert b"AP8" not in raw
    assert orjson.loads(Message.parse(raw).body).keys() == {"task", "sealed"}
    assert Call.decode(Message.parse(raw).body, is_glance=True).task == "tasks.pay"
    with pytest.raises(MalformedMessage, match="no key"):
        Call.decode(Message.parse(raw).body)


def test_the_same_call_is_never_encrypted_to_the_same_bytes():
    assert stored(ENCRYPTS) != stored(ENCRYPTS)


@both
@given(data=st.data())
def test_no_byte_of_the_object_can_be_changed(ring, data):
    raw = stored(ring)
    start = len(b"1 9 0 2 0 ")
    index = data.draw(st.integers(start, len(raw) - 1))
    changed = bytearray(raw)
    changed[index] = data.draw(st.integers(0, 255).filter(lambda byte: byte != raw[index]))
    try:
        message = opened(ring, Message.parse(bytes(changed)), QUEUE)
    except MalformedMessage:
        return
    pytest.fail(f"byte {index} was changed, and it was opened: {message.raw!r}")


@both
@given(cut=st.integers(1, 60))
def test_no_end_of_it_can_be_cut(ring, cut):
    with pytest.raises(MalformedMessage):
        opened(ring, Message.parse(stored(ring)[:-cut]), QUEUE)


@both
def test_it_is_good_under_its_id_and_in_its_queue_only(ring):
    message = Message.parse(stored(ring))
    for wrong, queue in ((message.changed(id="order-18"), QUEUE), (message, b"rqueue:{sms}"), (message, b"x:{email}")):
        with pytest.raises(NotAuthentic, match="another place"):
            opened(ring, wrong, queue)


@both
def test_a_record_is_no_job_and_a_job_no_record(ring):
    record = ring.seal(Place(RECORD, QUEUE, "order-17"), Message.parse(RAW).body)
    with pytest.raises(NotAuthentic):
        ring.open(Place(JOB, QUEUE, "order-17"), record)


@both
def test_what_scripts_count_in_the_header_may_change(ring):
    message = opened(ring, Message.parse(stored(ring)).changed(losses=2, retries=5, since=9, level=0), QUEUE)
    assert (message.header.losses, message.header.retries, message.body) == (2, 5, Message.parse(RAW).body)


@both
def test_a_changed_header_keeps_the_seal_and_a_changed_object_gets_a_new_one(ring):
    message = opened(ring, Message.parse(stored(ring)), QUEUE)
    again = message.changed(retries=3)
    assert again.raw.partition(b"{")[2] == message.raw.partition(b"{")[2]
    for changed in (again, message.rewritten({"args": b"[7]"}, retries=3), again.with_body(b'{"task":"other"}')):
        found = opened(ring, Message.parse(changed.raw), QUEUE)
        assert (found.header.retries, found.body) == (3, changed.body)


@both
def test_a_message_that_moves_is_sealed_for_the_other_queue(ring):
    moved = opened(ring, Message.parse(stored(ring)), QUEUE).for_queue("sms")
    assert opened(ring, Message.parse(moved.raw), b"rqueue:{sms}").body == Message.parse(RAW).body
    with pytest.raises(NotAuthentic):
        opened(ring, Message.parse(moved.raw), QUEUE)


@both
def test_a_debounced_call_goes_on_under_another_id_and_not_in_another_queue(ring):
    message = Message.parse(stored(ring, any_id=True)).changed(id="first")
    assert opened(ring, message, QUEUE).body == Message.parse(RAW).body
    with pytest.raises(NotAuthentic):
        opened(ring, message, b"rqueue:{sms}")


@both
def test_nobody_can_make_a_seal_good_for_every_id(ring):
    raw = stored(ring)
    for field in (b'"signed":"', b'"sealed":"'):
        raw = raw.replace(field, field + b"*")
    with pytest.raises(NotAuthentic):
        opened(ring, Message.parse(raw), QUEUE)


@both
def test_not_even_of_a_job_whose_id_is_a_star(ring):
    for kind in (JOB, RECORD):
        made = ring.seal(Place(kind, QUEUE, "*"), b'{"state":"SUCCESS","result":1}')
        assert ring.open(Place(kind, QUEUE, "*"), made)
        for field in (b'"signed":"', b'"sealed":"'):
            made = made.replace(field, field + b"*")
        for name in ("order-18", "*"):
            with pytest.raises(NotAuthentic):
                ring.open(Place(kind, QUEUE, name), made)


@both
def test_what_is_good_for_every_id_is_a_job(ring):
    made = ring.seal(Place(RECORD, QUEUE, ""), b'{"state":"REVOKED"}', any_name=True)
    with pytest.raises(NotAuthentic):
        ring.open(Place(RECORD, QUEUE, "order-17"), made)


@both
def test_however_deep_it_is_nested_it_is_refused(ring):
    nested = b"[" * 600 + b"]" * 600
    for raw in (stored(ENCRYPTS), stored(SIGNS)):
        changed = raw.replace(b'"task":', b'"deep":' + nested + b',"task":')
        with pytest.raises(NotAuthentic):
            opened(ring, Message.parse(changed), QUEUE)


@both
def test_a_name_may_be_anybodys_bytes(ring):
    made = ring.seal(Place(SCHEDULE, QUEUE, "nightly"), b'{"v":1}')
    with pytest.raises(NotAuthentic):
        open_schedule(ring, QUEUE, b"\xff".decode("utf-8", "surrogateescape"), made)


def test_the_first_key_seals_and_all_open():
    for made, kind in ((SIGNS, "signing"), (ENCRYPTS, "encryption")):
        both_keys = Keyring(**{kind: [NEW, OLD]})
        assert opened(both_keys, Message.parse(stored(made)), QUEUE).body == Message.parse(RAW).body
        with pytest.raises(NotAuthentic, match="none of the keys here"):
            opened(made, Message.parse(stored(both_keys)), QUEUE)
        with pytest.raises(NotAuthentic, match="none of the keys here"):
            opened(Keyring(**{kind: [OTHER]}), Message.parse(stored(made)), QUEUE)


def test_from_signing_to_encryption_both_are_opened():
    ring = Keyring([OLD], [NEW])
    assert opened(ring, Message.parse(stored(SIGNS)), QUEUE).body == Message.parse(RAW).body
    assert b'"sealed"' in stored(ring)
    with pytest.raises(NotAuthentic):  # the same 32 bytes for another use are another key
        opened(Keyring(encryption=[OLD]), Message.parse(stored(SIGNS)), QUEUE)


@both
def test_what_is_not_signed_is_refused_unless_it_is_allowed(ring):
    with pytest.raises(NotAuthentic, match="not signed"):
        opened(ring, Message.parse(RAW), QUEUE)
    assert as_trusted(ring, Message.parse(RAW), QUEUE).body == b""
    assert as_far_as_known(ring, Message.parse(RAW), QUEUE).raw == RAW
    lenient = Keyring(**(ring.told() | {"allow_unsigned": True}))
    assert opened(lenient, Message.parse(RAW), QUEUE).raw == RAW
    tampered = stored(ring).replace(b"tasks.pay", b"tasks.buy")
    with pytest.raises(NotAuthentic):
        opened(lenient, Message.parse(tampered), QUEUE)


def test_without_keys_nothing_changes():
    message = Message.parse(RAW)
    assert opened(None, message, QUEUE) is message
    assert sealed(None, message, QUEUE) is message
    assert seal_record(None, QUEUE, "1", b"{}") == b"{}"


@both
def test_records_say_their_state_and_keep_their_value(ring):
    record = b'{"state":"SUCCESS","result":"secret value","task":"tasks.pay"}'
    data = seal_record(ring, QUEUE, "order-17", record)
    assert data.startswith(b'{"state":"SUCCESS"')
    assert (b"secret" in data) is not ring.encrypts
    assert open_record(ring, QUEUE, "order-17", data) == record
    with pytest.raises(NotAuthentic):
        open_record(ring, QUEUE, "order-18", data)
    with pytest.raises(NotAuthentic):
        open_record(ring, QUEUE, "order-17", data.replace(b"SUCCESS", b"FAILURE"))
    for by_script in (b'{"state":"FAILURE","dropped":true}', b'{"state":"RETRY","moved":"sms"}'):
        assert open_record(ring, QUEUE, "order-17", by_script) == by_script
    for forged in (
        b'{"state":"SUCCESS","result":1}',
        b'{"state":"SUCCESS","dropped":false}',
        b'{"state":"SUCCESS","moved":"sms"}',
        b'{"state":"RETRY","moved":["sms"]}',
        b'{"state":"FAILURE","dropped":true} ',
    ):
        with pytest.raises(NotAuthentic):
            open_record(ring, QUEUE, "order-17", forged)


def test_an_encrypted_messages_error_is_encrypted_too():
    letter = Letter("1", "failed", RAW, "tasks.pay", Failure("ValueError", "card 4711", "… 4711"))
    kept = Letter.decode(seal_letter(ENCRYPTS, QUEUE, letter).encode())
    assert b"4711" not in kept.encode()
    assert kept.failure.type == "ValueError"
    assert open_letter(ENCRYPTS, QUEUE, kept) == letter
    assert open_letter(Keyring(encryption=[OTHER]), QUEUE, kept) == kept
    assert seal_letter(SIGNS, QUEUE, letter) == letter


@pytest.mark.parametrize("text", ['{"sealed":', '{"sealed":null}', '{"sealed":null,"message":1,"traceback":2}'])
def test_a_letters_error_that_only_looks_sealed_is_shown_as_it_stands(text):
    letter = Letter("1", "failed", RAW, "tasks.pay", Failure("ValueError", text))
    for ring in (SIGNS, ENCRYPTS, Keyring([OLD], allow_unsigned=True)):
        assert open_letter(ring, QUEUE, letter) == letter


# Keys


@pytest.mark.parametrize("given", [b"short", "c2hvcnQ=", "%%%", "", 5, b"x" * 33])
def test_what_is_no_key_is_refused_without_being_shown(given):
    with pytest.raises(ConfigError, match="key 2 is not 32 bytes") as caught:
        Keyring([OLD, given])
    assert not given or str(given) not in str(caught.value).replace("key 2", "")


def test_keys_come_as_bytes_or_as_either_base64():
    alike = [OTHER, base64.b64encode(OTHER).decode(), base64.urlsafe_b64encode(OTHER).decode().rstrip("=")]
    raw = stored(Keyring([OTHER]))
    for key in alike:
        assert opened(Keyring([key]), Message.parse(raw), QUEUE).body == Message.parse(RAW).body


def test_keys_of_the_environment():
    text = base64.b64encode(OLD).decode()
    environment = {"RQUEUE_SIGNING_KEYS": f"{text}, {base64.b64encode(NEW).decode()}", "RQUEUE_ALLOW_UNSIGNED": "1"}
    ring = Keyring.of(None, None, None, environment)
    assert ring is not None
    assert opened(ring, Message.parse(stored(SIGNS)), QUEUE).body == Message.parse(RAW).body
    assert ring.allow_unsigned
    assert Keyring.of(None, None, None, {}) is None
    assert Keyring.of((), None, None, environment) is None
    assert not Keyring.of([OLD], None, False, environment).allow_unsigned
    with pytest.raises(ConfigError, match="RQUEUE_ALLOW_UNSIGNED"):
        Keyring.of(None, None, None, {"RQUEUE_ALLOW_UNSIGNED": "maybe"})
    with pytest.raises(ConfigError, match="lists of keys"):
        Keyring.of(text, None, None, {})


def test_keys_are_never_shown():
    ring = Keyring([OLD, NEW], [OTHER])
    for key in (OLD, NEW, OTHER):
        for text in (repr(ring), str(ring), f"{ring.__class__}"):
            assert base64.b64encode(key).decode()[:8] not in text
            assert key.hex()[:8] not in text
            assert repr(key)[2:10] not in text


def test_without_the_extra_encryption_says_what_to_install():
    code = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from rqueue.wire.seal import Keyring\n"
        "Keyring([bytes(32)])\n"
        "try: Keyring(encryption=[bytes(32)])\n"
        "except ImportError as exc: print(exc)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "rqueue[crypto]" in done.stdout


def test_the_wire_formats_own_words_sign_as_we_do():
    """What the page gives to other producers. Breaks when the page or the code says something else."""
    page = Path(__file__).parents[2] / "docs" / "wire-format.md"
    told = re.search(r"<!-- sign -->\n```python skip\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert told is not None
    names: dict[str, Any] = {}
    exec(told[1], names)  # the page is ours
    body = Message.parse(RAW).body
    assert b"1 9 0 2 0 order-17 " + names["signed"](OLD, b"email", b"order-17", body) == stored(SIGNS)
