"""stage: its processes are real, and it touches no others."""

import os
import subprocess
import sys

import pytest

from .oracle import Run
from .stage import NoRest, Stage, descendants, environment, is_alive


@pytest.fixture
async def stage(tmp_path):
    async with Stage(tmp_path / "stage", "7") as stage:
        yield stage


def test_a_stranger_with_a_dead_process_s_number_is_not_taken_for_it(tmp_path):
    """What is killed and frozen by its number must be the stage's own."""
    logs = tmp_path / "logs"
    command = [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env=environment(logs, {}), **pipes) as process:
        process.stdout.readline()  # for a moment after its start the system does not know its environment
        assert is_alive(process.pid, str(logs))
        assert not is_alive(process.pid, str(tmp_path / "another's")) or sys.platform != "linux"
        assert process.pid in descendants(os.getpid())
        process.kill()
        process.wait()
        assert not is_alive(process.pid, str(logs))


async def test_its_chances_come_from_its_seed(stage, tmp_path):
    async with Stage(tmp_path / "again", "7") as again, Stage(tmp_path / "other", "8") as other:
        first = stage.chance.random()
        assert again.chance.random() == first != other.chance.random()


async def test_a_pick_takes_one_chance_of_however_many(tmp_path):
    """How many processes live at a moment is no matter of the seed; what is done later must not hang on it."""
    async with Stage(tmp_path / "one", "7") as one, Stage(tmp_path / "two", "7") as two:
        assert one.pick("a") == "a"
        assert two.pick("abcdefg") in "abcdefg"
        assert one.chance.random() == two.chance.random()


async def test_what_does_not_come_is_said(stage):
    with pytest.raises(NoRest, match="the rain"):
        await stage.until(lambda: False, 0.0, "the rain")


async def test_a_process_that_does_not_take_up_its_work_again_is_noticed(stage, monkeypatch):
    """Others do all jobs meanwhile: nothing else would show it."""
    monkeypatch.setattr(stage, "busy", lambda: [1, 2, 3])
    stage.oracle.runs["m.1"] = [Run("m.1", 1, "a", 9.0, 9.5), Run("m.1", 1, "b", 10.5), Run("m.1", 2, "c", 9.0)]
    assert stage.idle_since(10.0) == [2, 3]


async def test_workers_that_end_by_themselves_are_noticed(stage):
    stage.server()
    group = stage.work("--pool", "no-such-pool")
    await stage.until(lambda: not group.alive, what="its end")
    with pytest.raises(NoRest, match="ended by itself with 2"):
        await group.stop()
