"""Logging of a process that rqueue owns."""

import json
import logging

import pytest

from rqueue.cli.logs import LogFormat, LogLevel, configure
from rqueue.log import LOGGER, event


@pytest.fixture
def root():
    """The root logger as in a new process: each test takes pytest's own handlers off."""
    root = logging.getLogger()
    saved = root.handlers[:], root.level, LOGGER.handlers[:], LOGGER.level, LOGGER.propagate
    yield root
    root.handlers, root.level, LOGGER.handlers, LOGGER.level, LOGGER.propagate = saved


def test_text_goes_to_stderr(capsys, root):
    root.handlers = []
    configure(LogLevel.INFO, LogFormat.TEXT)
    event(logging.INFO, "job done", id="1")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.rstrip().endswith("info    job done id=1")


def test_json_holds_everybodys_lines(capsys, root):
    root.handlers = []
    configure(LogLevel.WARNING, LogFormat.JSON)
    event(logging.INFO, "job done", id="1")
    logging.getLogger("shop").warning("stock is %s", "low")
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["event"] == "stock is low"


def test_an_app_that_set_up_logging_keeps_it(capsys, root):
    own = logging.StreamHandler()
    root.handlers = [own]
    configure(LogLevel.DEBUG, LogFormat.JSON)
    event(logging.DEBUG, "job started", id="1")
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["event"] == "job started"
    assert root.handlers == [own]
