"""After a death: the jobs it interrupted start again soon, and only the guilty are given up."""

from collections.abc import Iterable
from itertools import pairwise
from typing import Final

from ropeway.job import SUSPECT_CRASHES, State
from ropeway.verify.checks.finding import Check, Finding, check, shown
from ropeway.verify.checks.percentile import percentile
from ropeway.verify.history import FOREVER, History, Run
from ropeway.verify.ledger import Event
from ropeway.verify.load import KILLS

Found = tuple[int, Iterable[Finding]]

LATE_P99_S: Final = 1.0
LATE_MAX_S: Final = 1.5
CHILD_MAX_S: Final = 1.0
BACK_S: Final = 5.0
POISON_STARTS_MAX: Final = 4


def _interrupted(history: History, *kinds: str) -> list[tuple[Event, Run]]:
    return [
        (fault, run)
        for fault in history.faults
        if fault.kind in kinds
        for run in history.struck_runs(fault)
        if not history.kind_of(run.began.job).startswith("poison")
    ]


def _waits(history: History, interrupted: list[tuple[Event, Run]]) -> list[tuple[float, Run]]:
    """How long each job waited for its next start, from the moment of the kill."""
    waits: list[tuple[float, Run]] = []
    for fault, run in interrupted:
        following = history.next_start(run.began.job, fault.at_s)
        # A handler process that outlived its worker by a moment is no second start.
        if following is not None:
            waits.append((following.start_s - fault.at_s, run))
    return sorted(waits, key=lambda wait: wait[0])


def _figures(name: str, waits: list[tuple[float, Run]]) -> dict[str, float]:
    if not waits:
        return {}
    seconds = [wait for wait, _ in waits]
    return {
        f"{name}_p50_s": percentile(seconds, 0.5),
        f"{name}_p99_s": percentile(seconds, 0.99),
        f"{name}_max_s": seconds[-1],
    }


def recovered(history: History) -> Check:
    """Every job that a kill interrupted starts again."""
    hit = _interrupted(history, *KILLS)
    found = [
        Finding(run.began.job, "interrupted and never started again", (run.began, fault))
        for fault, run in hit
        if history.next_start(run.began.job, fault.at_s) is None and not _is_over(history, run)
    ]
    storm = _waits(history, _interrupted(history, "kill_one", "kill_all"))
    figures = {"recovered": len(hit) - len(found), **_figures("storm_recovery", storm)}
    return Check("R4", "recovered", len(hit), tuple(found), figures)


def _is_over(history: History, run: Run) -> bool:
    """The job was cancelled meanwhile, or its run ended while the signal was on its way."""
    record = history.records.get(run.began.job)
    if record is None:
        return False
    return record.state is State.CANCELLED or (record.state is State.COMPLETED and run.returned)


def in_time(history: History) -> Check:
    """On an idle queue a killed worker's jobs start again within a lease and a second (p99)."""
    waits = _waits(history, _interrupted(history, "kill_quiet"))
    figures = _figures("recovery", waits)
    found: list[Finding] = []
    if waits:
        limits = (
            ("recovery_p99_s", history.lease_s + LATE_P99_S),
            ("recovery_max_s", history.lease_s + LATE_MAX_S),
        )
        worst = waits[-1][1].began.job
        found = [
            Finding(worst, f"{name} is {figures[name]:.2f}, over {limit:g}", shown(history, worst))
            for name, limit in limits
            if figures[name] > limit
        ]
    return Check("R1", "recovery in time", len(waits), tuple(found), figures)


def of_children(history: History) -> Check:
    """The jobs of a dead child of a supervisor start again within a second."""
    waits = _waits(history, _interrupted(history, "kill_child"))
    found = [
        Finding(run.began.job, f"waited {wait:.2f} s", shown(history, run.began.job))
        for wait, run in waits
        if wait > CHILD_MAX_S
    ]
    return Check("R1", "dead child", len(waits), tuple(found), _figures("child_recovery", waits))


@check("R2", "rolling restart")
def after_terminate(history: History) -> Found:
    """A worker that was told to end ends with code 0, and leaves no run unfinished."""
    ended = [fault for fault in history.faults if fault.kind == "terminate"]
    found: list[Finding] = []
    for fault in ended:
        if fault.detail != "0":
            found.append(Finding("", f"a worker ended with code {fault.detail}", (fault,)))
        found += [
            Finding(run.began.job, "left behind by a worker that ended", (run.began, fault))
            for run in history.struck_runs(fault)
            # A handler process is killed when its worker finds the lease lost: no last line.
            if run.ended is None
            and run.died_s == FOREVER
            and not history.was_paused(fault.pid, run.start_s, fault.at_s)
        ]
    return len(ended), found


@check("R3", "crash budget")
def crash_budget(history: History) -> Found:
    """A job that kills its worker starts at most four times; its neighbours all complete."""
    poison = [a for a in history.asked.values() if a.first.kind.startswith("poison")]
    found: list[Finding] = []
    for asked in poison:
        job = asked.first.job
        starts = len(history.runs.get(job, ()))
        record = history.records.get(job)
        if starts > POISON_STARTS_MAX:
            found.append(Finding(job, f"started {starts} times", shown(history, job)))
        if record is None or record.reason != "crashed_worker":
            reason = None if record is None else record.reason
            found.append(Finding(job, f"ended with the reason {reason!r}", shown(history, job)))
    for asked in history.jobs("neighbour"):
        record = history.records.get(asked.first.job)
        if record is None or record.state is not State.COMPLETED:
            found.append(
                Finding(asked.first.job, "was not completed", shown(history, asked.first.job))
            )
        elif record.crashes > SUSPECT_CRASHES:
            what = f"was charged with {record.crashes} crashes"
            found.append(Finding(asked.first.job, what, shown(history, asked.first.job)))
    return len(poison), found


@check("R3", "attempts")
def attempts(history: History) -> Found:
    """Only a failure costs an attempt: no crash, no lost lease, no restart of the worker."""
    pairs = [pair for runs in history.runs.values() for pair in pairwise(runs)]
    found: list[Finding] = []
    for run, again in pairs:
        failed = run.ended is not None and run.ended.what == "fail"
        if again.began.attempt > run.began.attempt + failed:
            lines = (run.began, *([run.ended] if run.ended else []), again.began)
            found.append(Finding(run.began.job, "an attempt was counted without a failure", lines))
    return len(pairs), found


@check("R1", "stuck loop")
def stuck_loop(history: History) -> Found:
    """A handler that blocks its worker's loop for three leases starts once."""
    blocking = history.jobs("block")
    found: list[Finding] = []
    for asked in blocking:
        runs = history.runs.get(asked.first.job, [])
        again_s = runs[1].start_s if len(runs) > 1 else 0.0
        if len(runs) == 1 or (
            runs and history.was_paused(runs[0].began.pid, runs[0].start_s, again_s)
        ):
            continue
        lines = shown(history, asked.first.job)
        found.append(Finding(asked.first.job, f"started {len(runs)} times", lines))
    return len(blocking), found


@check("N1", "store away")
def store_away(history: History) -> Found:
    """Five seconds after the store is back, workers start jobs again without a restart."""
    found: list[Finding] = []
    probes = history.jobs("back")
    for asked in probes:
        run = history.next_start(asked.first.job, 0)
        if run is None or run.start_s - asked.first.at_s > BACK_S:
            found.append(
                Finding(
                    asked.first.job, "no worker came back in time", shown(history, asked.first.job)
                )
            )
    return len(probes), found
