"""Whatever is typed, or stands in a variable: a documented exit code, a line that says what is wrong, no traceback."""

import importlib.util
import sys
from pathlib import Path

import pytest
import typer.main
from hypothesis import strategies as st
from typer.testing import CliRunner

from rqueue.cli.exits import Code
from rqueue.cli.program import program
from rqueue.errors import BrokerUnavailable, MissingDependency

from .junk import IS_LONG, fuzz
from .test_found_in_redis import ONCE_HARMFUL

pytestmark = pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning")  # of a long example

_path = Path(__file__).parent.parent / "cli" / "conftest.py"
_spec = importlib.util.spec_from_file_location("rqueue_cli_conftest", _path)
assert _spec is not None
assert _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = _module
_spec.loader.exec_module(_module)
directory, project, no_settings = _module.directory, _module.project, _module.no_settings


def commands(group, path=()):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = dict(commands(typer.main.get_command(program)))
TRIALS = (("demo",), ("bench",))
WORDS = (
    "", " ", "-", "--", "0", "1", "-1", "00", "0.5", "1e3", "1e400", "-1e308", "nan", "inf", "-inf",
    "999999999999999999999999999999", "9" * 5000, "0x10", "1_0", "٣", "²", "½", "1,2", "2,1", ",", "1,",
    "99999999999999999999,1", "200MB", "1.5GB", "-1KB", "MB", "1e400GB", "nanMB", "infGB", "90s", "15m", "3h", "7d",
    "-7d", "1e9d", "99999999999999999999d", "d", "infd", "nans", "5/s", "10/m", "/", "1/0", "1/fortnight", "[]",
    "[1", "{}", '{"a":1}', "[1,2]", "null", '"x"', "[" * 3000, '{"$bytes":"*"}', '["\\ud800"]', "[NaN]", "[1e999]",
    "[" + "9" * 5000 + "]", "add", "send", "tasks.add", "fail", "no.such.task", "default", "email", "a b", "x" * 65,
    "é", "\udcff", "\u2028", "a\nb", "\x1b[31m", "{default}", "*", "x", "w", "job:x", "--help", "--url", "-Q", "-c",
    "tasks:app", "tasks:", ":app", "tasks:nope", "tasks.app", "..:x", "no.such.module:app", "os:path", "sys",
    "* * * * *", "* * * *", "@daily", "@never", "0 0 30 2 *", "*/0 * * * *", "Europe/Berlin", "../../etc/passwd",
    "Mars/Base", "true", "maybe", "info", "LOUD", "async", "threads", "prefork", "solo", "fork", "ping", "active",
    "pool_grow", "rate_limit", "a=1", "=", "tenant=acme", "2026-01-01", "2026-13-01T00:00",
    "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00", "in 5 minutes", "%s", "{0}",
)  # fmt: skip
URLS = (
    "", "x", "redis://", "http://127.0.0.1:1/0", "redis://127.0.0.1:1/0", "redis://127.0.0.1:99999/0",
    "redis://[::1", "redis://127.0.0.1:port/0", "redis://127.0.0.1:1/zero", "redis://127.0.0.1:1/-1",
    "redis://127.0.0.1:1/0?nonsense=1", "redis://127.0.0.1:1/0?socket_timeout=soon", "redis://u:p%@127.0.0.1:1/0",
    "rediss://127.0.0.1:1/0?ssl_cert_reqs=x", "unix://", "unix:///no/such/socket", "memory://", "redis+sentinel://",
    "redis+sentinel://127.0.0.1:1", "redis+sentinel://127.0.0.1:1/a b", "redis+cluster://127.0.0.1:1",
    "redis://127.0.0.1:1/0#x", "redis://127.0.0.1:1/\udcff",
)  # fmt: skip
words = st.sampled_from(WORDS) | st.text(st.characters(exclude_characters="\0"), max_size=12)


@st.composite
def calls(draw):
    """A command, its arguments, and variables."""
    path = draw(st.sampled_from(sorted(COMMANDS)))
    options, arguments, variables = [], [], {}
    for parameter in COMMANDS[path].params:
        value = draw(st.sampled_from(URLS) if parameter.name == "url" else words)
        if parameter.param_type_name == "argument":
            arguments += [value] if parameter.required or draw(st.booleans()) else []
            continue
        if parameter.name in ("help", "timeout") or draw(st.integers(0, 9)) < 7:
            continue
        if draw(st.booleans()) and isinstance(parameter.envvar, str):
            variables[parameter.envvar] = value
        elif parameter.is_flag:
            options.append(draw(st.sampled_from(parameter.opts)))
        else:
            options += [draw(st.sampled_from(parameter.opts)), value]
    if any(parameter.name == "timeout" for parameter in COMMANDS[path].params):
        options += ["--timeout", draw(st.sampled_from(("0.05", "0.05", "0.05", "-1", "nan", "x", "1e-9")))]
    rest = draw(st.lists(words, max_size=1))
    return path, [*options, *arguments, *rest], variables


def refuse(*_, **__):
    raise MissingDependency("not in this test")


def away(*_, **__):
    raise BrokerUnavailable("not in this test")


@pytest.fixture
def stage(project, redis_url, monkeypatch):
    """What would run on and on only begins; what is in Redis is not what it should be."""
    import redis

    monkeypatch.setattr("rqueue.cli.worker.take_over", lambda fleet: None)
    monkeypatch.setattr("rqueue.cli.worker._alone", lambda process: 0)
    monkeypatch.setattr("rqueue.cli.demo.start_server", refuse)
    monkeypatch.setattr("rqueue.cli.bench.start_server", refuse)
    monkeypatch.setattr("rqueue.client.events.Events.__aenter__", away)
    monkeypatch.setattr("rqueue.client.events.Events.__aiter__", away)
    monkeypatch.setenv("EDITOR", "true")
    with redis.Redis.from_url(redis_url) as client:
        for found in ONCE_HARMFUL:
            for command in found:
                client.execute_command(*command)
        client.execute_command(b"ZADD", b"rqueue:{default}:dead", 1, b"x", 2, b"\xff", 3, b"y")
        letter = b'{"id":"x\\u001b[31m","reason":"\\ud83d\\ude00","died":%d,"task":"add"}\n\xff\xfe'
        client.execute_command(b"HSET", b"rqueue:{default}:dead:letters", b"x", letter % (1 << 63), b"\xff", b"?")
        client.execute_command(b"HSET", b"rqueue:{default}:dead:letters", b"y", letter % 1)
        client.execute_command(b"SET", b"rqueue:{default}:worker:\xff", b'{"state":3,"pid":"x","queues":[1,"\\u001b"]}')
    return redis_url


@pytest.mark.timeout(7200 if IS_LONG else 60)
def test_whatever_is_typed(stage, monkeypatch):
    @fuzz(40, call=calls())
    def run(call):
        path, arguments, variables = call
        with monkeypatch.context() as patch:
            if path not in TRIALS:
                patch.setenv("RQUEUE_URL", stage)
            for name, value in variables.items():
                patch.setenv(name, value)
            result = CliRunner().invoke(program, [*path, *arguments], input="")
        said = result.output + (result.stderr or "")
        assert result.exception is None or isinstance(result.exception, SystemExit), said
        assert result.exit_code in set(Code), said
        assert "Traceback (most recent call last)" not in said
        is_ours = result.exit_code == Code.USAGE and "Usage:" not in said and "─ Error ─" not in said
        if is_ours or result.exit_code in {Code.REDIS, Code.NOT_FOUND}:
            assert len(result.stderr.strip().splitlines()) == 1, said

    run()
