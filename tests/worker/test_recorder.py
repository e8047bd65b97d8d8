"""recorder: how a run ended is in the result store, or waits in Redis, before it is settled."""

import pytest

from rqueue.errors import BrokerForbidden, BrokerFull, BrokerUnavailable, ReplyLost
from rqueue.results.entry import Entry
from rqueue.wire.message import Message
from rqueue.wire.record import Failure
from rqueue.worker import recorder as module
from rqueue.worker.outcome import Ack, Bury, Defer, Release, Revoke, Track
from rqueue.worker.recorder import BATCH_ROWS, WRITES

RESULTS = "redis://127.0.0.1:1/9"
SUCCESS = b'{"state":"SUCCESS","result":1}'
FAILURE = b'{"state":"FAILURE","error":{"type":"E","message":"m"}}'
REVOKED = b'{"state":"REVOKED"}'
RETRY = b'{"state":"RETRY"}'


@pytest.fixture
async def worker(parts, broker, store):
    """A registered worker's parts, with nothing running, in an app with a result store."""
    worker = parts(concurrency=10_000, app={"results": RESULTS})
    assert await broker.register(worker.keys, worker.lease.worker, 60)
    return worker


@pytest.fixture
def recorder(worker):
    return worker.worker._recorder


@pytest.fixture
def running(worker, message):
    """Jobs that were claimed and run."""

    async def start(count, name="j", **header):
        await worker.push(*(message(f"{name}{number}", **header) for number in range(count)))
        claim = await worker.broker.claim(worker.queues, [5], worker.lease.worker, 60, count, 10**9)
        await worker.fetcher._accept([(worker.keys, each.level, each.raw) for each in claim.messages])
        return [worker.take() for _ in range(count)]

    return start


@pytest.fixture
def spooled(broker, worker):
    async def look():
        found = await broker._link.call(b"LRANGE", worker.keys.spool, 0, -1)
        return [Entry.decode(data) for data in found]

    return look


def ended(worker, jobs, settlement):
    for job in jobs:
        worker.inflight.end(job, settlement)


async def settled(worker):
    await worker.worker._ends_drained()


async def counts(worker, broker):
    return (await broker.sizes(worker.keys)).counts


async def test_the_row_is_written_and_then_the_job_is_settled(worker, running, recorder, store, broker, held_in):
    """Breaks when a job is settled whose row is not there yet."""
    (job,) = await running(1)
    store.gate.clear()
    ended(worker, [job], Ack(SUCCESS, "60"))
    recorder.tick()
    await store.saving.wait()
    assert worker.settler.tick() == 0
    assert await held_in(broker, worker.keys, worker.lease.worker) == [job.message.raw]
    store.gate.set()
    await settled(worker)
    assert store.states == {"j0": "SUCCESS"}
    assert await counts(worker, broker) == {"SUCCESS": 1}
    assert len(worker.inflight) == 0
    assert (recorder.recorded, recorder.spooled, recorder.dropped) == (1, 0, 0)


@pytest.mark.parametrize(
    ("settlement", "state"),
    [
        (Ack(SUCCESS, "60"), "SUCCESS"),
        (Ack(SUCCESS, "0"), "SUCCESS"),
        (Bury(FAILURE, "60", b"letter"), "FAILURE"),
        (Revoke(REVOKED, "60"), "REVOKED"),
        (Defer(Message.parse(b'1 - 0 1 0 j0 {"task":"t"}'), 60, RETRY), "RETRY"),
        (Defer(Message.parse(b'1 - 0 1 0 j0 {"task":"t"}'), 60, RETRY, is_quiet=True), None),
        (Defer(Message.parse(b'1 - 0 0 9 j0 {"task":"t"}'), 60), None),
        (Release(), None),
    ],
)
async def test_what_has_a_row(worker, running, store, settlement, state):
    """Every end, and each run that is retried; what is put off or goes back has not ended."""
    ended(worker, await running(1), settlement)
    await settled(worker)
    assert store.states == ({} if state is None else {"j0": state})
    assert len(worker.inflight) == 0


async def test_notes_about_jobs_that_go_on_pass_at_once(worker, running, recorder, store):
    """Breaks when a job that is to start waits for a database, or STARTED is a row."""
    (job,) = await running(1)
    store.hangs = True
    notes = [
        worker.inflight.note(job, Track(b'{"state":"STARTED"}')),
        worker.inflight.note(job, Ack(b'{"state":"STARTED"}', "60")),
    ]
    recorder.tick()
    await worker.settler.drained()
    assert [note.result() for note in notes] == [True, True]
    assert store.rows == {}


async def test_what_gathers_during_a_write_leaves_together(worker, running, recorder, store):
    """Breaks when each job costs a write of its own, or more writes are under way than that."""
    jobs = await running(20)
    store.gate.clear()
    for job in jobs:
        ended(worker, [job], Ack(SUCCESS, "60"))
        recorder.tick()
    assert len(recorder._tasks) == WRITES
    store.gate.set()
    await settled(worker)
    assert [len(batch) for batch in store.batches] == [1, 1, 18]


async def test_a_batch_is_bounded_in_rows_and_bytes(worker, running, recorder, store, monkeypatch):
    """Breaks when a statement is as large as what has gathered."""
    ended(worker, await running(BATCH_ROWS + 1), Ack(SUCCESS, "60"))
    await settled(worker)
    assert [len(batch) for batch in store.batches] == [BATCH_ROWS, 1]
    monkeypatch.setattr(module, "BATCH_BYTES", 1000)
    store.batches.clear()
    large = b'{"state":"SUCCESS","result":"%b"}' % (b"x" * 400)
    ended(worker, await running(5, "k"), Ack(large, "60"))
    await settled(worker)
    assert [len(batch) for batch in store.batches] == [2, 2, 1]
    assert recorder._waiting_bytes == 0


@pytest.mark.parametrize("how", ["is_away", "hangs"])
async def test_while_it_is_away_ends_wait_in_redis_and_jobs_are_settled(
    worker, running, recorder, store, broker, spooled, how
):
    """Breaks when a worker stops for its database, or a settled job's row is nowhere."""
    worker.worker._archive._timeout_s = 0.02
    setattr(store, how, True)
    jobs = await running(3)
    ended(worker, jobs, Ack(SUCCESS, "60"))
    await settled(worker)
    assert await counts(worker, broker) == {"SUCCESS": 3}
    assert await spooled() == [Entry(job.id, SUCCESS, job.message.raw) for job in jobs]
    ended(worker, await running(1, "k"), Ack(SUCCESS, "60"))
    await settled(worker)
    assert [entry.id for entry in await spooled()] == ["j0", "j1", "j2", "k0"]
    assert (recorder.recorded, recorder.spooled, recorder.dropped) == (0, 4, 0)


async def test_the_spool_is_written_before_the_settle(worker, running, store, broker, monkeypatch):
    """Breaks when a worker that dies between the two leaves a settled job without its row."""
    order = []
    for verb in ("spool", "ack"):
        real = getattr(broker, verb)

        async def told(*arguments, verb=verb, real=real, **more):
            answer = await real(*arguments, **more)
            order.append(verb)
            return answer

        monkeypatch.setattr(broker, verb, told)
    store.is_away = True
    ended(worker, await running(1), Ack(SUCCESS, "60"))
    await settled(worker)
    assert order == ["spool", "ack"]


async def test_past_the_bound_ends_are_dropped_and_counted(parts, broker, store, message, log):
    """Breaks when Redis fills, a worker stops, or nobody is told."""
    from rqueue.config import Results

    worker = parts(concurrency=10, app={"results": Results(RESULTS, spool_bytes=150)})
    await broker.register(worker.keys, worker.lease.worker, 60)
    await worker.push(*(message(f"j{number}") for number in range(5)))
    claim = await broker.claim(worker.queues, [5], worker.lease.worker, 60, 5, 10**9)
    await worker.fetcher._accept([(worker.keys, each.level, each.raw) for each in claim.messages])
    store.is_away = True
    ended(worker, [worker.take() for _ in range(5)], Ack(SUCCESS, "60"))
    await settled(worker)
    recorder = worker.worker._recorder
    assert (recorder.spooled, recorder.dropped) == (2, 3)
    assert (await broker.spooled(worker.keys))[::2] == (2, 3)
    assert log.of("results were not kept")[0]["jobs"] == 3
    assert await counts(worker, broker) == {"SUCCESS": 5}


@pytest.mark.parametrize("error", [BrokerFull("full"), BrokerForbidden("NOPERM")])
async def test_a_redis_that_takes_nothing_more_stops_no_worker(
    worker, running, recorder, store, broker, monkeypatch, log, error
):
    """Breaks when jobs hang that have ended, for a row that cannot be kept."""

    async def refuse(*_):
        raise error

    monkeypatch.setattr(broker, "spool", refuse)
    store.is_away = True
    ended(worker, await running(2), Ack(SUCCESS, "60"))
    await settled(worker)
    assert recorder.dropped == 2
    assert log.of("results were not kept")[0]["error"] == str(error)
    assert await counts(worker, broker) == {"SUCCESS": 2}


@pytest.mark.parametrize("error", [BrokerUnavailable("away"), ReplyLost("lost")])
async def test_while_redis_is_away_as_well_it_waits(worker, running, store, broker, monkeypatch, spooled, error):
    """It cannot settle anything anyway. Breaks when rows are dropped since nobody could be asked."""
    real, errors = broker.spool, [error, error]

    async def unlucky(*arguments):
        if errors:
            raise errors.pop()
        return await real(*arguments)

    monkeypatch.setattr(broker, "spool", unlucky)
    store.is_away = True
    ended(worker, await running(1), Ack(SUCCESS, "60"))
    await settled(worker)
    assert [entry.id for entry in await spooled()] == ["j0"]


async def test_a_row_that_is_refused_is_counted_and_the_others_are_written(worker, running, recorder, store, log):
    store.refused = {"j1"}
    ended(worker, await running(3), Ack(SUCCESS, "60"))
    await settled(worker)
    assert set(store.states) == {"j0", "j2"}
    assert (recorder.recorded, recorder.dropped) == (2, 1)
    assert log.of("results were not kept")[0]["jobs"] == 1


async def test_a_row_that_cannot_be_made_keeps_no_other_out(worker, running, recorder, store, broker, monkeypatch, log):
    """An error of our own. Breaks when the batch hangs, or its jobs are never settled."""
    real = recorder._reader.row

    def fragile(keys, entry, message):
        if entry.id == "j1":
            raise RecursionError("too deep")
        return real(keys, entry, message)

    monkeypatch.setattr(recorder._reader, "row", fragile)
    ended(worker, await running(3), Ack(SUCCESS, "60"))
    await settled(worker)
    assert set(store.states) == {"j0", "j2"}
    assert recorder.dropped == 1
    assert await counts(worker, broker) == {"SUCCESS": 3}
    assert "a row failed in the worker itself" in log.loud()


async def test_a_worker_goes_at_the_pace_of_its_store(worker, running, recorder, store, spooled, monkeypatch):
    """Of one that answers and is slower than the jobs. Breaks when what has gathered grows without a bound."""
    monkeypatch.setattr(module, "MOST_WAITING", 10)
    monkeypatch.setattr(module, "BATCH_ROWS", 5)
    inflight = worker.inflight
    store.gate.clear()
    jobs = await running(40)
    for number, job in enumerate(jobs):
        ended(worker, [job], Ack(SUCCESS, "60"))
        recorder.tick()
        # The writes under way took one each as they began.
        assert inflight.is_backed_up is (number + 1 - module.WRITES > 10)
    assert (inflight.room(), inflight.free_slots) == (0, 0)
    inflight.signals.fetch.clear()
    store.gate.set()
    await settled(worker)
    assert not inflight.is_backed_up
    assert inflight.signals.fetch.is_set()
    assert inflight.room() > 0
    assert not await spooled()
    assert set(store.states) == {job.id for job in jobs}


async def test_what_is_large_holds_back_as_what_is_much(worker, running, recorder, store, monkeypatch):
    """Breaks when only rows are counted: each may be a megabyte."""
    monkeypatch.setattr(module, "MOST_WAITING_BYTES", 100)
    store.gate.clear()
    ended(worker, await running(8), Ack(SUCCESS, "60"))
    recorder.tick()
    recorder._waiting_bytes = 101
    recorder._hold_back()
    assert worker.inflight.is_backed_up
    recorder._waiting_bytes = 51
    recorder._hold_back()
    assert worker.inflight.is_backed_up
    recorder._waiting_bytes = 50
    recorder._hold_back()
    assert not worker.inflight.is_backed_up
    recorder._waiting_bytes = 0
    store.gate.set()
    await settled(worker)


async def test_what_redis_refuses_to_settle_is_recorded_as_it_ends_then(
    worker, running, store, broker, monkeypatch, log
):
    """Breaks when the database says SUCCESS of a job that has failed for everybody else."""
    real = broker.ack

    async def refuse(keys, name, lane, number, done):
        raise BrokerFull("too much")

    monkeypatch.setattr(broker, "ack", refuse)
    assert real
    ended(worker, await running(1), Ack(SUCCESS, "60"))
    await settled(worker)
    assert store.states == {"j0": "FAILURE"}
    assert await counts(worker, broker) == {"FAILURE": 1}


async def test_a_late_worker_records_and_changes_nothing_of_a_later_run(worker, running, store, broker, ghost, log):
    """It was frozen past its lease, and its job has run elsewhere. Breaks when its row takes that one's place."""
    (job,) = await running(1)
    job.started_ms = 1000
    late = b'{"state":"SUCCESS","result":"late","started":1000,"finished":1001}'
    newer = b'{"state":"FAILURE","started":60000,"finished":60001}'
    recorder = worker.worker._recorder
    row = recorder._reader.row(worker.keys, Entry(job.id, newer, b'1 - 1 0 0 j0 {"task":"t"}'))
    await store.save([row])
    await broker._link.call(b"DEL", worker.keys.processing(worker.lease.worker))
    ended(worker, [job], Ack(late, "60"))
    await settled(worker)
    assert store.states == {"j0": "FAILURE"}
    assert log.of("claim lost")


async def test_an_end_that_is_cut_short_is_not_settled(worker, running, recorder, store, broker, held_in):
    """A stop that nobody waits for. Breaks when a job is settled whose write was cancelled."""
    (job,) = await running(1)
    store.gate.clear()
    ended(worker, [job], Ack(SUCCESS, "60"))
    recorder.tick()
    await store.saving.wait()
    for task in recorder._tasks:
        task.cancel()
    await recorder._is_quiet.wait()
    worker.settler.tick()
    assert recorder.outbox == []
    assert await held_in(broker, worker.keys, worker.lease.worker) == [job.message.raw]


async def test_a_worker_without_results_has_no_recorder(parts):
    """Breaks when a plain job passes through more than it did."""
    plain = parts()
    assert plain.worker._recorder is None
    assert plain.settler._source is plain.inflight
    assert plain.settler._wake is plain.inflight.signals.settle


async def test_failures_are_rows_with_their_error(worker, running, store):
    job, *_ = await running(1)
    failed = worker.judge.failed(job, Failure("ValueError", "no"), "failed")
    ended(worker, [job], failed)
    await settled(worker)
    (row,) = store.rows.values()
    assert (row.error, row.attempts, row.worker) == ("ValueError: no", 1, worker.lease.worker)
