"""The demo's app: the design's queues, and tasks that note when they start and end."""

from rqueue.cli.demo_oracle import LOG_VARIABLE, Oracle
from rqueue.cli.demo_tasks import app, make_app


def test_the_queues_of_the_design():
    priorities = {name: queue.priority for name, queue in app.config.queues.items()}
    assert priorities == {"default": 5, "email": 3, "reports": 5, "analytics": 2, "cleanup": 1}


def test_no_database_is_told_of_the_demos_jobs(monkeypatch):
    monkeypatch.setenv("RQUEUE_RESULTS", "postgresql://localhost/production")
    assert make_app("memory://").config.results is None


def test_each_task_has_a_coroutine_or_a_thread():
    assert {task.name.rpartition(".")[2]: task.is_coroutine for task in app.tasks} == {
        "wait_in_coroutine": True,
        "wait_in_thread": False,
    }


async def test_jobs_note_their_start_and_end(tmp_path, monkeypatch):
    monkeypatch.setenv(LOG_VARIABLE, str(tmp_path / "oracle"))
    demo = make_app("memory://")
    async with demo, demo.worker() as worker:
        jobs = [await task.enqueue(0.001) for task in demo.tasks]
        await worker.drain()
    oracle = Oracle(tmp_path / "oracle")
    oracle.read()
    assert set(oracle.ended) == {job.id for job in jobs}
    assert oracle.starts == {job.id: 1 for job in jobs}
