"""Secrets: no output of any kind shows a URL's password or a hidden argument."""

import ast
import asyncio
import base64
import io
import json
import logging
import os
import re
import subprocess
import sys
import traceback
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import rqueue
from rqueue import BrokerUnavailable, RQueue, every
from rqueue.broker.endpoint import Endpoint, redacted
from rqueue.cli.program import program
from rqueue.client.checkup.doctor import Doctor
from rqueue.client.inspector import Inspector
from rqueue.errors import ConfigError
from rqueue.log import LOGGER, JsonFormatter, TextFormatter
from rqueue.supervisor.settings import FleetSettings, ProcessSettings

MARK = "Zq7 mark/er@:?#%&+pä"
PLACES = [
    "redis://u:{}@{}/0", "redis://:{}@{}", "rediss://u:{}@{}", "valkey://u:{}@{}/0", "redis://{1}/0?password={0}",
    "redis://{1}/0?username=u&password={0}&socket_timeout=1", "unix:///no/such.sock?password={}",
    "unix://:{}@/no/such.sock", "redis+sentinel://u:{}@{},h2:26379/main", "redis+cluster://u:{}@{},h2:7000",
    "redis+sentinel://{1},h2/main?sentinel_password={0}", "amqp://u:{}@{}", "redis://u:{}@{}/0?ssl_keyfile=1",
]  # fmt: skip


@pytest.fixture
def logged():
    """Everything that is logged, in both formats."""
    stream = io.StringIO()
    handlers = [logging.StreamHandler(stream), logging.StreamHandler(stream)]
    level, root = LOGGER.level, logging.getLogger()
    for handler, formatter in zip(handlers, (TextFormatter(), JsonFormatter()), strict=True):
        handler.setFormatter(formatter)
        root.addHandler(handler)
    LOGGER.setLevel(logging.DEBUG)
    yield stream
    LOGGER.setLevel(level)
    for handler in handlers:
        root.removeHandler(handler)


def shows(text: str, secret: str = MARK) -> list[str]:
    """The forms in which the text shows the secret."""
    forms = {secret, quote(secret, safe=""), quote(secret), json.dumps(secret)[1:-1], repr(secret)[1:-1], secret[:8]}
    return [form for form in forms if form in text]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("is_escaped", [True, False])
async def test_no_url_shows_its_password(place, is_escaped, logged):
    url = place.format(quote(MARK, safe="") if is_escaped else MARK, "127.0.0.1:1")
    texts = [redacted(url), repr(ProcessSettings(url=url)), repr(FleetSettings(ProcessSettings(url=url)))]
    try:
        app = RQueue(url, enqueue_timeout=0.05)
    except ConfigError as exc:
        texts += [str(exc), repr(exc), "".join(traceback.format_exception(exc)).partition("ConfigError")[2]]
    else:
        texts += [repr(app), str(app), repr(vars(app)), repr(app.endpoint), app.endpoint.shown]
        with pytest.raises(BrokerUnavailable) as caught:
            await app.open()
        await app.close()
        texts += [str(caught.value), repr(caught.value), "".join(traceback.format_exception(caught.value))]
    for command in (["queues"], ["inspect", "active"], ["health"], ["dead", "list"], ["status"], ["events", "x"]):
        done = await asyncio.to_thread(CliRunner().invoke, program, [*command, "--url", url])
        assert done.exit_code
        texts += [done.output, str(done.exception)]
    texts.append(logged.getvalue())
    assert [found for text in texts if (found := shows(text))] == []


SECRETS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=6).filter(lambda text: not text.isdigit())


@given(st.sampled_from([place for place in PLACES if "@" in place]), SECRETS)
def test_whatever_the_password_is_the_shown_url_does_not_have_it(place, secret):
    for text in (secret, quote(secret, safe=""), quote(secret)):
        before, after = place.format("", "host"), redacted(place.format(text, "host"))
        assert text in before or text not in after, (text, after)


@given(st.text())
def test_any_text_can_be_shown(text):
    assert isinstance(redacted(text), str)
    head, at, _ = text.rpartition("@")
    assert not at or len(head) < 24 or head not in redacted(text)


async def test_the_places_of_sound_urls_are_shown():
    for url, shown in (
        ("redis://u:p@h:1/0", "redis://u:***@h:1/0"),
        ("redis+sentinel://u:p@a,b:2/main", "redis+sentinel://u:***@a,b:2/main"),
        ("rediss://[::1]:2/0?password=x", "rediss://[::1]:2/0"),
    ):
        assert redacted(url) == shown
    assert Endpoint("redis://u:p@h:1/0").shown == "redis://u:***@h:1/0"


# Arguments


async def test_hidden_arguments_are_in_no_log_and_no_answer(redis_url, logged, monkeypatch, tmp_path):
    app, running = RQueue(redis_url), asyncio.Event()
    shown, hidden = "visible-value", "hunter22-hidden"

    @app.task(name="login", sensitive=("code",), max_retries=0)
    async def login(user, password, code, fail=False, **more):
        if fail:
            raise ValueError(f"bad {password} {code} {more['nested']['token']} for {user}")
        running.set()
        await asyncio.Event().wait()

    given = (shown, hidden, hidden), {"nested": {"token": hidden, "plain": shown}}
    async with app:
        failed = await login.enqueue(*given[0], True, **given[1])
        await app.schedules.add(every(days=1), login, name="s", args=list(given[0]), kwargs=given[1])
        async with app.worker() as worker:
            with pytest.raises(rqueue.JobFailed):
                await failed.result(5)
            await login.enqueue(*given[0], **given[1])
            async with asyncio.timeout(5):
                await running.wait()
            (active,) = (await Inspector(app).ask("active", timeout=5)).answers
            worker.stop()
            worker.stop()
        (tmp_path / "shop.py").write_text(
            "from rqueue import RQueue\n"
            f"app = RQueue({redis_url!r})\n"
            "@app.task(name='login', sensitive=('code',))\n"
            "async def login(user, password, code, fail=False, **more): ...\n"
        )
        monkeypatch.chdir(tmp_path)
        for command in (["dead", "list"], ["dead", "show", failed.id], ["schedule", "list"], ["schedule", "show", "s"]):
            for json_ in ([], ["--json"]):
                done = await asyncio.to_thread(CliRunner().invoke, program, [*command, *json_, "-A", "shop:app"])
                assert (done.exit_code, hidden in done.output) == (0, False), done.output
        for command in (["dead", "show", failed.id], ["schedule", "show", "s"]):
            arguments = [*command, "--show-sensitive", "-A", "shop:app"]
            assert hidden in (await asyncio.to_thread(CliRunner().invoke, program, arguments)).output
    assert hidden not in str(active)
    assert shown in str(active)
    assert hidden not in logged.getvalue()
    assert "bad [hidden] [hidden] [hidden] for visible-value" in logged.getvalue()


async def test_no_command_shows_what_errors_quote_of_hidden_arguments(redis_url, logged, monkeypatch, tmp_path):
    """As they are, as Python writes them, and in the errors of earlier runs."""
    app, secret = RQueue(redis_url), "hidden-22'\\-\"hidden-33\n-hidden-44"
    parts = ("hidden-22", "hidden-33", "hidden-44")

    @app.task(name="login", autoretry_for=(KeyError, ValueError), max_retries=1, default_retry_delay=0, bind=True)
    async def login(self, password, cookie):
        raise ValueError(f"wrong: {password}") if self.request.retries else KeyError(password, cookie)

    async with app:
        job = await login.enqueue(secret, {"k": b"hidden-33"})
        async with app.worker() as worker:
            await worker.drain(scheduled=True)
        told = [str(await Doctor(app, heartbeat_s=0.01).examine())]
        await app.session().broker._link.call(
            "LPUSH", app.keys.queue("default").main, '{"task":"login","args":"hidden-22"}'
        )
        told.append(str(await Doctor(app, heartbeat_s=0.01).examine()))
    assert "login: ValueError" in told[0]
    assert "'args' must be a list" in told[1]
    (tmp_path / "store.py").write_text(
        f"from rqueue import RQueue\napp = RQueue({redis_url!r})\n"
        "@app.task(name='login')\nasync def login(password, cookie): ...\n"
    )
    monkeypatch.chdir(tmp_path)
    for command in (
        ["dead", "list"],
        ["dead", "list", "--json"],
        ["dead", "show", job.id, "--json"],
        ["dead", "show", job.id],
    ):
        done = await asyncio.to_thread(CliRunner().invoke, program, [*command, "-A", "store:app"])
        told.append(done.output)
    assert "wrong: [hidden]" in told[-1]
    assert "KeyError: " in told[-1]
    assert [(part, text) for part in parts for text in (*told, logged.getvalue()) if part in text] == []


async def test_what_strangers_wrote_commands_no_terminal(redis_url):
    async with RQueue(redis_url) as app:
        keys = app.keys.queue("default")
        head = json.dumps(
            {"id": "x", "reason": "failed", "error": {"type": "E", "message": "m"}, "traceback": "a\x1b[2J\nb"}
        )
        call = app.session().broker._link.call
        await call("HSET", keys.letters, "x", f"{head}\n\x1b]0;owned\x07")
        await call("ZADD", keys.dead, 1, "x")
        await call("SADD", app.keys.queues, "default")
    done = await asyncio.to_thread(CliRunner().invoke, program, ["dead", "show", "x", "--url", redis_url])
    assert done.exit_code == 0
    assert "\x1b" not in done.output
    assert "\\x1b[2J\nb\n" in done.output


def test_a_name_that_is_no_parameter_is_refused():
    app = RQueue("memory://")
    with pytest.raises(ConfigError, match="no such parameter"):

        @app.task(sensitive=("cod",))
        async def task(code): ...

    for wrong in ("code", 1, ("",), (1,)):
        with pytest.raises(ConfigError, match="sensitive"):
            app.task(sensitive=wrong)


# What runs


PACKAGE = Path(rqueue.__file__).parent
FORBIDDEN_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "jsonpickle", "yaml", "code", "codeop"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
IMPORTS_BY_NAME = {
    "cli/lookup.py": "the app that the operator names",
}


def test_nothing_that_is_read_can_become_code():
    """JSON only: no module that makes objects of bytes, and nothing that runs or imports a text."""
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        place = file.relative_to(PACKAGE).as_posix()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            found += [(place, name) for name in names if name.split(".")[0] in FORBIDDEN_MODULES]
            if not isinstance(node, ast.Call):
                continue
            called = node.func
            if isinstance(called, ast.Name) and called.id in FORBIDDEN_CALLS:
                found.append((place, called.id))
            if isinstance(called, ast.Attribute) and called.attr == "import_module" and place not in IMPORTS_BY_NAME:
                found.append((place, "import_module"))
    assert found == []


@pytest.mark.parametrize(
    "name", ["os.system", "builtins.eval", "shop.not_a_task", "__import__", "logging.os.system", "a:b"]
)
async def test_only_registered_tasks_run(redis_url, name, tmp_path):
    """A name is looked up among the registered tasks, and never imported."""
    app, mark = RQueue(redis_url), tmp_path / "mark"
    async with app:
        body = json.dumps({"task": name, "args": [f"touch {mark}"]})
        await app.session().broker._link.call("LPUSH", app.keys.queue("default").main, f"1 - 0 0 1 bad {body}")

        @app.task(name="good")
        async def good():
            return 1

        job = await good.enqueue()
        async with app.worker() as worker:
            await worker.drain()
            assert await job.result(5) == 1
            with pytest.raises(rqueue.JobFailed, match="UnknownTask"):
                await app.job("bad").result(5)
        assert not mark.exists()


def test_the_pages_program_runs(redis_url, tmp_path):
    """docs/security.md's own; its key is made as the page says."""
    page = (PACKAGE.parent / "docs" / "security.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```python file=shop.py\n(.*?)```", page, re.DOTALL)
    (tmp_path / "shop.py").write_text(text.replace("redis://localhost:6379/0", redis_url))
    key = base64.b64encode(os.urandom(32)).decode()
    environment = os.environ | {"SHOP_KEY": key, "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run(
        [sys.executable, tmp_path / "shop.py"], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout.strip(), done.returncode) == ("1999", 0), done.stderr
