"""What operators and failed parents do to rows of the memory broker."""

from collections.abc import Set as AbstractSet

import msgspec

from ropeway import lifecycle
from ropeway.action import Acted, Action, Answer, DeleteJob, EditJob, MoveJob, RetryJob
from ropeway.brokers.memory.table import Row, Table
from ropeway.job import FINAL, WAITING, Job, JobRef, State


def act(table: Table, row: Row | None, action: Action, *, now_ms: int) -> Acted:
    """Apply one action; see `ropeway.action` for what each means."""
    if row is None:
        return Acted(Answer.NOT_FOUND)
    before = row.status.state
    if isinstance(action, DeleteJob):
        if not lifecycle.deletable(row.status):
            return Acted(Answer.REFUSED, before, "it is running: cancel it first")
        table.remove(row)
        return Acted(Answer.DONE, before)
    changed = lifecycle.act(row.job, row.status, action, now_ms=now_ms)
    if changed is None:
        return Acted(Answer.REFUSED, before, f"not possible for a job that is {before}")
    job, status = changed
    taken = _taken(table, row, job, action, now_ms)
    if taken:
        return Acted(Answer.REFUSED, before, taken)
    table.put(row, status, now_ms=now_ms, job=job)
    if isinstance(action, RetryJob):
        _reopen_children(table, row, now_ms)
    if before is State.RUNNING:
        return Acted(Answer.REQUESTED, before)
    drop_unretained(table, row, now_ms=now_ms)
    return Acted(Answer.DONE, status.state)


def _taken(table: Table, row: Row, job: Job, action: Action, now_ms: int) -> str:
    """Why the job cannot have its id or its unique key there; "" when it can."""
    if isinstance(action, MoveJob):
        other = table.find(job.ref)
        if other is not None and other is not row:
            return f"queue {job.queue!r} has a job of this id"
    if job.unique is not None and isinstance(action, (MoveJob, EditJob, RetryJob)):
        holder = table.holders.find(job.queue, job.unique.key, now_ms=now_ms)
        if holder is not None and holder is not row:
            return f"unique key {job.unique.key!r} is held by job {holder.job.id}"
    return ""


def drop_unretained(table: Table, row: Row, *, now_ms: int) -> None:
    """Retention 0 removes a completed or cancelled record in the step that ends the job."""
    if (
        row.status.state in FINAL
        and lifecycle.prune_at_ms(row.job, row.status) <= now_ms
        and not table.needed(row)
    ):
        table.remove(row)


def replace_words(table: Table, holder: Row, job: Job, *, now_ms: int) -> bool:
    """Give the waiting holder of a unique key the words of a new job; False if not waiting."""
    if holder.status.state not in WAITING:
        return False
    edited = lifecycle.act(
        holder.job, holder.status, EditJob(ref=holder.job.ref, job=job), now_ms=now_ms
    )
    assert edited is not None
    table.put(holder, edited[1], now_ms=now_ms, job=edited[0])
    return True


def cascade(table: Table, limit: int, *, now_ms: int) -> int:
    """Tell children that a parent failed or is gone; at most `limit` of them."""
    done = 0
    while table.failed:
        parent = table.failed[0]
        state = parent.status.state
        if not parent.removed and state not in (State.DEAD, State.CANCELLED):
            table.failed.popleft()  # an operator gave it another try meanwhile
            continue
        for child in sorted(table.children.get(parent.job.id, ()), key=_seq):
            if child.status.state is not State.PENDING or not _waits(child, parent):
                continue
            if done >= limit:
                return done
            status = lifecycle.parent_failed(child.job, child.status, parent.job.id, now_ms=now_ms)
            if status is not child.status:
                table.put(child, status, now_ms=now_ms)
                drop_unretained(table, child, now_ms=now_ms)
                done += 1
        table.failed.popleft()
    return done


def _seq(row: Row) -> int:
    return row.status.seq


def _waits(child: Row, parent: Row) -> bool:
    return parent.job.id in child.status.waiting_on


def _reopen_children(table: Table, parent: Row, now_ms: int) -> None:
    """A retried parent gives the children that its failure cancelled another chance, too."""
    for child in sorted(table.children.get(parent.job.id, ()), key=_seq):
        if not lifecycle.cancelled_by(child.status, parent.job.id):
            continue
        others = {p for p in child.status.waiting_on if not completed(table, p)}
        waiting_on = frozenset(others | {parent.job.id})
        table.put(child, lifecycle.reopen_child(child.status, waiting_on=waiting_on), now_ms=now_ms)
        _reopen_children(table, child, now_ms)


def completed(table: Table, parent_id: str) -> bool:
    """Whether this parent is known to be completed."""
    row = table.find(JobRef(parent_id))
    return row is not None and row.status.state is State.COMPLETED


def wait_for(table: Table, child: Row, parent_id: str, *, now_ms: int) -> None:
    """A pending job waits for one parent more."""
    table.adopt(parent_id, child)
    waiting_on = child.status.waiting_on | {parent_id}
    table.put(child, msgspec.structs.replace(child.status, waiting_on=waiting_on), now_ms=now_ms)


def free_children(table: Table, parent: Row, *, now_ms: int) -> None:
    """A completed job is one less for its children to wait for."""
    if parent.job.id not in table.children:
        return
    for child in sorted(table.children[parent.job.id], key=_seq):
        if child.status.state is State.PENDING and _waits(child, parent):
            freed = lifecycle.parent_completed(child.status, parent.job.id, now_ms=now_ms)
            table.put(child, freed, now_ms=now_ms)


def purge(table: Table, queue: str, states: AbstractSet[State] | None) -> int:
    """Remove the jobs of a queue that are not running; how many."""
    rows = [
        row
        for row in table.newest_first(before_seq=None)
        if row.job.queue == queue
        and lifecycle.deletable(row.status)
        and (states is None or row.status.state in states)
    ]
    for row in rows:
        table.remove(row)
    return len(rows)
