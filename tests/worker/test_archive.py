"""archive: the result store is there, or away."""

import asyncio
import time

import pytest

from rqueue.errors import SchemaMismatch, StoreUnavailable
from rqueue.results import patience
from rqueue.results.row import Row
from rqueue.worker.archive import FIRST_PAUSE_S, LONGEST_PAUSE_S, Archive


def row(job_id: str) -> Row:
    fields = dict.fromkeys(Row._fields)
    return Row(**{**fields, "id": job_id, "queue": "q", "state": "SUCCESS", "attempts": 1, "losses": 0, "finished": 1})


@pytest.fixture
def pauses():
    return []


@pytest.fixture
def archive(store, pauses):
    """Its clock says how often it was asked; its pauses take no time."""
    ticks = iter(range(1000, 10_000, 1000))

    async def sleep(seconds):
        pauses.append(seconds)
        await asyncio.sleep(0)

    return Archive(store, lambda: next(ticks), 0.02, sleep)


async def test_rows_are_written_and_what_is_refused_is_told(archive, store):
    store.refused = {"b"}
    assert await archive.save([row("a"), row("b")]) == ["b"]
    assert store.states == {"a": "SUCCESS"}
    assert archive.away_since is None


@pytest.mark.parametrize("how", ["is_away", "hangs"])
async def test_the_first_failure_is_the_last_that_anybody_waits_for(archive, store, how, log):
    """Breaks when each batch waits for the time-out of its own."""
    setattr(store, how, True)
    with pytest.raises(StoreUnavailable):
        await archive.save([row("a")])
    assert archive.away_since == 1000
    setattr(store, how, False)
    with pytest.raises(StoreUnavailable):
        await archive.save([row("a")])
    assert store.batches == []
    (said,) = log.of("result store away, results wait in redis")
    assert said["url"] == store.shown


async def test_away_at_the_start_it_is_looked_for(archive, store):
    """A worker starts without its database. Breaks when open() raises."""
    store.is_away = True
    await archive.open()
    assert archive.away_since is not None


async def test_with_other_tables_nothing_starts(archive, store):
    """Breaks when a worker writes into tables that it does not know, or waits for ever for others."""
    store.mismatch = True
    with pytest.raises(SchemaMismatch, match="rqueue db upgrade"):
        await archive.open()


async def test_it_is_looked_for_with_a_growing_pause_until_it_is_back(archive, store, pauses, log):
    """Breaks when a database that comes back is met by a storm, or by nobody."""
    store.is_away = True
    await archive.open()
    running = asyncio.create_task(archive.run())
    while len(pauses) < 7:
        await asyncio.sleep(0)
    assert not archive.back.is_set()
    store.is_away = False
    await archive.back.wait()
    assert pauses[:7] == [FIRST_PAUSE_S, 1.0, 2.0, 4.0, 8.0, LONGEST_PAUSE_S, LONGEST_PAUSE_S]
    assert archive.away_since is None
    assert log.of("result store is back")[0]["seconds"] == 1.0
    await archive.save([row("a")])
    assert store.states == {"a": "SUCCESS"}
    running.cancel()


async def test_one_that_answers_and_takes_nothing_is_not_asked_more_often(archive, store, pauses, until):
    """Its disk is full, for example. Breaks when the pause begins anew each time."""
    running = asyncio.create_task(archive.run())
    for _ in range(3):
        store.is_away = True
        with pytest.raises(StoreUnavailable):
            await archive.save([row("a")])
        store.is_away = False
        await until(lambda: archive.away_since is None)
    assert pauses == [FIRST_PAUSE_S, 1.0, 2.0]
    await archive.save([row("a")])
    store.is_away = True
    with pytest.raises(StoreUnavailable):
        await archive.save([row("a")])
    await until(lambda: len(pauses) == 4)
    assert pauses[3] == FIRST_PAUSE_S
    running.cancel()


async def test_other_tables_in_mid_run_are_loud_and_nobody_stops(archive, store, log):
    """Somebody has upgraded the database. Breaks when a worker ends for it, or loses rows."""
    store.is_away = True
    await archive.open()
    store.is_away, store.mismatch = False, True
    assert not await archive.tick()
    assert archive.away_since is not None
    assert log.loud() == ["result store is still away"]
    store.mismatch = False
    assert await archive.tick()


async def test_a_row_at_which_the_store_breaks_keeps_no_other_out(archive, store, monkeypatch, log):
    """An error of its own, which is not about the connection. Breaks when one row is tried for ever, before all."""
    save = store.save

    async def fragile(rows):
        if any(each.id == "c" for each in rows):
            raise ValueError("no such thing")
        return await save(rows)

    monkeypatch.setattr(store, "save", fragile)
    assert await archive.save([row(job_id) for job_id in "abcde"]) == ["c"]
    assert set(store.states) == set("abde")
    assert log.loud() == ["a row failed in the result store itself"]


async def test_a_store_that_answered_while_the_loop_stood_still_is_not_away(archive, store, monkeypatch):
    """A task blocks the loop, as each does in the pool `solo`. Breaks when that is taken for a store's silence."""
    monkeypatch.setattr(patience, "_PART_S", 0.005)
    save = store.save

    async def answered(rows):
        time.sleep(0.05)  # noqa: ASYNC251 - the loop stands still
        for _ in range(5):  # some turns until all of it is read
            await asyncio.sleep(0)
        return await save(rows)

    monkeypatch.setattr(store, "save", answered)
    await archive.save([row("a")])
    assert archive.away_since is None


async def test_closing_does_not_wait_for_what_hangs(archive, store):
    store.gate.clear()
    with pytest.raises(StoreUnavailable):
        await archive.save([row("a")])
    await archive.close()
    assert store.is_closed
