"""What rqueue means to reach, and whether it does: each figure is taken in each round, from runs of that round."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.results import Results, Spread

CORES_FOR_TWO = 4
"""Two workers, Redis and the harness need as many; with fewer the figure is told, and is no goal."""


@dataclass(frozen=True)
class Goal:
    """A figure and its bound: what is at least so much, or at most."""

    text: str
    bound: float
    is_least: bool
    found: Spread | None

    @property
    def verdict(self) -> str:
        """Reached, or missed by how much of the bound."""
        if self.found is None:
            return "not measured"
        short = (self.bound - self.found.median) * (1 if self.is_least else -1)
        if short <= 0:
            return "reached"
        return f"missed by {100 * short / self.bound:.0f} %" if self.bound else f"missed by {short:.3g}"


Series = dict[int, float]


def goals(results: Results) -> list[Goal]:
    """All goals, in the report's order."""
    return [*_throughput(results), *_waiting(results), *_cost(results), *_scaling(results)]


def _throughput(of: Results) -> list[Goal]:
    drain, best = of.by_round("rqueue", "drain"), of.best_peer("drain")
    bulk, bulk_peer = of.by_round("rqueue", "enqueue-bulk"), of.best_peer("enqueue-bulk")
    floor = of.by_round("floor-enqueue", "enqueue-bulk")
    lpush = of.by_round("floor-enqueue", "enqueue-one")
    return [
        _ratio("drain, of its floor", drain, of.by_round("floor-drain", "drain"), at_least=0.75),
        _ratio("drain, times Celery's prefork", drain, of.by_round("celery-prefork", "drain"), at_least=100),
        _ratio(f"drain, times the fastest peer ({best})", drain, of.by_round(best or "", "drain"), at_least=20),
        _ratio("enqueue by 100 callers, of the floor", of.by_round("rqueue", "enqueue-100"), floor, at_least=0.6),
        _ratio("enqueue_many, of the floor", bulk, floor, at_least=0.85),
        _ratio(
            f"enqueue_many, times the best peer's bulk call ({bulk_peer})",
            bulk,
            of.by_round(bulk_peer or "", "enqueue-bulk"),
            at_least=8,
        ),
        _ratio(
            "enqueue one at a time, times redis-py's LPUSH", of.by_round("rqueue", "enqueue-one"), lpush, at_least=2
        ),
        _figure(
            "tasks of 50 ms, 100 at once, of the ideal", of.by_round("rqueue", "sleep-100", "of_ideal"), least=0.95
        ),
        _figure(
            "tasks of 50 ms, 1,000 at once, of the ideal", of.by_round("rqueue", "sleep-1000", "of_ideal"), least=0.9
        ),
    ]


def _waiting(of: Results) -> list[Goal]:
    def trip(name: str, value: str) -> Series:
        return of.by_round(name, "round-trip", value)

    found = []
    for shown, value in (("p50", "p50_ms"), ("p99", "p99_ms")):
        ours = trip("rqueue", value)
        found += [
            _ratio(f"round trip {shown}, of the floor's", ours, trip("floor-roundtrip", value), at_most=1.5),
            _ratio(f"round trip {shown}, of Celery's prefork", ours, trip("celery-prefork", value), at_most=1 / 3),
        ]
    huey = next((name for name in of.peers() if name.startswith("huey")), "huey")
    p50 = trip("rqueue", "p50_ms")
    found.append(_ratio("round trip p50, of huey's", p50, trip(huey, "p50_ms"), at_most=1))
    wait = of.by_round("rqueue", "load-90", "p99_ms")
    return [*found, _figure("wait at 90 % load, p99 in ms", wait, most=20)]


def _cost(of: Results) -> list[Goal]:
    def idle(value: str) -> Series:
        return of.by_round("rqueue", "idle", value)

    redis_cpu, floor = (of.by_round(name, "drain", "redis_cpu_us") for name in ("rqueue", "floor-drain"))
    return [
        _figure("round trips to Redis for a task, drain", of.by_round("rqueue", "drain", "round_trips"), most=0.05),
        _ratio("Redis's CPU for a task, of the floor's", redis_cpu, floor, at_most=1.3),
        _figure("idle worker: requests a second (a script is one)", idle("requests_per_s"), most=1),
        _figure("idle worker: CPU, % of a core", idle("cpu_percent"), most=0.5),
        _figure("idle worker and its supervisor: memory in MB, shared pages once", idle("pss_mb"), most=45),
    ]


def _scaling(of: Results) -> list[Goal]:
    small, large = (of.by_round("rqueue", f"backlog-{size}") for size in ("10k", "1M"))
    found = [_ratio("drain with a million waiting, of that with 10 thousand", large, small, at_least=0.95)]
    if int(of.machine["cores"]) >= CORES_FOR_TWO:
        one, two = of.by_round("rqueue", "workers-1"), of.by_round("rqueue", "drain-2")
        found.append(_ratio("two workers, times one", two, one, at_least=1.8))
    return found


def _ratio(
    text: str, ours: Series, theirs: Series, *, at_least: float | None = None, at_most: float | None = None
) -> Goal:
    both = [ours[number] / theirs[number] for number in ours if theirs.get(number)]
    return _goal(text, both, at_least, at_most)


def _figure(text: str, ours: Series, *, least: float | None = None, most: float | None = None) -> Goal:
    return _goal(text, list(ours.values()), least, most)


def _goal(text: str, values: list[float], least: float | None, most: float | None) -> Goal:
    bound = least if least is not None else most
    assert bound is not None
    return Goal(text, bound, least is not None, Spread.of(values))
