"""The version that a database has, and what is said of it."""

import subprocess
import sys

import pytest

from rqueue.results.sql.version import VERSION, complaint, current

from .conftest import run


@pytest.mark.parametrize(
    ("found", "said"),
    [(None, "no tables yet; run `rqueue db upgrade`"), ("0000", "rqueue db upgrade"), ("9999", "a newer rqueue")],
)
def test_what_is_wrong_and_what_to_do(found, said):
    assert said in complaint(found)


def test_nothing_is_wrong_with_this_one():
    assert complaint(VERSION) is None


async def test_a_database_says_its_version(empty, engine):
    async with empty.connect() as connection:
        assert await current(connection) is None
    async with engine.connect() as connection:
        assert await current(connection) == VERSION
    await run(engine, "UPDATE rqueue_version SET version_num = '0001'")
    async with engine.connect() as connection:
        assert await current(connection) == "0001"


def test_a_worker_needs_no_alembic():
    """It is asked at each start, in each process. Breaks when the store loads what only `rqueue db` needs."""
    code = "import sys, rqueue.results.sql.store; sys.exit('alembic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
