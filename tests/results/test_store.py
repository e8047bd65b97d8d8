"""What holds for every result store, whatever keeps the rows."""

import asyncio
import json
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rqueue.errors import StoreUnavailable
from rqueue.results import patience
from rqueue.results.row import Row, replaces
from rqueue.results.sql.upsert import storable_row

from .conftest import NOW, make_row

ODD_TEXTS = [
    "",
    "\x00",
    "a\x00b",
    "\ud800",
    "😀 ünï",
    "'; DROP TABLE rqueue_jobs; --",
    '%s :rows \\ " \n\t',
    "x" * 5000,
]


def is_sql(store):
    return hasattr(store, "engine")


def as_stored(store, row):
    return storable_row(row) if is_sql(store) else row


async def test_a_row_comes_back_as_it_was(store):
    """Breaks when a field is lost or takes another's place, or a time goes through a float."""
    row = make_row(
        priority=7,
        state="FAILURE",
        result=None,
        error="ValueError: no",
        traceback="Traceback …\nValueError: no",
        attempts=3,
        losses=1,
        parent_id="parent",
        root_id="root",
        history='[[1763841234000,"OSError: away"]]',
    )
    assert not await store.save([row])
    assert await store.find(row.id) == row
    assert await store.find(row.id, row.queue) == row
    assert await store.find(row.id, "other") is None
    assert await store.find("no such job") is None


async def test_what_is_not_known_stays_unknown(store):
    row = make_row(enqueued=None, task=None, args=None, kwargs=None, result=None, worker=None, started=None)
    await store.save([row])
    assert await store.find(row.id) == row


async def test_saving_may_be_repeated(store):
    """Breaks when a batch whose answer was lost makes rows twice, or fails."""
    rows = [make_row() for _ in range(10)]
    for _ in range(3):
        assert not await store.save(rows)
    for row in rows:
        assert await store.find(row.id) == row
    if is_sql(store):
        assert await count(store, [row.id for row in rows]) == 10


async def test_while_the_loop_stands_still_no_store_is_away(store, monkeypatch):
    """A task blocks it again and again, as each does in the pool `solo`. Breaks when late answers are taken for none:
    such a worker would never see that its store is back, which takes several answers.
    """
    monkeypatch.setattr(patience, "_PART_S", 0.02)
    store._timeout_s = 0.2
    blocks = []

    async def block():
        while True:
            time.sleep(0.25)  # noqa: ASYNC251 - it blocks
            blocks.append(1)
            await asyncio.sleep(0.005)

    blocking = asyncio.create_task(block())
    await store.open()
    row = make_row()
    assert not await store.save([row])
    blocking.cancel()
    assert blocks
    assert await store.find(row.id) == row


async def count(store, ids):
    from sqlalchemy import func, select

    from rqueue.results.sql.tables import jobs

    async with store.engine.connect() as connection:
        return (await connection.execute(select(func.count()).where(jobs.c.id.in_(ids)))).scalar()


async def test_an_empty_batch(store):
    assert not await store.save([])


ORDERS = [  # (attempts, losses, started) of what is stored and of what comes, and whether it takes its place
    ("the same once more", (1, 0, 100), (1, 0, 100), True),
    ("its next run", (1, 0, 100), (2, 0, 200), True),
    ("its next run, of a host whose clock is late", (1, 0, 200), (2, 0, 100), True),
    ("an old failure that waited while its dead letter was revived", (1, 0, 90_000), (5, 0, 100), False),
    ("a frozen worker's first run", (2, 0, 200), (1, 0, 100), False),
    ("a frozen worker, whose death counts", (1, 1, 200), (1, 0, 100), False),
    ("a frozen worker's end of a run that a reaper has ended", (1, 1, 100), (1, 0, 100), False),
    ("a reaper's end of a run that a frozen worker has ended", (1, 0, 100), (1, 1, 100), True),
    ("a revived dead letter, whose runs count anew", (5, 0, 100), (1, 0, 900), True),
    ("ended without a run, by when it ended", (1, 0, None), (1, 0, 10_000), True),
    ("a run before it ended without one", (1, 0, None), (1, 0, 100), False),
]


async def test_a_later_row_takes_the_place_and_a_late_one_does_not(store):
    """The store decides as `replaces`. Breaks when a frozen worker overwrites what the job's new owner wrote."""

    def row(order, worker, job_id):
        attempts, losses, started = order
        at = None if started is None else NOW + started
        return make_row(id=job_id, attempts=attempts, losses=losses, started=at, finished=NOW + 5000, worker=worker)

    for case, stored, comes, wins in ORDERS:
        first = row(stored, "first", make_row().id)
        second = row(comes, "second", first.id)
        assert replaces(second, first) is wins, case
        await store.save([first])
        await store.save([second])
        assert await store.find(first.id) == (second if wins else first), case
        one, two = first._replace(id=first.id + "b"), second._replace(id=first.id + "b")
        await store.save([one, two])
        assert await store.find(one.id) == (two if wins else one), f"{case}, in one batch"


async def test_a_job_twice_in_a_batch_is_the_later_row(store):
    first = make_row(state="RETRY")
    second = first._replace(state="SUCCESS", attempts=2, started=NOW + 500, finished=NOW + 600)
    for batch in ([first, second], [second, first]):
        batch = [row._replace(id=batch[0].id + batch[0].state) for row in batch]
        await store.save([*batch, make_row(), *batch])
        assert (await store.find(batch[0].id)).state == "SUCCESS"


async def test_an_id_that_is_used_again_is_another_job(store):
    """Breaks when the second job's row takes the first one's place: it is found, the other stays."""
    first = make_row(attempts=5)
    second = first._replace(enqueued=NOW + 86_400_000, started=NOW + 86_400_100, attempts=1)
    await store.save([second, first])
    assert await store.find(first.id) == second
    if is_sql(store):
        assert await count(store, [first.id]) == 2


async def test_thousands_at_once(store):
    rows = [make_row() for _ in range(5000)]
    assert not await store.save(rows)
    for row in rows[::1000]:
        assert await store.find(row.id) == row


async def test_odd_texts(store):
    """Breaks when one text keeps a batch from being written, or takes a statement apart."""
    rows = [make_row(error=text, traceback=text, worker=text, result=json.dumps(text)) for text in ODD_TEXTS]
    assert not await store.save(rows)
    for row, text in zip(rows, ODD_TEXTS, strict=True):
        found = await store.find(row.id)
        assert found == as_stored(store, row)
        assert json.loads(found.result) == text


ODD_RESULTS = [
    json.dumps("x" * 1_000_000),
    "[" * 500 + "]" * 500,
    '{"a":1e400,"b":-0.0,"c":123456789012345678901234567890}',
    r'["\u0000","\ud800","\udc00\ud800"]',
    '{"a":1,"a":2}',
    " [1,  2] ",
    "null",
]


async def test_odd_results_come_back_byte_for_byte(store):
    """Breaks when JSON is read and written again on its way: it is the task's result, not ours."""
    rows = [make_row(result=result) for result in ODD_RESULTS]
    assert not await store.save(rows)
    for row in rows:
        assert (await store.find(row.id)).result == row.result


async def test_odd_names(store):
    """A task's name and an id are part of indexes, and of keys."""
    rows = [make_row(task=text, id=make_row().id + text[:200]) for text in ODD_TEXTS]
    assert not await store.save(rows)
    for row in rows:
        found = await store.find(row.id)
        assert found is not None
        assert found.task == as_stored(store, row).task or (is_sql(store) and found.task == row.task[:500])


async def test_times_that_no_calendar_has(store):
    """A foreign producer may say anything. Breaks when a row cannot be written, or not be read again."""
    rows = [make_row(enqueued=at, started=at) for at in (-1, 0, 10**15, 10**17, 2**63 - 1)]
    assert not await store.save(rows)
    for row in rows:
        assert (await store.find(row.id)).state == "SUCCESS"


async def test_what_is_refused_keeps_no_other_out(store):
    """Breaks when one row that no database takes makes a whole batch fail, for ever."""
    bad = make_row(attempts=2**70)
    rows = [*(make_row() for _ in range(20)), bad, *(make_row() for _ in range(20))]
    refused = await store.save(rows)
    assert list(refused) == ([bad.id] if is_sql(store) else [])
    for row in rows:
        assert (await store.find(row.id)) == (row if row is not bad or not is_sql(store) else None)


async def test_what_cannot_be_kept_whole_is_kept_without_its_contents(store):
    """Breaks when a job has no row, because its result is none that the database takes."""
    row = make_row(result="no JSON", priority=10**6, task="task " * 10_000, error="e" * 5000)
    plain = make_row()
    assert not await store.save([plain, row])
    found = await store.find(row.id)
    assert (found.state, found.finished, found.started) == (row.state, row.finished, row.started)
    assert await store.find(plain.id) == plain


async def test_writers_with_the_same_jobs_do_not_stop_each_other(store_url, new_store):
    """Each in its own order. Breaks when batches are not sorted: two that wait for each other are a deadlock."""
    rows = [make_row() for _ in range(100)]
    stores = [new_store(store_url) for _ in range(4)]
    batches = [rows, rows[::-1], rows[50:] + rows[:50], rows[::2] + rows[1::2]]

    async def write(store, batch):
        for attempt in range(1, 4):
            assert not await store.save([row._replace(attempts=attempt, worker=str(id(store))) for row in batch])

    await asyncio.gather(*map(write, stores, batches))
    for row in rows[::25]:
        assert (await stores[0].find(row.id)).attempts == 3


texts = st.text(st.characters(codec=None), max_size=40)
times = st.integers(NOW - 10**12, NOW + 10**12)
documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
).map(json.dumps)
drawn_rows = st.builds(
    Row,
    id=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=128),
    enqueued=st.none() | times,
    task=st.none() | texts,
    queue=st.sampled_from(["default", "email"]),
    priority=st.none() | st.integers(1, 10),
    state=st.sampled_from(["SUCCESS", "FAILURE", "REVOKED", "RETRY"]),
    args=st.none() | documents,
    kwargs=st.none() | documents,
    result=st.none() | documents,
    error=st.none() | texts,
    traceback=st.none() | texts,
    attempts=st.integers(0, 2**31 - 1),
    losses=st.integers(0, 1000),
    worker=st.none() | texts,
    parent_id=st.none() | texts,
    root_id=st.none() | texts,
    started=st.none() | times,
    finished=times,
    history=st.none() | documents,
)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(drawn_rows, min_size=1, max_size=10))
async def test_whatever_is_a_row_comes_back(store, rows):
    """Breaks when some text or number is stored as another one."""
    prefix = make_row().id  # of this example's own
    rows = [row._replace(id=f"{prefix} {row.id}") for row in rows]
    assert not await store.save(rows)
    expected: dict[str, Row] = {}
    for row in rows:
        known = expected.get(row.id)
        at, other = row.enqueued or 0, (known or row).enqueued or 0
        if known is None or at > other or (at == other and replaces(row, known)):
            expected[row.id] = row
    for job_id, row in expected.items():
        assert await store.find(job_id) == as_stored(store, row)


@pytest.mark.parametrize("scheme", ["redis", "postgresql+asyncpg", "postgresql+psycopg"])
async def test_a_store_where_nobody_listens_is_unavailable(new_store, scheme):
    """Breaks when the driver's own error goes up, or the password is shown."""
    store = new_store(f"{scheme}://user:secret@127.0.0.1:1/2")
    for call in (store.open(), store.save([make_row()]), store.find("x")):
        with pytest.raises(StoreUnavailable) as raised:
            await call
        assert "secret" not in str(raised.value) + store.shown


async def test_a_store_that_does_not_answer_is_unavailable_in_time_and_used_again_afterwards(away, new_store):
    """A server that has stopped holds nobody up. Breaks when a driver, cancelled, waits for that server."""
    store = new_store(away.url, timeout_s=0.4)
    await store.open()
    row, later = make_row(), make_row()
    await store.save([row])
    with away:
        reads = (
            () if "sqlite" in away.url else (store.find(row.id), store.open())
        )  # there readers do not wait for writers
        for call in (store.save([later]), store.save([later]), *reads):
            with pytest.raises(StoreUnavailable):
                await asyncio.wait_for(call, 5)  # which is below what drivers wait by themselves
    assert not await store.save([later])
    assert await store.find(row.id) == row
    assert await store.find(later.id) == later


async def test_a_store_that_does_not_answer_is_closed_all_the_same(away, new_store):
    store = new_store(away.url, timeout_s=0.4)
    await store.save([make_row()])
    with away:
        with pytest.raises(StoreUnavailable):
            await store.save([make_row()])
        await asyncio.wait_for(store.close(), 5)
