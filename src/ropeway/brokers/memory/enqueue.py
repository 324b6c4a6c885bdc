"""Enqueueing into the memory broker."""

from collections.abc import Sequence
from typing import Final

from ropeway import lifecycle
from ropeway.broker import CALLS_KEPT_MS, EnqueueAnswer, Enqueued
from ropeway.brokers.memory import operate
from ropeway.brokers.memory.state import CAPABILITIES, State
from ropeway.errors import IdConflict
from ropeway.flow.rules import refuse_unknown
from ropeway.job import Job, JobRef
from ropeway.job import State as JobState

BOUNDED: Final = (JobState.PENDING, JobState.SCHEDULED, JobState.AVAILABLE)
_NONE: Final = frozenset[str]()


def enqueue(state: State, jobs: Sequence[Job], *, call_id: str | None) -> list[Enqueued]:
    """See `Broker.enqueue`."""
    now_ms = state.wall.now_ms()
    _forget_calls(state, now_ms)
    if call_id is not None and call_id in state.calls:
        _, answers = state.calls[call_id]
        return answers or _all_stored(jobs)
    _refuse(state, jobs)
    answers = [_enqueue_one(state, job, now_ms) for job in jobs]
    if call_id is not None:
        # A repeated call brings the same jobs, so what is usual need not be kept for each.
        kept = None if answers == _all_stored(jobs) else answers
        state.calls[call_id] = (now_ms, kept)
    state.wake()
    return answers


def _all_stored(jobs: Sequence[Job]) -> list[Enqueued]:
    return [Enqueued(EnqueueAnswer.OK, job.id, job.queue) for job in jobs]


def _forget_calls(state: State, now_ms: int) -> None:
    """Drop the answers of calls that nobody may repeat any more; the oldest come first."""
    while state.calls:
        call_id, (called_ms, _) = next(iter(state.calls.items()))
        if now_ms - called_ms <= CALLS_KEPT_MS:
            return
        del state.calls[call_id]


def enqueue_then(state: State, jobs: Sequence[Job], now_ms: int) -> None:
    """Enqueue what an `Ack` brings along. One that exists already stays as it is."""
    for job in jobs:
        _enqueue_one(state, job, now_ms, bounded=False)


def _refuse(state: State, jobs: Sequence[Job]) -> None:
    """Raise before anything is written."""
    CAPABILITIES.refuse_all(jobs)
    refuse_unknown(jobs, state.table.flow.rules.limits)
    met: dict[tuple[str, str], Job] = {}
    for job in jobs:
        row = state.table.at(job.id, job.queue)
        known = row.job if row is not None else met.setdefault((job.id, job.queue), job)
        if known is job:
            continue
        if known.task != job.task or known.payload != job.payload:
            raise IdConflict(
                f"job id {job.id!r} is taken in queue {job.queue!r} by another job (task "
                f"{known.task!r}); nothing was enqueued. Give each job an id of its own."
            )


def _full(state: State, job: Job, now_ms: int) -> Enqueued | None:
    """The answer where the queue has no room for a new job."""
    table = state.table
    if table.flow.rules.queue(job.queue).max_length is None:
        return None
    counts = table.counts[job.queue]
    length = sum(counts[state] for state in BOUNDED)

    def drop() -> bool:
        rows = table.by_seq.values()
        row = table.flow.bounds.to_drop(job.queue, rows, table.needed)
        if row is not None:
            status = lifecycle.cancel(row.status, reason="dropped", now_ms=now_ms)
            assert status is not None, "only a waiting job is dropped"
            table.put(row, status, now_ms=now_ms)
            operate.drop_unretained(table, row, now_ms=now_ms)
        return row is not None

    return table.flow.full(job, length, drop, now_ms)


def _enqueue_one(state: State, job: Job, now_ms: int, *, bounded: bool = True) -> Enqueued:
    table = state.table
    if table.at(job.id, job.queue) is not None:
        return Enqueued(EnqueueAnswer.DUPLICATE_ID, job.id, job.queue)
    if job.unique is not None:
        holder = table.holders.find(job.queue, job.unique.key, now_ms=now_ms)
        if holder is not None:
            replaced = job.unique.on_conflict == "replace" and operate.replace_words(
                table, holder, job, now_ms=now_ms
            )
            answer = EnqueueAnswer.REPLACED if replaced else EnqueueAnswer.DUPLICATE_KEY
            return Enqueued(answer, holder.job.id, job.queue)
    if bounded and (full := _full(state, job, now_ms)) is not None:
        return full
    state.seq += 1
    waiting_on = _NONE
    if job.parents:
        waiting_on = frozenset(p for p in job.parents if not operate.completed(table, p))
    stamped, status = lifecycle.admit(job, seq=state.seq, now_ms=now_ms, waiting_on=waiting_on)
    table.add(stamped, status, now_ms=now_ms)
    for parent_id in waiting_on:
        parent = table.find(JobRef(parent_id))
        if parent is not None and parent.status.state in (JobState.DEAD, JobState.CANCELLED):
            table.failed.append(parent)
    for ref in job.unblocks:
        child = table.find(ref)
        if child is not None and child.status.state is JobState.PENDING:
            operate.wait_for(table, child, job.id, now_ms=now_ms)
    return Enqueued(EnqueueAnswer.OK, job.id, job.queue)
