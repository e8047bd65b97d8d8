"""redaction: what names speak of secrets is hidden, wherever it stands, and nothing else."""

import inspect
import json

import pytest

from rqueue.policy.redaction import HIDDEN, is_secret, redacted, scrubbed, shown_value


def login(user, password, *codes, remember=False, **more): ...


LOGIN = inspect.signature(login)


@pytest.mark.parametrize(
    "name",
    [
        "password", "Password", "db_password", "passwd", "passphrase", "secret", "client_secret", "token", "authToken",
        "api_key", "apikey", "API-KEY", "access_key", "private_key", "Authorization", "credentials", "cookie",
        "session_id", "card_number", "cvv", "pin", "auth", "iban",
    ],
)  # fmt: skip
def test_names_of_secrets(name):
    assert is_secret(name)
    assert redacted([], {name: 1}) == ([], {name: HIDDEN})


@pytest.mark.parametrize("name", ["user", "key", "id", "author", "shipping", "pinned", "path", "monkey", "session"])
def test_other_names(name):
    assert redacted([], {name: 1}) == ([], {name: 1})


def test_positional_arguments_have_their_parameters_names():
    assert redacted(["ann", "s3cret", 1, 2], {"remember": True}, parameters=LOGIN) == (
        ["ann", HIDDEN, 1, 2],
        {"remember": True},
    )
    assert redacted(["ann", "s3cret"], {}, ("user", "codes"), LOGIN)[0] == [HIDDEN, HIDDEN]
    assert redacted(["ann", "x", 1, 2], {}, ("codes",), LOGIN)[0] == ["ann", HIDDEN, HIDDEN, HIDDEN]
    assert redacted(["ann", "s3cret"], {}) == (["ann", "s3cret"], {}), "nobody knows their names"
    assert redacted(["ann"], {}, ("user",)) == ([HIDDEN], {}), "one of them may be the one"


def test_secrets_inside_of_values():
    value = {"user": "ann", "auth": {"token": "x", "n": [{"password": "y"}, 1]}, "plain": ("a",)}
    assert redacted([value], {})[0] == [{"user": "ann", "auth": HIDDEN, "plain": ["a"]}]
    assert shown_value({"n": [{"password": "y"}, 1]}) == {"n": [{"password": HIDDEN}, 1]}


def test_a_task_whose_arguments_are_all_sensitive():
    assert redacted([1, "a"], {"b": 2}, True) == ([HIDDEN, HIDDEN], {"b": HIDDEN})


def test_what_is_given_is_not_changed():
    given = {"a": {"password": "x"}}
    redacted([given], given)
    assert given == {"a": {"password": "x"}}


def test_a_value_that_is_very_deep_is_hidden_from_there_on():
    deep: list = []
    for _ in range(5000):
        deep = [deep]
    assert HIDDEN in str(redacted([deep], {}))


def test_texts_lose_what_was_hidden():
    before = (["ann", "hunter22"], {"token": ["tok-1", 123456], "id": 7, "pin": 42})
    after = redacted(*before, parameters=LOGIN)
    text = "ann: hunter22 is not tok-1 or 123456; 7, 42"
    assert scrubbed(text, before, after) == f"ann: {HIDDEN} is not {HIDDEN} or {HIDDEN}; 7, 42"
    assert scrubbed("nothing", before, after) == "nothing"


def test_texts_lose_it_however_it_is_written_and_where_they_were_cut():
    secret = 'it\'s \\ "so"\n'
    before = ([secret, b"\xffbytes"], {})
    after = redacted(*before, ("user", "password"), LOGIN)
    for text in (secret, repr(secret), json.dumps(secret), str(KeyError(secret)), repr([b"\xffbytes"])):
        found = scrubbed(f"a {text} z", before, after)
        assert HIDDEN in found
        assert not [part for part in ("it", "so", "bytes") if part in found]
    assert scrubbed("wrong: it's \\ ", before, after) == f"wrong: {HIDDEN}"
    assert scrubbed("that's it", before, after) == "that's it"
