"""Tasks by name: module.function, or the bare function name where exactly one task has it."""

import subprocess
import sys
from pathlib import Path

import pytest

from rqueue import ConfigError, RQueue
from rqueue.client.registry import default_name


@pytest.fixture
def app() -> RQueue:
    return RQueue("memory://")


def test_a_tasks_default_name_is_module_and_function(app):
    @app.task
    async def resize(): ...

    @app.task(max_retries=1)
    def crop(): ...

    assert [task.name for task in app.tasks] == [f"{__name__}.resize", f"{__name__}.crop"]
    assert default_name(resize.function) == resize.name


def test_a_given_name_counts(app):
    @app.task(name="images.resize")
    async def anything(): ...

    assert app.tasks.find("images.resize") is anything
    assert app.tasks.find("anything") is None
    assert app.tasks.find(f"{__name__}.anything") is None


def test_a_bare_name_finds_the_one_task_that_has_it(app):
    @app.task(name="images.resize")
    async def one(): ...

    @app.task(name="images.crop")
    async def two(): ...

    assert app.tasks.find("resize") is one
    assert app.tasks.find("crop") is two
    assert app.tasks.find("images") is None
    assert app.tasks.find("") is None


def test_an_ambiguous_bare_name_finds_nothing(app):
    @app.task(name="images.resize")
    async def one(): ...

    @app.task(name="videos.resize")
    async def two(): ...

    assert app.tasks.find("resize") is None
    assert app.tasks.find("images.resize") is one
    assert app.tasks.find("videos.resize") is two


def test_a_task_whose_whole_name_is_bare_goes_first(app):
    @app.task(name="images.resize")
    async def one(): ...

    @app.task(name="resize")
    async def two(): ...

    assert app.tasks.find("resize") is two


def test_a_dotted_name_must_be_whole(app):
    @app.task(name="shop.images.resize")
    async def one(): ...

    assert app.tasks.find("images.resize") is None


def test_the_names_by_which_a_task_is_called(app):
    @app.task(name="images.resize")
    async def one(): ...

    @app.task(name="videos.crop")
    async def two(): ...

    @app.task(name="images.crop")
    async def three(): ...

    assert app.tasks.full_name("resize") == app.tasks.full_name("images.resize") == app.tasks.full_name(one)
    assert app.tasks.names("resize") == app.tasks.names(one) == {"images.resize", "resize"}
    assert app.tasks.names(two) == {"videos.crop"}
    assert app.tasks.full_name("crop") == "crop"
    assert app.tasks.names("other.task") == {"other.task"}


async def test_a_job_finds_its_task_by_the_bare_name(app):
    """The wire format lets redis-cli say just the function's name."""

    @app.task(name="images.resize")
    async def resize(width: int) -> int:
        return width

    async with app:
        keys = app.keys.queue("default")
        await app.session().broker.announce("default")
        await app.session().broker._link.call(b"LPUSH", keys.main, b'{"task":"resize","args":[3],"id":"by-hand"}')
        async with app.worker() as worker:
            await worker.drain()
        assert await app.job("by-hand").result(timeout=5) == 3


def test_two_functions_under_one_name_are_refused(app):
    def first(): ...

    def second(): ...

    app.task(name="same")(first)
    with pytest.raises(ConfigError) as caught:
        app.task(name="same")(second)
    assert "task 'same': registered twice" in str(caught.value)
    assert "first" in str(caught.value)
    assert "second" in str(caught.value)
    assert app.tasks.find("same").function is first


def test_the_same_function_again_replaces_itself(app):
    """A module that is reloaded registers its tasks again."""

    def make():
        @app.task(name="images.resize")
        def resize(): ...

        return resize

    make()
    again = make()
    assert len(app.tasks) == 1
    assert app.tasks.find("resize") is again


SCRIPT = """
from rqueue import RQueue
app = RQueue("memory://")
@app.task
async def resize(): ...
print(resize.name)
"""


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["my_tasks.py"], "my_tasks.resize"),
        (["-m", "my_tasks"], "my_tasks.resize"),
        (["-m", "pack.inner"], "pack.inner.resize"),
        (["-c", SCRIPT], "__main__.resize"),
    ],
    ids=["script", "module", "package", "command"],
)
def test_a_script_that_is_run_names_its_tasks_as_a_worker_will_import_them(tmp_path: Path, command, name):
    (tmp_path / "my_tasks.py").write_text(SCRIPT)
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").touch()
    (tmp_path / "pack" / "inner.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == name
