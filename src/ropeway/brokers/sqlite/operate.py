"""What operators and workers' own words change: actions, pause, purge, signals, heartbeats."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from ropeway import crash, lifecycle
from ropeway.action import Acted, Action, Answer, DeleteJob, EditJob, MoveJob, RetryJob
from ropeway.broker import Signal, WorkerInfo
from ropeway.brokers.sqlite.maintain import remove_rows, take_back
from ropeway.brokers.sqlite.rows import CODE, Flag, Stored, encode, load, load_seqs, texts
from ropeway.brokers.sqlite.step import Step
from ropeway.job import Job, JobRef, State

_NOT_PLAIN = Flag.EDGES | Flag.ORDERED | Flag.LIMITED | Flag.FAIR | Flag.GROUPED
_INDEXED: Final = {  # the index that lists each state, named by its own condition
    **dict.fromkeys(State, "state NOT IN (2, 3) AND"),
    State.AVAILABLE: "state = 2 AND",
}


def act(step: Step, actions: Sequence[Action]) -> list[Acted]:
    """Apply actions one after the other; see `ropeway.action` for what each means."""
    acted = [_act_one(step, action) for action in actions]
    crash.point("act.written")
    return acted


def _act_one(step: Step, action: Action) -> Acted:
    row = load(step.sql, action.ref)
    if row is None:
        return Acted(Answer.NOT_FOUND)
    before = row.status.state
    if isinstance(action, DeleteJob):
        if not lifecycle.deletable(row.status):
            return Acted(Answer.REFUSED, before, "it is running: cancel it first")
        step.remove(row)
        return Acted(Answer.DONE, before)
    changed = lifecycle.act(row.job, row.status, action, now_ms=step.now_ms)
    if changed is None:
        return Acted(Answer.REFUSED, before, f"not possible for a job that is {before}")
    job, status = changed
    taken = _taken(step, row, job, action)
    if taken:
        return Acted(Answer.REFUSED, before, taken)
    step.put(row, status, job)
    if isinstance(action, RetryJob):
        _reopen_children(step, job.id)
    if before is State.RUNNING:
        send(step, Signal(kind="cancel", ref=job.ref, worker=status.worker))
        return Acted(Answer.REQUESTED, before)
    return Acted(Answer.DONE, status.state)


def _taken(step: Step, row: Stored, job: Job, action: Action) -> str:
    """Why the job cannot have its id or its unique key there; "" when it can."""
    if isinstance(action, MoveJob):
        other = load(step.sql, job.ref)
        if other is not None and other.status.seq != row.status.seq:
            return f"queue {job.queue!r} has a job of this id"
    if job.unique is not None and isinstance(action, (MoveJob, EditJob, RetryJob)):
        holder = step.holder(job.queue, job.unique.key)
        if holder is not None and holder.status.seq != row.status.seq:
            return f"unique key {job.unique.key!r} is held by job {holder.job.id}"
    return ""


def _reopen_children(step: Step, parent_id: str) -> None:
    """A retried parent gives the children that its failure cancelled another chance, too."""
    found = step.sql.rows(
        "SELECT child_seq FROM edges WHERE parent_id = ? ORDER BY child_seq", (parent_id,)
    )
    for row in load_seqs(step.sql, [seq for (seq,) in found]):
        if not lifecycle.cancelled_by(row.status, parent_id):
            continue
        others = {p for p in row.status.waiting_on if not step.is_completed(p)}
        waiting_on = frozenset(others | {parent_id})
        step.put(row, lifecycle.reopen_child(row.status, waiting_on=waiting_on))
        _reopen_children(step, row.job.id)


# ------------------------------------------------------------------------------ queues


def pause(step: Step, queue: str) -> None:
    """Hand out no more jobs of the queue."""
    step.sql.run("INSERT OR IGNORE INTO paused VALUES (?)", (queue,))
    send(step, Signal(kind="pause", queue=queue))


def resume(step: Step, queue: str) -> None:
    """Hand them out again."""
    step.sql.run("DELETE FROM paused WHERE queue = ?", (queue,))
    send(step, Signal(kind="resume", queue=queue))


class Purge(NamedTuple):
    """One bite of a purge: at most `limit` jobs of one state, none newer than `seq_max`."""

    queue: str
    state: State
    limit: int
    seq_max: int


def newest_seq(step: Step, _: None) -> int:
    """The seq of the newest job ever enqueued; where a purge ends."""
    found = step.sql.first("SELECT seq FROM sqlite_sequence WHERE name = 'jobs'")
    return found[0] if found else 0


def purge(step: Step, bite: Purge) -> int:
    """Delete some jobs of one state; how many."""
    found = step.sql.rows(
        f"SELECT seq, id, queue, state, flags FROM jobs WHERE {_INDEXED[bite.state]}"
        " queue = ? AND state = ? AND seq <= ? LIMIT ?",
        (bite.queue, CODE[bite.state], bite.seq_max, bite.limit),
    )
    followed = step.with_edges([row[1] for row in found])
    takes_turns = bite.state is State.AVAILABLE and step.flow.is_fair(bite.queue)
    plain = [row for row in found if not (takes_turns or row[4] & _NOT_PLAIN or row[1] in followed)]
    remove_rows(step, plain)
    removed = {row[0] for row in plain}
    for row in load_seqs(step.sql, [row[0] for row in found if row[0] not in removed]):
        step.remove(row)
    return len(found)


# ------------------------------------------------------------------------------ workers


def send(step: Step, signal: Signal) -> None:
    """Keep a signal for a minute; its seq is its row's."""
    step.sql.run("INSERT INTO signals (at_ms, data) VALUES (?, ?)", (step.now_ms, encode(signal)))
    step.woke = True


def heartbeat(step: Step, worker: WorkerInfo) -> None:
    """Note that a worker lives."""
    seen = msgspec.structs.replace(worker, seen_at_ms=step.now_ms)
    step.sql.run(
        "INSERT OR REPLACE INTO workers VALUES (?, ?, ?)", (worker.id, step.now_ms, encode(seen))
    )


def abandon(step: Step, workers: Sequence[str]) -> int:
    """End the leases of dead workers as if expired; how many."""
    found = step.sql.rows(
        "SELECT seq FROM jobs WHERE state = 3 AND worker IN (SELECT value FROM carray(?))"
        " ORDER BY seq",
        (texts(workers),),
    )
    taken_back = take_back(step, [seq for (seq,) in found])
    step.sql.run("DELETE FROM workers WHERE id IN (SELECT value FROM carray(?))", (texts(workers),))
    return taken_back


def register_waiter(step: Step, call: tuple[Sequence[JobRef], int]) -> None:
    """Somebody waits for these jobs until `call[1]` ms from now: keep their records that long."""
    refs, wait_ms = call
    for ref in refs:
        step.sql.run(
            "INSERT INTO waiters SELECT seq, ? FROM jobs WHERE id = ? AND queue = ?",
            (step.now_ms + wait_ms, *ref),
        )
