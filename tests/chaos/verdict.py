"""A scenario's figures, by what the logs and Redis say; and what of that is against the guarantee.

How it is counted, for the report:

- lost: confirmed, and no run of it ended, and it is no dead letter that it should be;
- doubled: more than one run ended;
- run again: more runs than its kind has by itself, whether they ended or not; each further one needs a fault as well;
- in flight: runs that a fault hit: under way then in the processes concerned, or ended at most 0.25 s (a fault's
  `settle_s`) before. That is what can double, as one can tell without asking Redis. Each doubled job must have had such
  a run for each of its ends but one.
"""

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .fault import Fault
from .oracle import Oracle, Run
from .rows import Kept

MOST_LOSSES = 3  # a job that has cost so many workers is a dead letter
FAILS = {"flaky": 1, "failing": 2}
"""How many runs of each kind of job fail, as they should: each is followed by a retry, or by the dead letter."""
CHOSEN_LATER = "-"  # in place of an id that the producer does not know
SHOWN = 5
PRECISION_S = 0.002  # Redis counts milliseconds


@dataclass
class Verdict:
    """What came out.

    Attributes:
        confirmed, done, dead, lost, doubled, in_flight: see above; `dead` are the dead letters that are as they should
            be.
        forgotten: lost, and confirmed within the time that Redis may forget: no fault of rqueue's.
        again: runs that were cut by a fault and whose jobs ran again.
        struck: of the faults that should cut runs off, how many did.
        aimed: how many of those there were.
        recovered_s: for each fault that had something to recover, how long that took.
        left: keys left over.
        errors: what enqueueing calls raised, by kind.
        faults: what was done, by kind.
        broken: what is against the guarantee, in words.
    """

    confirmed: int = 0
    done: int = 0
    dead: int = 0
    lost: int = 0
    forgotten: int = 0
    doubled: int = 0
    in_flight: int = 0
    again: int = 0
    struck: int = 0
    aimed: int = 0
    recovered_s: list[float] = field(default_factory=list)
    left: Mapping[str, str] = field(default_factory=dict)
    errors: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)

    @property
    def median_s(self) -> float | None:
        return statistics.median(self.recovered_s) if self.recovered_s else None

    @property
    def worst_s(self) -> float | None:
        return max(self.recovered_s, default=None)


class Judge:
    """Reads one scenario's end.

    Args:
        oracle: the logs, all read.
        faults: what was done.
        letters: the dead letters' reasons by mark.
        records: the stored records by job id.
        left: keys left over.
        rows: what the result store keeps, by job id; None where there is none.
    """

    def __init__(
        self,
        oracle: Oracle,
        faults: Sequence[Fault],
        letters: Mapping[str, str],
        records: Mapping[str, Mapping[str, Any]],
        left: Mapping[str, str],
        rows: Mapping[str, Sequence[Kept]] | None = None,
    ) -> None:
        self._rows = rows
        self._oracle, self._faults, self._letters, self._records = oracle, faults, letters, records
        self._hit = {run.name for run in self._all_runs() if any(fault.hit(run) for fault in faults)}
        self._cut = {run.name for run in self._all_runs() if any(fault.cut(run) for fault in faults)}
        charging = [fault for fault in faults if fault.charges]
        self._charged = {run.name for run in self._all_runs() if any(fault.cut(run) for fault in charging)}
        self.verdict = Verdict(left=left)

    def judge(self) -> Verdict:
        """The figures, and what is against the guarantee."""
        verdict, oracle = self.verdict, self._oracle
        verdict.confirmed = len(oracle.confirmed)
        verdict.in_flight = len(self._hit)
        verdict.faults = Counter(fault.what for fault in self._faults)
        verdict.errors = Counter(sent.refused for sent in oracle.sent.values() if sent.refused)
        aimed = [fault for fault in self._faults if fault.heals == "again" and not fault.cause]
        verdict.aimed = len(aimed)
        verdict.struck = sum(any(fault.cut(run) for run in self._all_runs()) for fault in aimed)
        verdict.recovered_s = [seconds for fault in self._faults if (seconds := self._recovery(fault)) is not None]
        self._count_ends()
        self._count_doubles()
        self._check_runs()
        self._check_letters()
        self._check_refusals()
        self._check_results()
        self._check_rows()
        self._check_times()
        self._check_charges()
        self._say("nothing was done to it", [] if self._faults else ["no fault"])
        self._say("keys left over", [f"{name} ({kind})" for name, kind in sorted(verdict.left.items())])
        return verdict

    def _all_runs(self) -> Iterable[Run]:
        return (run for runs in self._oracle.runs.values() for run in runs)

    def _count_ends(self) -> None:
        verdict, lost, buried = self.verdict, [], []
        for mark, sent in self._oracle.confirmed.items():
            if self._oracle.ends(mark):
                verdict.done += 1
            elif mark in self._letters:
                if self._may_be_dead(mark, sent.kind):
                    verdict.dead += 1
                else:
                    buried.append(f"{mark} ({sent.kind}): {self._letters[mark]}")
            elif any(fault.may_forget(sent) for fault in self._faults):
                verdict.forgotten += 1
            else:
                lost.append(f"{mark} ({sent.kind}, {len(self._oracle.runs.get(mark, ()))} runs)")
        verdict.lost = len(lost) + len(buried)
        self._say("lost", lost)
        self._say("dead letters that should not be", buried)

    def _may_be_dead(self, mark: str, kind: str) -> bool:
        losses = sum(run.name in self._charged for run in self._oracle.runs.get(mark, ()))
        match self._letters[mark]:
            case "failed":
                return kind == "failing"
            case "worker lost":
                return kind == "poison" or losses >= MOST_LOSSES
        return False

    def _count_doubles(self) -> None:
        unexplained = []
        for mark, runs in self._oracle.runs.items():
            self.verdict.again += sum(run.name in self._cut for run in runs) if len(runs) > 1 else 0
            ended = self._oracle.ends(mark)
            if len(ended) < 2:
                continue
            self.verdict.doubled += 1
            if sum(run.name in self._hit for run in ended) < len(ended) - 1:
                unexplained.append(
                    f"{mark}: " + ", ".join(f"{run.pid} {run.began:.3f}-{run.ended:.3f}" for run in ended)
                )
        self._say("doubled, and not in flight at a fault", unexplained)

    def _check_runs(self) -> None:
        """A run that no fault hit ends, and nothing of it runs again, beside the retries that belong to the job."""
        again, pills = [], []
        for mark, runs in self._oracle.runs.items():
            kind = self._oracle.sent[mark].kind if mark in self._oracle.sent else ""
            intact = [run for run in runs if run.name not in self._hit]
            fails = sum(run.is_failure for run in intact)
            if fails > FAILS.get(kind, 0) or len(intact) - fails > 1:
                again.append(f"{mark} ({kind}): " + ", ".join(f"{run.pid} {run.began:.3f}" for run in intact))
            if kind == "poison" and len(runs) > MOST_LOSSES:
                pills.append(f"{mark}: {len(runs)} runs")
        self._say("ran again, and was not in flight at a fault", again)
        self._say("has cost more workers than it may", pills)

    def _check_letters(self) -> None:
        """A job that has ended well is no dead letter, unless the run that ended had lost its claim."""
        both = [
            f"{mark}: {reason}"
            for mark, reason in self._letters.items()
            if any(run.name not in self._hit for run in self._oracle.ends(mark))
        ]
        self._say("has ended well, and is a dead letter", both)

    def _check_refusals(self) -> None:
        """Nothing was enqueued when `enqueue` raised anything but EnqueueUnknown, or NotDurable, which is one."""
        sent = self._oracle.sent
        self._say(
            "ran, and its enqueue was refused",
            [
                f"{mark}: {sent[mark].refused}"
                for mark in self._oracle.runs
                if mark in sent and sent[mark].refused not in ("", "EnqueueUnknown", "NotDurable")
            ],
        )

    def _check_results(self) -> None:
        """The result of a job that ran twice is that of the run that no fault hit: the other one had lost its claim."""
        missing, wrong, stale = [], [], []
        for mark, sent in self._oracle.confirmed.items():
            record, ended = self._records.get(sent.job_id), self._oracle.ends(mark)
            if record is None:
                # A worker runs to its end what it has in memory, though Redis has forgotten the job.
                is_forgotten = any(
                    fault.may_forget(sent) or any(map(fault.may_forget_end, ended)) for fault in self._faults
                )
                missing += [mark] if ended and sent.job_id != CHOSEN_LATER and not is_forgotten else []
                continue
            if not ended or record.get("dropped"):  # a full Redis keeps no values
                continue
            result = record.get("result")
            if not isinstance(result, dict) or result.get("mark") != mark:
                wrong.append(f"{mark}: {record['state']} {result!r}")
                continue
            intact = [run.name for run in ended if run.name not in self._hit]
            if intact and result["run"] not in intact:
                stale.append(f"{mark}: {result['run']}, not one of {intact}")
        self._say("has ended, and has no result", missing)
        self._say("has ended, and its result does not say so", wrong)
        self._say("the result of a run that had lost its claim", stale)

    def _check_rows(self) -> None:
        """Each job that was settled has one row, which says the same as Redis's record: its state, and whose result."""
        if self._rows is None:
            return
        missing, twice, wrong = [], [], []
        for mark, sent in self._oracle.confirmed.items():
            is_dead = mark in self._letters
            if not (is_dead or self._oracle.ends(mark)):
                continue  # said to be lost
            kept = self._rows.get(sent.job_id, ())
            missing += [] if kept else [mark]
            twice += [f"{mark}: {len(kept)} rows"] if len(kept) > 1 else []
            result = self._records.get(sent.job_id, {}).get("result")
            run = result.get("run", "") if isinstance(result, dict) else ""
            told = ("FAILURE", "") if is_dead else ("SUCCESS", run)
            wrong += [f"{mark}: {row.state} {row.run} and not {told}" for row in kept if (row.state, row.run) != told]
        self._say("settled, and has no row in the result store", missing)
        self._say("has more than one row in the result store", twice)
        self._say("its row is not that of its end", wrong)

    def _check_times(self) -> None:
        """A job with a countdown does not start before it is over, whatever the clocks say."""
        early = []
        for mark, sent in self._oracle.sent.items():
            starts = [run.began - sent.at for run in self._oracle.runs.get(mark, ())]
            if starts and min(starts) < sent.countdown - PRECISION_S:
                early.append(f"{mark}: after {min(starts):.3f} s in place of {sent.countdown} s")
        self._say("started before its time", early)

    def _check_charges(self) -> None:
        """Where no process was hit, no job has cost a worker."""
        if any(fault.pids is None or fault.pids for fault in self._faults):
            return
        charged = [
            mark
            for mark, sent in self._oracle.confirmed.items()
            if sent.kind != "foreign" and self._records.get(sent.job_id, {}).get("losses")
        ]
        self._say("charged with the loss of a worker that was not lost", charged)

    def _recovery(self, fault: Fault) -> float | None:
        """Seconds until the system did again what the fault stopped; None when it stopped nothing."""
        if fault.heals == "again":
            back = []
            for mark, runs in self._oracle.runs.items():
                cut = [] if mark == fault.cause else [run for run in runs if fault.cut(run)]
                later = [run.began for run in runs if cut and run.began > cut[0].began and run not in cut]
                back += [min(later) - fault.began] if later else []
            return max(back, default=None)
        if fault.heals == "working":
            fresh = [
                run.ended
                for mark, sent in self._oracle.confirmed.items()
                for run in self._oracle.ends(mark)
                if (sent.confirmed or 0.0) > fault.ended and run.began > fault.ended and run.ended is not None
            ]
            return min(fresh, default=fault.ended) - fault.ended if fresh else None
        return None

    def _say(self, what: str, offenders: list[str]) -> None:
        if offenders:
            more = f", and {len(offenders) - SHOWN} more" if len(offenders) > SHOWN else ""
            self.verdict.broken.append(f"{what}: {len(offenders)}: {'; '.join(offenders[:SHOWN])}{more}")
