"""How jobs end: none lost, none from nowhere, each final exactly once."""

from collections.abc import Iterable

from ropeway.job import FINAL, State
from ropeway.verify.checks.finding import Finding, check, shown
from ropeway.verify.history import Asked, History

Found = tuple[int, Iterable[Finding]]


def _expected(asked: Asked) -> frozenset[State]:
    """The states in which a job of that kind may end."""
    kind = asked.first.kind
    if kind.startswith("poison"):
        return frozenset({State.DEAD})
    if kind == "timed":
        return frozenset({State.DEAD})
    if kind in ("cancelled", "stopped"):
        return frozenset({State.CANCELLED, State.COMPLETED})
    return frozenset({State.COMPLETED})


@check("E1", "lost")
def lost(history: History) -> Found:
    """Every acknowledged job is in the state that it was enqueued for to reach."""
    stored = [asked for asked in history.asked.values() if asked.is_stored]
    found: list[Finding] = []
    for asked in stored:
        job = asked.first.job
        record = history.records.get(job)
        if record is None or record.state not in _expected(asked):
            state = "gone" if record is None else f"{record.state} ({record.reason})"
            found.append(Finding(job, f"acknowledged, but {state}", shown(history, job)))
    return len(stored), found


@check("E2", "unexpected")
def unexpected(history: History) -> Found:
    """Nothing is stored or started that nobody asked for."""
    jobs = set(history.records) | set(history.runs)
    return len(jobs), [
        Finding(job, "stored or started, but never asked for", shown(history, job))
        for job in sorted(jobs - set(history.asked))
    ]


@check("E3", "answers name a job that exists")
def one_record(history: History) -> Found:
    """The job that an enqueue names as its answer is there, of the same key where it is another."""
    acked = [asked for asked in history.asked.values() if asked.acked is not None]
    found: list[Finding] = []
    for asked in acked:
        assert asked.acked is not None, "chosen so"
        job, answer = asked.first.job, asked.acked.detail
        other = history.asked.get(answer)
        if answer == job:
            continue
        if asked.first.kind != "unique" or other is None or other.first.key != asked.first.key:
            found.append(Finding(job, f"answered with {answer!r}", shown(history, job)))
        elif job in history.records:
            found.append(Finding(job, "a duplicate, and stored all the same", shown(history, job)))
    return len(acked), found


@check("A1", "completed without a run")
def never_ran(history: History) -> Found:
    """A completed job has a run that returned."""
    done = [job for job, record in history.records.items() if record.state is State.COMPLETED]
    return len(done), [
        Finding(job, "completed, but no run of it returned", shown(history, job))
        for job in done
        if not any(run.returned for run in history.runs.get(job, ()))
    ]


@check("F1", "final twice")
def final_twice(history: History) -> Found:
    """The witness saw every job become final once, and no more."""
    finals = history.finals or {}
    final = [job for job, record in history.records.items() if record.state in FINAL]
    if history.finals is None:
        return 0, []
    return len(finals), [
        Finding(job, f"became final {finals.get(job, 0)} times", shown(history, job))
        for job in sorted({*final, *finals})
        if finals.get(job, 0) != 1
    ]


@check("F2", "left a final state")
def final_left(history: History) -> Found:
    """No final job becomes anything else: nobody asked for that."""
    return len(history.finals or ()), [
        Finding(job, "was final, and then was not", shown(history, job)) for job in history.revived
    ]


@check("Q1", "counts")
def counts(history: History) -> Found:
    """The store counts as many jobs as it has records, and none that is unfinished."""
    if history.queue_sizes is None:
        return 0, []
    total, unfinished = history.queue_sizes
    found: list[Finding] = []
    if total != len(history.records):
        found.append(Finding("", f"{total} counted, {len(history.records)} records"))
    if unfinished:
        found.append(Finding("", f"{unfinished} jobs are still unfinished"))
    return total, found
