"""foreign: the golden messages, pushed by a program that is not rqueue."""

import json

import pytest

from rqueue.wire.message import Call, Message

from .foreign import NEWER, message, templates


@pytest.mark.parametrize("template", templates(), ids=lambda template: f"{template[0].decode()}{sorted(template[1])}")
def test_each_is_a_message_of_the_suite_s_task(template):
    raw, job_id = message(template, "m.1.2", 0.01)
    parsed = Message.parse(raw)
    call = Call.decode(parsed.body)
    assert (call.task, call.args) == ("quick", ["m.1.2", 0.01])
    assert job_id == (parsed.header.id or json.loads(parsed.body).get("id", "-"))


def test_half_of_them_have_fields_that_nobody_knows():
    with_newer = [fields for _, fields in templates() if fields.items() >= NEWER.items()]
    assert len(with_newer) == len(templates()) / 2 >= 9
