"""What a set of runs has found, as one JSON file: read and written here, and asked for medians and ratios."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

DIRECTORY = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Run:
    """One contender's figures in one workload in one round; or why there are none."""

    contender: str
    workload: str
    round: int
    values: dict[str, Any]
    error: str = ""


@dataclass(frozen=True)
class Spread:
    """The median of some values, the least and the greatest, and how many they were."""

    median: float
    least: float
    greatest: float
    count: int

    @classmethod
    def of(cls, values: list[float]) -> Self | None:
        """None if there are no values."""
        return cls(statistics.median(values), min(values), max(values), len(values)) if values else None


@dataclass
class Results:
    """A set of runs, with all that they depend on."""

    begun: str
    machine: dict[str, str]
    contenders: dict[str, dict[str, str]]
    """By name: package, version, settings."""
    runs: list[Run] = field(default_factory=list)
    took_minutes: float = 0.0
    is_complete: bool = False

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file."""
        raw = json.loads(path.read_text())
        return cls(**{**raw, "runs": [Run(**each) for each in raw["runs"]]})

    def save(self, path: Path) -> None:
        """Write the file, a run on each line, as a whole."""
        raw = asdict(self)
        runs = ",\n  ".join(json.dumps(each) for each in raw.pop("runs"))
        head = json.dumps(raw, indent=1).removesuffix("\n}")
        path.parent.mkdir(exist_ok=True)
        fresh = path.with_suffix(".new")
        fresh.write_text(f'{head},\n "runs": [\n  {runs}\n ]\n}}\n')
        fresh.replace(path)

    def by_round(self, contender: str, workload: str, value: str = "rate") -> dict[int, float]:
        """A value in each round that has it."""
        return {
            run.round: float(run.values[value])
            for run in self.runs
            if (run.contender, run.workload) == (contender, workload) and value in run.values
        }

    def spread(self, contender: str, workload: str, value: str = "rate") -> Spread | None:
        """Over all rounds."""
        return Spread.of(list(self.by_round(contender, workload, value).values()))

    def median(self, contender: str, workload: str, value: str = "rate") -> float | None:
        """Over all rounds."""
        found = self.spread(contender, workload, value)
        return found.median if found else None

    def marks(self, contender: str, workload: str) -> list[str]:
        """What was wrong with runs, each once."""
        found = [
            run.values.get("mark") or run.error.partition("\n")[0]
            for run in self.runs
            if (run.contender, run.workload) == (contender, workload)
        ]
        return sorted({each for each in found if each})

    def names(self, workload: str) -> list[str]:
        """The contenders with figures there, in the order in which they were given."""
        there = {run.contender for run in self.runs if run.workload == workload}
        return [name for name in self.contenders if name in there]

    def peers(self) -> list[str]:
        """All contenders but rqueue and the floors."""
        return [name for name in self.contenders if name != "rqueue" and not name.startswith("floor-")]

    def best_peer(self, workload: str, value: str = "rate") -> str | None:
        """The peer with the highest median."""
        medians = {name: found for name in self.peers() if (found := self.median(name, workload, value))}
        return max(medians, key=lambda name: medians[name]) if medians else None
