"""From the record of a job to what holds it back."""

from ropeway.broker import JobStore
from ropeway.job import FINAL, JobRecord, JobRef, State
from ropeway.lifecycle import overdue
from ropeway.why.held import gathering, limits, ordering, queue_limits
from ropeway.why.reason import Case, Kind, Reason, Why, after_failure, some
from ropeway.why.served import Serving, paused, suspect, turn, unknown_task, unserved


async def explain(store: JobStore, record: JobRecord, *, now_ms: int) -> Why:
    """Say why a job does not run.

    Args:
        store: where the job is.
        record: of the job, as it is now.
        now_ms: the time, UTC epoch milliseconds.
    """
    state = record.status.state
    if state in FINAL:
        reasons = [_ended(record)]
    elif state is State.RUNNING:
        reasons = [_running(record)]
    else:
        reasons = await _waiting(Case(store, record, now_ms))
    return Why(record, tuple(reasons))


def _ended(record: JobRecord) -> Reason:
    status = record.status
    because = f" ({status.reason})" if status.reason else ""
    failed = after_failure(record) if status.state is State.DEAD else ""
    text = f"it is {status.state}{because}{failed}"
    return Reason(kind=Kind.ENDED, text=text, since_ms=status.finished_at_ms)


def _running(record: JobRecord) -> Reason:
    status = record.status
    asked = " and was asked to stop" if status.cancel_requested else ""
    return Reason(
        kind=Kind.RUNNING,
        text=f"it runs on worker {status.worker}{asked}",
        since_ms=status.started_at_ms,
        workers=() if status.worker is None else (status.worker,),
    )


async def _waiting(case: Case) -> list[Reason]:
    serving = await Serving.of(case)
    lasting = [*await paused(case), *unserved(case, serving), *unknown_task(case, serving)]
    if not_yet := [*_overdue(case), *await _parents(case), *_time(case)]:
        return [*not_yet, *lasting]
    rules = [info.rule for info in await case.store.rules()]
    held = [
        *lasting,
        *await ordering(case),
        *await limits(case, rules),
        *await queue_limits(case, rules),
        *gathering(case, rules),
    ]
    return held or [*suspect(case, serving), await turn(case, serving)]


def _overdue(case: Case) -> list[Reason]:
    late = overdue(case.job, now_ms=case.now_ms)
    if late is None:
        return []
    text = f"its last time to start has passed: it will end dead ({late})"
    return [Reason(kind=Kind.OVERDUE, text=text)]


async def _parents(case: Case) -> list[Reason]:
    if case.status.state is not State.PENDING:
        return []
    refs = [JobRef(id_) for id_ in sorted(case.status.waiting_on)]
    known = await case.store.get(refs)
    states = [
        f"{ref.id} ({'not known yet' if record is None else record.status.state})"
        for ref, record in zip(refs, known, strict=True)
    ]
    text = f"it waits for {some(states, 'parent')}"
    return [Reason(kind=Kind.PARENTS, text=text, jobs=tuple(refs), count=len(refs))]


def _time(case: Case) -> list[Reason]:
    status = case.status
    if status.state not in (State.SCHEDULED, State.RETRYABLE) or status.due_ms <= case.now_ms:
        return []
    if status.state is State.RETRYABLE:
        kind, text = Kind.RETRY, f"it waits for its next run{after_failure(case.record)}"
    elif status.reason == "unknown_task":
        kind = Kind.UNKNOWN_TASK
        text = f"the worker that had it does not know task {case.job.task!r}; it waits"
    else:
        because = f" ({status.reason})" if status.reason else ""
        kind, text = Kind.SCHEDULED, f"it waits for its time{because}"
    return [Reason(kind=kind, text=text, until_ms=status.due_ms)]
