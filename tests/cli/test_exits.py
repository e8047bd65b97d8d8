"""Errors as exit codes, and as one line on stderr."""

import pytest

from rqueue import errors
from rqueue.cli.exits import MEANINGS, Code, as_usage, code_of
from rqueue.cli.lookup import NoApp

CODES = [
    (errors.JobFailed("1", "ValueError", "no"), Code.FAILED),
    (errors.JobRevoked("1", "revoked"), Code.FAILED),
    (errors.JobExpired("1", "expired"), Code.FAILED),
    (errors.ResultNotKept("1"), Code.FAILED),
    (errors.ConfigError("wrong"), Code.USAGE),
    (NoApp("none"), Code.USAGE),
    (errors.MessageTooLarge("large"), Code.USAGE),
    (errors.MissingDependency("pip"), Code.USAGE),
    (errors.SchemaMismatch("upgrade"), Code.USAGE),
    (errors.BrokerUnavailable("away"), Code.REDIS),
    (errors.BrokerFull("full"), Code.REDIS),
    (errors.EnqueueUnknown(["1"]), Code.REDIS),
    (errors.StoreUnavailable("away"), Code.STORE),
    (errors.SchemaMismatch("old"), Code.USAGE),
    (errors.JobNotFound("1"), Code.NOT_FOUND),
    (errors.WaitTimeout("late"), Code.TIMEOUT),
    (errors.RQueueError("other"), Code.FAILED),
]


@pytest.mark.parametrize(("error", "code"), CODES, ids=lambda value: type(value).__name__)
def test_each_error_has_its_code(error, code):
    assert code_of(error) is code


def test_the_help_names_every_code():
    assert all(f"{code.value} " in MEANINGS for code in Code if code is not Code.INTERRUPTED)


def test_arguments_that_do_not_fit_are_wrong_usage():
    with pytest.raises(errors.ConfigError, match="no such argument"), as_usage():
        raise TypeError("no such argument")
