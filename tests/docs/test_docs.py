"""The documentation is true: its code runs, its commands are there, its links lead somewhere.

The pages' files are written into a directory and run as a reader would: the worker in a process of its own by the
command that the page gives, on a real server whose address takes the place of the page's.
"""

import asyncio
import importlib
import importlib.util
import inspect
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import redis
import typer.main
from httpx import ASGITransport, AsyncClient
from typer.testing import CliRunner

from rqueue import Results, RQueue
from rqueue.cli.program import program
from rqueue.cli.worker import _CONCURRENCY
from rqueue.client.admin import Admin
from rqueue.client.checkup.finding import CHECKS
from rqueue.client.options import CallKwargs, TaskKwargs
from rqueue.config import POOLS, WorkerConfig
from rqueue.environment import Environment
from rqueue.supervisor.settings import FleetSettings
from rqueue.testing import in_memory, working
from rqueue.wire.control import CONTROL, INSPECT
from rqueue.wire.keys import Keys, QueueKeys

ROOT = Path(__file__).parents[2]
README, TUTORIAL, TESTING, RESOURCES, GUARANTEES, PROTOCOL, WORKERS, WATCHING = (
    ROOT / name
    for name in (
        "README.md",
        "docs/tutorial.md",
        "docs/testing.md",
        "docs/resources.md",
        "docs/guarantees.md",
        "docs/protocol.md",
        "docs/workers.md",
        "docs/watching.md",
    )
)
RETRIES = ROOT / "docs" / "retries.md"
OPERATIONS = ROOT / "docs" / "operations.md"
UNIQUENESS = ROOT / "docs" / "uniqueness.md"
PERIODIC = ROOT / "docs" / "periodic.md"
CANCEL = ROOT / "docs" / "cancel.md"
OUTBOX = ROOT / "docs" / "outbox.md"
OPTIONS = ROOT / "docs" / "options.md"
RESULTS = ROOT / "docs" / "results.md"
FROM_CELERY = ROOT / "docs" / "from-celery.md"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
RQUEUE = [sys.executable, "-c", "from rqueue.cli.program import main; main()"]
URL = "redis://localhost:6379/0"

# What the Django view of the tutorial imports: Django is not installed, and not what is tested.
DJANGO = """
import json


class HttpRequest:
    def __init__(self, **values):
        self.POST = values


class JsonResponse:
    def __init__(self, data, status=200):
        self.status_code, self.content = status, json.dumps(data)
"""
VIEWS = """
import asyncio
from django.http import HttpRequest
from views import app, create, show
import json

made = json.loads(create(HttpRequest(a="20", b="22")).content)
app.portal().call(lambda: app.job(made["id"]).result(timeout=20))
print(asyncio.run(show(HttpRequest(), made["id"])).content)
print(asyncio.run(show(HttpRequest(), "nobody")).status_code)
"""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: its language, what else stands behind the fence, its text."""

    language: str
    info: str
    text: str


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"^```(\w+)[ ]?([^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(*each) for each in found]


def shell_lines(page: Path) -> list[list[str]]:
    """The page's commands, each as its words."""
    text = "\n".join(block.text for block in blocks(page) if block.language == "sh")
    return [words for line in text.splitlines() if (words := shlex.split(line, comments=True))]


def command(page: Path, *beginning: str) -> list[str]:
    """The one command of the page that begins so."""
    (found,) = [words for words in shell_lines(page) if words[: len(beginning)] == list(beginning)]
    return found


def files(page: Path) -> dict[str, str]:
    """The files that the page gives, by name."""
    return {block.info.removeprefix("file="): block.text for block in blocks(page) if block.info.startswith("file=")}


@pytest.fixture
def unpack(tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], Path]]:
    """Write a page's files into a directory in which its programs are run; its modules are forgotten afterwards."""
    names: set[str] = set()

    def write(page: Path) -> Path:
        for name, text in files(page).items():
            (tmp_path / name).write_text(text.replace(URL, redis_url), encoding="utf-8")
            names.add(name.removesuffix(".py"))
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.chdir(tmp_path)
        return tmp_path

    for name in ("RQUEUE_APP", "RQUEUE_URL", *(name for name in os.environ if name.startswith("CELERY_"))):
        monkeypatch.delenv(name, raising=False)
    yield write
    for name in names:
        sys.modules.pop(name, None)


def load(name: str) -> ModuleType:
    return importlib.import_module(name)


def run(*arguments: str, given: str | None = None) -> str:
    """Run a program in the page's directory; what it prints."""
    done = subprocess.run(
        arguments, input=given, capture_output=True, text=True, timeout=40, check=False, env=environment()
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])}


def run_rqueue(words: list[str]) -> str:
    assert words[0] == "rqueue"
    return run(*RQUEUE, *words[1:])


@contextmanager
def worker(words: list[str]) -> Iterator[None]:
    """A worker process by a page's command, ended as the page says; it must end well."""
    assert words[:2] == ["rqueue", "worker"]
    log = Path.cwd() / "worker.log"
    with log.open("wb") as output:
        process = subprocess.Popen([*RQUEUE, *words[1:]], stderr=output, env=environment())
    try:
        yield
    finally:
        process.terminate()
        code = process.wait(20)
    assert code == 0, log.read_text(encoding="utf-8")


# The README


@pytest.mark.skipif(
    importlib.util.find_spec("python_multipart") is None, reason="FastAPI's uploads need python-multipart"
)
async def test_the_web_app_of_the_readme(unpack):
    unpack(README)
    module = load("app")
    web = AsyncClient(transport=ASGITransport(module.app), base_url="http://test")
    async with web, module.app.router.lifespan_context(module.app):
        answer = await web.post("/upload", files={"file": ("note.txt", b"one two \xff three")})
        task_id = answer.json()["task_id"]
        waiting = await web.get(f"/tasks/{task_id}")
        assert waiting.json() == {"state": "PENDING", "result": None, "error": None}
        assert (await web.get("/tasks/nobody")).status_code == 404
        assert (await web.post("/upload", files={"file": ("large", bytes(1_000_000))})).status_code == 413
        with worker(command(README, "rqueue", "worker", "-A")):
            await module.queue.job(task_id).result(timeout=20)
            done = await web.get(f"/tasks/{task_id}")
            assert done.json() == {"state": "SUCCESS", "result": {"name": "note.txt", "words": 4}, "error": None}
            assert run(sys.executable, "script.py") == "3\n"


async def test_the_options_and_the_foreign_producer_of_the_readme(unpack, redis_url, capsys):
    unpack(README)
    module = load("options")
    with redis.Redis.from_url(redis_url) as connection:
        connection.execute_command(*command(README, "redis-cli", "LPUSH")[1:])
    async with module.queue, module.queue.worker(concurrency=10) as inside:
        await module.enqueue_some()
        await inside.drain(scheduled=True)
        ended = {name: (await Admin(module.queue).queue(name)).counts for name in ("default", "email", "reports")}
    assert capsys.readouterr().out == "['welcome, cid', 'June, at the second run']\n"
    assert ended == {"default": {"SUCCESS": 2}, "email": {"SUCCESS": 4}, "reports": {"SUCCESS": 1}}


def test_the_commands_of_the_readme_are_those_of_the_program():
    def names(group: object, before: str) -> Iterator[str]:
        for name, each in getattr(group, "commands", {}).items():
            yield from names(each, f"{before} {name}")
            if not getattr(each, "commands", None) or each.invoke_without_command:
                yield f"{before} {name}"

    told = re.findall(r"^\| `(rqueue [a-z ]+)` \|", README.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(told) == sorted(names(typer.main.get_command(program), "rqueue"))


def test_the_two_commands_stand_at_the_top_of_the_readme():
    assert [words[:2] for words in shell_lines(README)[:2]] == [["make", "demo"], ["make", "test"]]


# The tutorial


def test_the_server_of_the_tutorial(unpack):
    directory = unpack(TUTORIAL)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    text = files(TUTORIAL)["server.py"]
    (directory / "server.py").write_text(text.replace("6379", str(port)), encoding="utf-8")
    assert run(sys.executable, "server.py", given="\n").strip() == f"redis://127.0.0.1:{port}/0 is up, Enter ends it"


async def test_the_tutorial(unpack):
    directory = unpack(TUTORIAL)
    (directory / "django").mkdir()
    (directory / "django" / "http.py").write_text(DJANGO, encoding="utf-8")
    (directory / "try_views.py").write_text(VIEWS, encoding="utf-8")
    with worker(command(TUTORIAL, "rqueue", "worker", "-A")):
        first, *rest = run(sys.executable, "produce.py").splitlines()
        assert first.endswith(" 3")
        assert rest == [
            "9900",
            "{'width': 80, 'bytes': 4}",
            "PENDING sent 5 characters to ann@example.org",
            "http://example.org, at run 3",
            "ZeroDivisionError division by zero",
        ]
        assert run_rqueue(command(TUTORIAL, "rqueue", "enqueue")).split()[-1] == "3"
        assert run(sys.executable, "try_views.py") == '{"state": "SUCCESS", "result": 42}\n404\n'
        await check_web(load("web"))
        listed = run_rqueue(command(TUTORIAL, "rqueue", "dead", "list"))
        (dead,) = re.findall(r"\b[0-9a-f]{32}\b", listed)
        shown = run_rqueue([dead if word == "ID" else word for word in command(TUTORIAL, "rqueue", "dead", "show")])
        assert "ZeroDivisionError" in shown
        again = [dead if word == "ID" else word for word in command(TUTORIAL, "rqueue", "dead", "retry")]
        assert run_rqueue(again).startswith("1 job")
    assert "email" in run_rqueue(command(TUTORIAL, "rqueue", "queues"))
    run_rqueue(command(TUTORIAL, "rqueue", "workers"))


async def check_web(module: ModuleType) -> None:
    web = AsyncClient(transport=ASGITransport(module.web), base_url="http://test")
    async with web, module.web.router.lifespan_context(module.web):
        made = await web.post("/mails", params={"to": "ann", "text": "hello"})
        assert made.status_code == 202
        await module.queue.job(made.json()["id"]).result(timeout=20)
        answer = await web.get(f"/mails/{made.json()['id']}")
        assert answer.json() == {"state": "SUCCESS", "result": "sent 5 characters to ann"}
        assert (await web.get("/mails/nobody")).status_code == 404


# The other pages


@pytest.mark.parametrize(
    "page", [TUTORIAL, TESTING, RESOURCES, PERIODIC, RETRIES, WATCHING], ids=lambda page: page.stem
)
def test_the_tests_on_the_page_pass(unpack, page):
    directory = unpack(page)
    names = sorted(path.name for path in directory.glob("test_*.py"))
    assert names
    # Not the options of this repository; warnings are errors here as well.
    options = ["-q", "-p", "no:cacheprovider", "-W", "error", "-o", "asyncio_default_fixture_loop_scope=function"]
    pytest_words = [sys.executable, "-m", "pytest", *options, *names]
    assert " passed" in run(*pytest_words)


def test_the_program_without_pytest(unpack):
    unpack(TESTING)
    assert run(sys.executable, "plain.py") == "['order 7'] 3\n"


def test_the_schedules_of_the_page_at_run_time(unpack):
    unpack(PERIODIC)
    assert run(sys.executable, "operate.py") == "PENDING\n3\nhourly every 7200 s added\n"
    _, *commands = shell_lines(PERIODIC)
    done = [CliRunner().invoke(program, [*words[1:3], "-A", "reports:app", *words[3:]]) for words in commands]
    assert [each.exit_code for each in done] == [0] * len(done)
    printed = [each.stdout for each in done]
    assert printed[1].startswith("hourly: every 3600 s, next 20")
    assert printed[2].startswith("hourly: cron 0 * * * * Europe/Berlin, next 20")
    assert printed[-1] == "hourly is removed\n"


class Shop(BaseHTTPRequestHandler):
    """What the tasks of the page on resources ask for prices."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"250" if self.path == "/prices/tea" else b"no price")

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Shop) as server:
        monkeypatch.setenv("SHOP_URL", f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield
        server.shutdown()
        thread.join()


async def test_the_resources_of_a_worker_and_of_a_script(unpack, shop):
    unpack(RESOURCES)
    module = load("prices")
    with worker(command(RESOURCES, "rqueue", "worker")):
        async with module.app:
            assert await (await module.price.enqueue("tea")).result(timeout=20) == 250
    assert run(sys.executable, "script.py") == "250\n"


async def test_a_workers_start_and_end(unpack, capsys):
    unpack(RESOURCES)
    module = load("lifecycle")
    with in_memory(module.app):
        async with working(module.app):
            assert capsys.readouterr().out == "the worker starts\nthe cache is warm\n"
    assert capsys.readouterr().out == "goodbye\nthe worker has ended\n"


async def test_a_payment_is_booked_once_however_often_it_runs(unpack):
    unpack(GUARANTEES)
    module = load("payments")
    with in_memory(module.app):
        async with working(module.app):
            once = module.pay.options(job_id="order-1")
            assert await (await once.enqueue("ann", 5)).result(timeout=10) is True
            assert await (await once.enqueue("ann", 5)).result(timeout=10) is False


async def test_a_report_is_cut_short_by_its_soft_limit(unpack):
    unpack(WORKERS)
    module = load("reports")
    with in_memory(module.app):
        async with working(module.app):
            short = await (await module.report.options(soft_time_limit=0.1).enqueue(1_000_000)).result(timeout=20)
            assert (await (await module.report.enqueue(2)).result(timeout=20))["complete"] is True
    assert short["complete"] is False


async def test_what_is_asked_for_again_is_one_job(unpack, capsys):
    unpack(UNIQUENESS)
    module = load("documents")
    with in_memory(module.app):
        async with module.app:
            first = await module.index.enqueue(1, "a", "x")
            assert (await module.index.enqueue(1, "a", "y")).id == first.id
            # Both convert calls before any worker; what the page waits for needs one.
            asking = asyncio.create_task(module.ask())
            async with working(module.app):
                await asking
    assert capsys.readouterr().out.splitlines()[1:] == ["False", "rqueue", "['Ann: one', 'Ann: one']"]


async def test_an_order_and_its_job_are_one_transaction(unpack, postgres_url):
    directory = unpack(OUTBOX)
    for path in directory.glob("*.py"):
        text = path.read_text(encoding="utf-8").replace("postgresql+asyncpg://localhost/shop", postgres_url)
        path.write_text(text.replace("postgresql+psycopg://localhost/shop", postgres_url.replace("asyncpg", "psycopg")))
    module = load("shop")
    upgrade = command(OUTBOX, "rqueue", "db", "upgrade")[1:]
    assert (await asyncio.to_thread(CliRunner().invoke, program, upgrade)).exit_code == 0
    async with module.engine.begin() as connection:
        await connection.run_sync(module.Base.metadata.create_all)
    web = AsyncClient(transport=ASGITransport(module.web), base_url="http://test")
    async with web, module.queue, working(module.queue) as inside:
        made = (await web.post("/orders", params={"customer": "ann"})).json()
        await inside.drain()
        assert await module.queue.job(made["job"]).result(timeout=20) == "ann"
        async with module.sessions.begin() as session:
            session.add(module.Order(customer="bob"))
        nightly = await asyncio.to_thread(load, "nightly")
        nightly.engine.dispose()
        await inside.drain()
        async with module.sessions() as session:
            assert [(await session.get(module.Order, number)).is_confirmed for number in (1, 2)] == [True, True]
    await module.engine.dispose()


async def test_an_export_is_cancelled(unpack, capsys):
    unpack(CANCEL)
    module = load("exports")
    acme = module.export.options(headers={"customer": "acme"})
    with in_memory(module.app):
        async with module.app:
            jobs = [await acme.enqueue("orders"), await module.export.enqueue("others")]
            assert await module.stop_customer("acme") == 1
            assert await module.stop(jobs[1].id) == "removed"
            assert await module.stop(jobs[0].id) == "too_late"
    assert capsys.readouterr().out == "".join(f"{job.id} is REVOKED\n" for job in reversed(jobs))


def test_the_commands_of_cancelling_are_understood(redis_url, monkeypatch):
    monkeypatch.setenv("RQUEUE_URL", redis_url)
    codes = [CliRunner().invoke(program, words[1:]).exit_code for words in shell_lines(CANCEL)]
    assert codes == [4, 4, 0, 0]


def invoke(words: list[str]) -> Any:
    """Run a command of the page in this process, with the page's app where it names none."""
    named = words if "-A" in words else [*words, "-A", "orders:app"]
    return CliRunner().invoke(program, named[1:], input="y\n")


async def test_the_history_of_the_page(unpack):
    unpack(RESULTS)
    assert (await asyncio.to_thread(invoke, command(RESULTS, "rqueue", "db", "upgrade", "-A"))).exit_code == 0
    app = load("orders").app
    with worker(command(RESULTS, "rqueue", "worker")):
        assert await asyncio.to_thread(run, sys.executable, "find.py") == "2 of tea\nValueError\nSUCCESS\n"
        assert await asyncio.to_thread(run, sys.executable, "report.py") == (
            "orders.ship ValueError: tea: nothing to ship\nFAILURE\nSUCCESS\norders.ship 2 0.5\n"
        )
        async with app:
            (done,) = (await app.history.page(state="SUCCESS")).entries
            with redis.Redis.from_url(app.endpoint.url) as connection:
                connection.flushall()
            assert await app.job(done.id).result(timeout=5) == "2 of tea"


def test_the_commands_of_history_are_understood(unpack):
    unpack(RESULTS)
    commands = [words for words in shell_lines(RESULTS) if words[1] in ("db", "history", "stats")]
    codes = [invoke(words).exit_code for words in commands]
    assert codes == [0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0]
    assert load("settings").app.config.results == Results(
        "postgresql+asyncpg://localhost/shop", retention="90d", keep_failures=True, args_bytes=1024
    )


def test_the_settings_of_a_store_are_told():
    table = RESULTS.read_text(encoding="utf-8").partition("| setting | ")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)`", table, re.MULTILINE) == [field.name for field in fields(Results)]


def test_celerys_variables_are_told():
    """Breaks when one is read that no reader is told of, or the other way round."""
    code = Path(inspect.getfile(Environment)).read_text(encoding="utf-8")
    table = FROM_CELERY.read_text(encoding="utf-8").partition("## Variables")[2].partition("\n### ")[0]
    told = re.findall(r"^\| `(CELERY_\w+)` \|", table, re.MULTILINE)
    assert sorted(told) == sorted(set(re.findall(r"CELERY_[A-Z]\w+", code)))


async def test_workers_are_asked_from_python(unpack):
    unpack(OPERATIONS)
    module = load("ask")
    async with module.app, working(module.app, concurrency=3):
        lines = (await asyncio.to_thread(run, sys.executable, "ask.py")).splitlines()
    assert lines == ["running 0 ('default',)", "{'slots': 5, 'was': 3}", "0 silent"]


async def test_a_checkup_from_python(unpack):
    unpack(OPERATIONS)
    printed = await asyncio.to_thread(run, sys.executable, "nightly.py")
    assert "persistence  a crash or a restart of Redis costs every job and result" in printed


def test_the_table_of_checks_is_the_doctors():
    """Breaks when a check is added or changed, and its row is not."""
    table = OPERATIONS.read_text(encoding="utf-8").partition("<!-- checks -->")[2].partition("<!-- /checks -->")[0]
    told = [tuple(cell.strip() for cell in line.split("|")[1:-1]) for line in table.strip().split("\n")[2:]]
    assert told == [(each.name, each.asks, each.worst.name.lower(), each.fix) for each in CHECKS]


async def test_a_queue_is_paused_from_python(unpack):
    unpack(OPERATIONS)
    first, last = (await asyncio.to_thread(run, sys.executable, "maintenance.py")).splitlines()
    assert first.startswith("queue email is paused since 20")
    assert last.strip() == "still paused:"


def test_the_table_of_the_workers_options_is_the_commands():
    """Names, variables and defaults, in the command's order; those that depend on the pool are told in words."""
    usual = WorkerConfig()
    words = {
        "--app": "found",
        "--concurrency": "100; `threads` 10; `prefork` one for each core; `solo` 1",
        "--processes": "1",
        "--pool": "async",
        "--prefetch-multiplier": f"{usual.prefetch_multiplier}; `prefork` and `solo` 1",
        "--reload": "off",
    }
    words |= dict.fromkeys(("--url", "--namespace", "--results", "--queues"), "the app's")

    def row(option: Any) -> tuple[str, str, str]:
        name = max(option.opts, key=len)
        default = words.get(name, "none" if option.default is None else f"{shown(option.default)}")
        return ", ".join(f"`{each}`" for each in sorted(option.opts, key=len)), f"`{option.envvar}`", default

    group: Any = typer.main.get_command(program)
    options = [option for option in group.commands["worker"].params if option.name != "help"]
    table = WORKERS.read_text(encoding="utf-8").partition("<!-- options -->")[2].partition("<!-- /options -->")[0]
    told = [tuple(cell.strip() for cell in line.strip("|").split("|")[:3]) for line in table.split("\n")[3:-1]]
    assert told == [row(option) for option in options]
    assert {pool: _CONCURRENCY[pool] for pool in POOLS} == {
        "async": 100,
        "threads": 10,
        "prefork": os.cpu_count(),
        "solo": 1,
    }


def told_options(section: str) -> list[tuple[str, ...]]:
    """The rows of a table of the options' page: the option's names, and its other cells."""
    table = OPTIONS.read_text(encoding="utf-8").partition(f"<!-- {section} -->")[2].partition("<!-- /")[0]
    rows = [line.strip("| ").split(" | ") for line in table.split("\n")[3:-1]]
    return [(name, *cells) for names, *cells in rows for name in re.findall(r"`(\w+)`", names)]


def test_the_tables_of_options_are_complete():
    """Breaks when an app, a task or a call has an option that no reader is told of, or the other way round."""
    assert [name for name, *_ in told_options("app")] == list(inspect.signature(RQueue).parameters)
    rows = told_options("options")
    of_tasks = [name for name, whose, *_ in rows if whose in ("task", "both")]
    of_calls = [name for name, whose, *_ in rows if whose in ("call", "both")]
    assert sorted(of_tasks) == sorted(["bind", *TaskKwargs.__annotations__])
    assert sorted(of_calls) == sorted(CallKwargs.__annotations__)
    assert len(rows) == len(set(of_tasks + of_calls))


def shown(default: object) -> str:
    return f"{default:g}" if isinstance(default, float) else str(getattr(default, "value", default))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_worker_commands_of_the_pages_are_understood(page, monkeypatch):
    """Whatever can be refused before anything is started is not; the supervisor is told, and not started."""
    fleets: list[FleetSettings] = []
    monkeypatch.setattr("rqueue.cli.worker.take_over", fleets.append)
    written = [words for words in commands_for_machines(page) if words[:2] == ["rqueue", "worker"]]
    for words in written:
        done = CliRunner().invoke(program, words[1:])
        assert done.exit_code == 0, f"{words}: {done.stderr}"
    assert len(fleets) == len(written)


def commands_for_machines(page: Path) -> list[list[str]]:
    """The page's commands, and those that its unit, its images and its manifests give."""
    given = [block.text for block in blocks(page) if block.language in ("ini", "dockerfile", "yaml")]
    units = re.findall(r"^ExecStart=\S*/(rqueue .*)$", "\n".join(given), re.MULTILINE)
    lists = re.findall(r"^(?:CMD| *command:) (\[.*\])$", "\n".join(given), re.MULTILINE)
    return [*shell_lines(page), *map(shlex.split, units), *map(json.loads, lists)]


def test_operations_tells_of_each_verb():
    told = re.findall(r"^\| (`.*?) \|", OPERATIONS.read_text(encoding="utf-8"), re.MULTILINE)
    names = [name.split()[0] for cell in told for name in re.findall(r"`([^`]+)`", cell)]
    assert names == [*INSPECT, *CONTROL]


def test_the_commands_of_operations_are_understood(redis_url, monkeypatch):
    """Against a Redis without workers: none is there, or healthy, and nothing is wrong with the words."""
    monkeypatch.setenv("RQUEUE_URL", redis_url)
    codes = {
        " ".join(words[1:3]): CliRunner().invoke(program, words[1:]).exit_code
        for words in shell_lines(OPERATIONS)
        if "-d" not in words
    }
    assert codes == {
        "status": 0,
        "top": 0,
        "inspect ping": 4,
        "control pool_grow": 4,
        "control rate_limit": 4,
        "pause email": 0,
        "resume email": 0,
        "pause --task": 0,
        "pause --all": 0,
        "resume --all": 0,
        "dead list": 0,
        "dead show": 4,
        "dead edit": 4,
        "dead retry": 0,
        "dead purge": 0,
        "health": 1,
        "doctor": 1,  # the tests' server keeps nothing
        "doctor --fix": 1,
        "bench --rounds": 0,
    }


@pytest.mark.parametrize(
    "page",
    [
        *(README, TUTORIAL, TESTING, RESOURCES, RETRIES, GUARANTEES, PROTOCOL, WORKERS, OPERATIONS, UNIQUENESS),
        *(PERIODIC, WATCHING, CANCEL, OUTBOX, RESULTS),
    ],
    ids=lambda page: page.name,
)
def test_all_python_on_the_page_is_run(page):
    """Each block is a file, and the tests above run each file: what cannot be run does not belong on the page."""
    for block in blocks(page):
        if block.language == "python":
            assert block.info.startswith("file="), block.text
            compile(block.text, block.info, "exec")
    tested = Path(__file__).read_text(encoding="utf-8") + "".join(files(page).values())
    for name in files(page):
        module = name.removesuffix(".py")
        uses = (f'"{name}"', f'"{module}"', f"from {module} import ", f"import {module}\n")
        assert name.startswith(("test_", "conftest")) or any(use in tested for use in uses), name


def test_the_protocol_names_each_key():
    keys = QueueKeys("rqueue", "email")
    named = {value for value in vars(keys).values() if isinstance(value, bytes) and not value.endswith(b":")}
    for_workers = {make("<worker>") for make in (keys.processing, keys.started, keys.settled, keys.card)}
    every = {
        *named,
        *keys.lists,
        *for_workers,
        keys.sent("<producer>"),
        keys.result("<id>"),
        keys.throttle("<lock>"),
        Keys().queues,
        Keys().paused,
    }
    every -= set(keys.lists[2:10])  # the table shows the first and the last of them
    section = PROTOCOL.read_text(encoding="utf-8").partition("## Keys")[2].partition("\n## ")[0]
    first_cells = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    assert sorted(re.findall(r"`([^`]+)`", " ".join(first_cells))) == sorted(key.decode() for key in every)


def test_links_lead_somewhere():
    for page in PAGES:
        text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, anchor = target.partition("#")
            there = (page.parent / path).resolve() if path else page
            assert there.exists(), f"{page.name}: {target}"
            if anchor:
                assert anchor in anchors(there), f"{page.name}: {target}"


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_files_that_pages_name_are_there():
    for page in PAGES:
        for name in re.findall(r"`((?:rqueue|tests|docs|benchmarks)/[\w/.-]+)`", page.read_text(encoding="utf-8")):
            assert (ROOT / name).exists(), f"{page.name}: {name}"
