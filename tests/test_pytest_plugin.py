"""The pytest plugin, in a suite such as a newcomer would write."""

import sys

import pytest

pytest_plugins = ["pytester"]

APP = """
from rqueue import RQueue

app = RQueue("redis://127.0.0.1:1/0", queues=["default", "email"])  # nobody is there: no test may need it

@app.task
async def double(n: int) -> int:
    return 2 * n

@app.task(queue="email", bind=True, max_retries=2)
def send(self, to: str) -> str:
    if self.request.retries < 1:
        self.retry(countdown=0.01)
    return to
"""

CONFTEST = """
import pytest
from my_app import app

@pytest.fixture
def rqueue_target():
    return app
"""

SUITE = """
import pytest
from rqueue import JobFailed, State
from my_app import double, send

async def test_enqueued(rqueue_app):
    job = await double.options(job_id="same").enqueue(1)
    assert not job.duplicate
    assert (await job.info()).state is State.PENDING

async def test_each_test_is_empty_at_first(rqueue_app):
    assert not (await double.options(job_id="same").enqueue(1)).duplicate

async def test_worked_off(rqueue_app, rqueue_worker):
    job = await double.enqueue(2)
    assert await job.result(timeout=5) == 4
    mail = await send.enqueue("a@example.org")
    await rqueue_worker.drain(scheduled=True)
    assert await mail.result(timeout=5) == "a@example.org"

async def test_worked_off_again(rqueue_worker):
    assert await (await double.enqueue(3)).result(timeout=5) == 6

async def test_eager(rqueue_eager):
    assert await (await double.enqueue((1,))).result() == [1, 1]
    with pytest.raises(TypeError):
        await double.enqueue({1})
    assert await (await send.enqueue("b")).result() == "b"

def test_eager_and_synchronous(rqueue_eager):
    assert double.delay(4).get() == 8
    with pytest.raises(JobFailed):
        double.delay(None).get()

def test_synchronous(rqueue_app):
    assert double.delay(4).state is State.PENDING

def test_synchronous_again(rqueue_app):
    assert not double.options(job_id="same").delay(4).duplicate

def test_back_again():
    from my_app import app
    assert not app.endpoint.is_memory
    assert app.eager is None
"""

INI = """
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
filterwarnings = error
"""


def test_a_suite_as_a_newcomer_writes_it(pytester: pytest.Pytester):
    pytester.makepyfile(my_app=APP, conftest=CONFTEST, test_suite=SUITE)
    pytester.makeini(INI)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=9)
    assert "never awaited" not in result.stderr.str()


def test_the_fixtures_are_listed_with_their_meaning(pytester: pytest.Pytester):
    pytester.makeini(INI)
    result = pytester.runpytest_inprocess("--fixtures")
    for name, text in [
        ("rqueue_app", "The app on an empty server"),
        ("rqueue_worker", "A worker for the app"),
        ("rqueue_clock", "The app's clock"),
        ("rqueue_eager", "running each job where it is enqueued"),
        ("rqueue_target", "The app under test"),
    ]:
        result.stdout.re_match_lines([rf"{name}.*", rf".*{text}.*"], consecutive=True)


def test_without_a_target_it_says_what_to_define(pytester: pytest.Pytester):
    pytester.makepyfile("def test_it(rqueue_app): pass")
    pytester.makeini(INI)
    result = pytester.runpytest_inprocess()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*define a fixture rqueue_target in your conftest.py*"])


def test_a_suite_without_pytest_asyncio_runs_all_the_same(pytester: pytest.Pytester):
    """Pytest loads the plugin wherever rqueue is installed: it must not need what only a fixture needs."""
    pytester.makepyfile(
        my_app=APP,
        conftest=CONFTEST,
        test_suite="""
        def test_nothing(): pass

        def test_eager(rqueue_eager):
            from my_app import double
            assert double.delay(4).get() == 8

        def test_worker(rqueue_worker): pass
        """,
    )
    script = """
import sys
from importlib.abc import MetaPathFinder

class NotInstalled(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "pytest_asyncio":
            raise ModuleNotFoundError(name)

import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "pytest_asyncio" else found(name, *rest)
sys.meta_path.insert(0, NotInstalled())
import pytest
sys.exit(pytest.main(["-p", "no:cacheprovider", "-p", "no:asyncio", "-p", "rqueue.pytest_plugin"]))
"""
    result = pytester.run(
        sys.executable, "-c", "import os; os.environ['PYTEST_DISABLE_PLUGIN_AUTOLOAD'] = '1'\n" + script
    )
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*rqueue_worker needs pytest-asyncio: pip install 'rqueue?test?'*"])
