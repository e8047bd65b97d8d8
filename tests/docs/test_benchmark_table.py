"""The README's table of figures is the one that the committed results give; without results it says so."""

from benchmarks import readme
from benchmarks.results import Results, Run

MACHINE = {
    "processor": "P",
    "cores": "2",
    "memory": "8 kB",
    "load": "0.1",
    "system": "Linux 6",
    "server": "Valkey 9",
    "python": "3.11",
}
TOLD = {"package": "p", "version": "1.0", "settings": "s"}


def stored(path, *runs):
    names = dict.fromkeys(run.contender for run in runs)
    Results("2026-01-01", MACHINE, dict.fromkeys(names, TOLD), list(runs)).save(path)
    return path


def drained(name, *rates):
    return [Run(name, "drain", number, {"rate": rate}) for number, rate in enumerate(rates, 1)]


def test_the_readme_holds_what_the_results_give():
    found = readme.BLOCK.findall(readme.README.read_text(encoding="utf-8"))
    assert found == [readme.block()]


def test_without_results_no_figure_is_shown(tmp_path):
    assert readme.block(tmp_path / "none.json") == readme.NO_FIGURES


def test_a_line_has_medians_its_floor_and_the_best_peer(tmp_path):
    runs = [
        *drained("rqueue", 9000.0, 11_000.0, 10_000.0),
        *drained("floor-drain", 50_000.0),
        *drained("celery-prefork", 600.0),
        *drained("slow", 700.0, 900.0),
        *drained("fast", 1000.0, 2000.0),
    ]
    text = readme.block(stored(tmp_path / "full.json", *runs))
    assert "| no-ops, one worker: tasks/s | 10,000 | 50,000 | 600 | 1,500 (fast) |" in text.splitlines()
    assert "| round trip, p99: ms | - | - | - | - |" in text.splitlines()
    assert text.startswith("P, 2 cores; Valkey 9, Python 3.11; medians, of 3 rounds at most; ")


def test_of_times_the_least_is_the_best(tmp_path):
    runs = [Run(name, "round-trip", 1, {"p50_ms": took}) for name, took in (("a", 3.0), ("b", 2.0), ("rqueue", 1.0))]
    text = readme.block(stored(tmp_path / "full.json", *runs))
    assert "| round trip, median: ms | 1.00 | - | - | 2.00 (b) |" in text.splitlines()
