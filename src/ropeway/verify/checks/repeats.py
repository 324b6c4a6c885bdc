"""Runs beyond the first: each must have a cause in the ledger."""

from collections.abc import Iterable
from itertools import pairwise

from ropeway.verify.checks.finding import Check, Finding, check
from ropeway.verify.history import History, Run
from ropeway.verify.ledger import Event

Found = tuple[int, Iterable[Finding]]


def cause_of(history: History, run: Run, again: Run) -> str | None:
    """Why the job ran again after this run; None when nothing explains it.

    A handler that failed is retried. Else the run's process must have been killed, frozen,
    starved or told to end between the start of the run and the next one, or the store been away;
    and not later than a lease after the handler's own end, since by then its end was stored.
    """
    pid = run.began.pid
    if run.ended is not None and run.ended.what in ("fail", "die"):
        return "failed"
    last_s = min(run.end_s + history.lease_s, again.start_s)
    if run.died_s <= last_s:
        return "killed"
    told = history.terminated.get(pid)
    if told is not None and told.meets(run.start_s, last_s):
        return "terminated"
    # Prolonged for the last time before it began, perhaps.
    if history.was_paused(pid, run.start_s - history.lease_s / 3, last_s):
        return "paused"
    if history.kind_of(run.began.job) == "poison_process" and run.ended is None:
        return "killed"
    return None


def _pairs(history: History) -> list[tuple[Run, Run]]:
    return [pair for runs in history.runs.values() for pair in pairwise(runs)]


@check("A2", "unexplained repeats")
def unexplained_repeats(history: History) -> Found:
    """A job starts again only after a failure, or after a fault hit the process that ran it."""
    pairs = _pairs(history)
    return len(pairs), [
        Finding(again.began.job, "started again without a cause", _lines(run, again))
        for run, again in pairs
        if cause_of(history, run, again) is None
    ]


@check("A2", "one token, one start")
def tokens(history: History) -> Found:
    """No two starts of a job have the same token, and later ones have greater tokens."""
    pairs = _pairs(history)
    return len(pairs), [
        Finding(again.began.job, "its token did not grow", _lines(run, again))
        for run, again in pairs
        if again.began.token <= run.began.token
        and not history.was_paused(again.began.pid, run.start_s, again.start_s)
    ]


def duplicates(history: History) -> Check:
    """No more jobs were completed twice by their handlers than leases were hit by faults."""
    doubled = [job for job, runs in history.runs.items() if sum(r.returned for r in runs) > 1]
    held = sum(len(history.struck_runs(fault)) for fault in history.faults)
    starved = sum(
        run.is_open_at(pause.start_s)
        for pid, pauses in history.pauses.items()
        for pause in pauses
        for run in history.by_pid.get(pid, ())
    )
    found: tuple[Finding, ...] = ()
    if len(doubled) > held + starved:
        found = (Finding(doubled[0], f"{len(doubled)} doubled, {held} leases hit"),)
    return Check("A3", "duplicated", len(doubled), found, {"duplicated": len(doubled)})


@check("A4", "overlaps")
def overlaps(history: History) -> Found:
    """Two runs of a job are under way at once only while the first one's process was paused."""
    found: list[Finding] = []
    pairs = _pairs(history)
    for run, again in pairs:
        pid = run.began.pid
        ends_s = min(run.end_s, run.died_s)
        if ends_s <= again.start_s or run.ended is None:
            continue
        if not history.was_paused(pid, run.start_s - history.lease_s / 3, again.start_s):
            found.append(Finding(run.began.job, "ran twice at once", _lines(run, again)))
    return len(pairs), found


def _lines(*runs: Run) -> tuple[Event, ...]:
    events = [event for run in runs for event in (run.began, run.ended) if event is not None]
    return tuple(sorted(events, key=lambda event: event.at_s))
