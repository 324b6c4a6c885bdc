"""Enqueueing: one statement for a batch of plain jobs, one job at a time for the others."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from ropeway import crash, lifecycle
from ropeway.action import EditJob
from ropeway.broker import CALLS_KEPT_MS, EnqueueAnswer, Enqueued
from ropeway.brokers.sqlite.rows import (
    CODE,
    blobs_of,
    encode,
    flags_of,
    load,
    load_seqs,
    overdue_at_ms,
    texts,
)
from ropeway.brokers.sqlite.step import Step
from ropeway.errors import IdConflict
from ropeway.job import WAITING, Job, JobRef, State

_ANSWERS = msgspec.msgpack.Decoder(list[Enqueued])

# For jobs that differ in their ids and words alone: ?1: of each its id, of ?2 bytes, and its words;
# ?3: now; then the columns that they share. Three times as fast as the statement for any jobs.
_INSERT_ALIKE = """
INSERT INTO jobs (id, queue, task, state, priority, due_ms, created_at_ms, overdue_at_ms, flags,
  rank, job)
SELECT CAST(substr(value, 1, ?2) AS TEXT), ?4, ?5, ?6, ?7, ?8, ?3, ?9, ?10, ?11,
  substr(value, ?2 + 1)
FROM carray(?1) WHERE true
ON CONFLICT DO NOTHING
"""
# ?1: JSON, one array of columns a job, with the place of its words in ?2; ?3: now.
_INSERT_EACH = """
INSERT INTO jobs (id, queue, task, state, priority, due_ms, created_at_ms, overdue_at_ms, flags,
  rank, job)
SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, ?3, value->>6,
  value->>7, CAST(value->>8 AS REAL), substr(?2, value->>9, value->>10)
FROM json_each(?1) WHERE true
ON CONFLICT DO NOTHING
"""
# Of the lowest priority the oldest that were never started, more than one since some are needed.
_TO_DROP = """
SELECT seq FROM jobs WHERE queue = ? AND state IN (0, 1, 2) AND token = 0
ORDER BY priority, seq LIMIT 100
"""
_AVAILABLE = CODE[State.AVAILABLE]
_BOUNDED = (State.PENDING, State.SCHEDULED, State.AVAILABLE)
_STATEMENT_MAX_BYTES = 256 * 1024 * 1024  # a quarter of what SQLite takes as one value
_REMEMBER_CALL = "INSERT INTO calls (id, until_ms, answers) VALUES (?, ?, ?)"


class Call(NamedTuple):
    """The arguments of one call of `enqueue`."""

    jobs: Sequence[Job]
    call_id: str | None


def enqueue(step: Step, call: Call) -> list[Enqueued]:
    """One call. Checks come in this order: call, id, unique key."""
    return enqueue_many(step, [call])[0]


def enqueue_many(step: Step, calls: Sequence[Call]) -> list[list[Enqueued]]:
    """Several callers' calls in one go.

    Raises:
        IdConflict: of any of the calls; the transaction must then be rolled back.
    """
    known = _known_answers(step, calls)
    fresh = [call for call in calls if call.call_id not in known]
    jobs = [job for call in fresh for job in call.jobs]
    step.flow.refuse_unknown(jobs)
    done = insert_all(step, jobs)
    answers: list[list[Enqueued]] = []
    at = 0
    for call in calls:
        if call.call_id is not None and call.call_id in known:
            answers.append(known[call.call_id])
            continue
        mine = done[at : at + len(call.jobs)]
        at += len(call.jobs)
        answers.append(mine)
        if call.call_id is not None:
            known[call.call_id] = mine
            step.sql.run(_REMEMBER_CALL, (call.call_id, step.now_ms + CALLS_KEPT_MS, encode(mine)))
    crash.point("enqueue.written")
    return answers


def _known_answers(step: Step, calls: Sequence[Call]) -> dict[str, list[Enqueued]]:
    """What calls that came before were answered."""
    ids = [call.call_id for call in calls if call.call_id is not None]
    if not ids:
        return {}
    found = step.sql.rows(
        "SELECT id, answers FROM calls WHERE id IN (SELECT value FROM carray(?)) AND until_ms > ?",
        (texts(ids), step.now_ms),
    )
    return {call_id: _ANSWERS.decode(blob) for call_id, blob in found}


def insert_all(step: Step, jobs: Sequence[Job]) -> list[Enqueued]:
    """Insert jobs in their order; the answers by position."""
    if all(map(_is_plain, jobs)) and _have_room(step, jobs) and _insert_plain(step, jobs):
        return [Enqueued(EnqueueAnswer.OK, job.id, job.queue) for job in jobs]
    _refuse_conflicts(step, jobs)
    return [insert_one(step, job) for job in jobs]


def _have_room(step: Step, jobs: Sequence[Job]) -> bool:
    """Whether none of the jobs can find its queue full."""
    if not step.flow.rules.queues:
        return True
    for queue, n in Counter(job.queue for job in jobs).items():
        rule = step.flow.rules.queue(queue)
        if rule.max_length is not None and _length(step, queue) + n > rule.max_length:
            return False
    return True


def _length(step: Step, queue: str) -> int:
    """How many jobs count against the queue's bound."""
    return sum(step.count_of(queue, state) for state in _BOUNDED)


def _full(step: Step, job: Job) -> Enqueued | None:
    """The answer where the queue has no room for a new job."""

    def drop() -> bool:
        found = step.sql.rows(_TO_DROP, (job.queue,))
        for row in load_seqs(step.sql, [seq for (seq,) in found]):
            if not row.job.unblocks and not step.needed([row.job.id]):
                status = lifecycle.cancel(row.status, reason="dropped", now_ms=step.now_ms)
                assert status is not None, "only a waiting job is dropped"
                step.put(row, status)
                return True
        return False

    return step.flow.full(job, _length(step, job.queue), drop)


def _is_plain(job: Job) -> bool:
    """Whether nothing but its own row follows from the job."""
    return (
        job.unique is None
        and job.ordering_key is None
        and not job.parents
        and not job.unblocks
        and job.group_key is None
    )


def _insert_plain(step: Step, jobs: Sequence[Job]) -> bool:
    """Insert new plain jobs by one statement; False, with nothing written, if an id is taken."""
    flow = step.flow
    flow.turns.save()
    flow.turns.load(jobs)
    shapes: list[tuple[Any, ...]] = []
    blobs: list[bytes] = []
    size = 0
    counts = step.counts.copy()
    for job in jobs:
        stamped, status = lifecycle.admit(job, seq=0, now_ms=step.now_ms)
        blob = encode(stamped)
        code = CODE[status.state]
        overdue_ms = overdue_at_ms(stamped)
        rank = flow.turns.join(stamped) if code == _AVAILABLE else 0.0
        due = (status.due_ms, overdue_ms, flags_of(stamped, status), rank)
        shapes.append((job.queue, job.task, code, job.priority, *due))
        blobs.append(blob)
        size += len(blob)
        counts[job.queue, code] += 1
    if size > _STATEMENT_MAX_BYTES:
        return False
    sql = step.sql
    several = len(jobs) > 1
    if several:
        sql.run("SAVEPOINT plain")
    ids = [job.id.encode() for job in jobs]
    if len(set(shapes)) == 1 and len(set(map(len, ids))) == 1:
        packed = blobs_of(map(bytes.__add__, ids, blobs))
        sql.run(_INSERT_ALIKE, (packed, len(ids[0]), step.now_ms, *shapes[0]))
    else:
        _insert_each(step, jobs, shapes, blobs)
    complete = sql.changes == len(jobs)
    if several:
        if not complete:
            sql.run("ROLLBACK TO plain")
        sql.run("RELEASE plain")
    if complete:
        step.counts = counts
        step.woke = True
    else:
        flow.turns.drop()
    return complete


def _insert_each(
    step: Step, jobs: Sequence[Job], shapes: list[tuple[Any, ...]], blobs: list[bytes]
) -> None:
    rows: list[tuple[Any, ...]] = []
    place = 1
    for job, shape, blob in zip(jobs, shapes, blobs, strict=True):
        rows.append((job.id, *shape, place, len(blob)))
        place += len(blob)
    step.sql.run(_INSERT_EACH, (msgspec.json.encode(rows).decode(), b"".join(blobs), step.now_ms))


def _refuse_conflicts(step: Step, jobs: Sequence[Job]) -> None:
    met: dict[JobRef, Job] = {}
    for job in jobs:
        row = load(step.sql, job.ref)
        known = met.setdefault(job.ref, row.job if row is not None else job)
        if (known.task, known.payload) != (job.task, job.payload):
            raise IdConflict(
                f"job id {job.id!r} is taken in queue {job.queue!r} by another job (task "
                f"{known.task!r}); nothing was enqueued. Give each job an id of its own."
            )


def insert_one(step: Step, job: Job, *, bounded: bool = True) -> Enqueued:
    """Insert one job of any kind; a taken id is answered as a duplicate, whatever its words.

    What was promised already, with `bounded=False`, finds room in every queue.
    """
    if load(step.sql, job.ref) is not None:
        return Enqueued(EnqueueAnswer.DUPLICATE_ID, job.id, job.queue)
    if job.unique is not None:
        holder = step.holder(job.queue, job.unique.key)
        if holder is not None:
            answer = EnqueueAnswer.DUPLICATE_KEY
            if job.unique.on_conflict == "replace" and holder.status.state in WAITING:
                edit = EditJob(ref=holder.job.ref, job=job)
                edited = lifecycle.act(holder.job, holder.status, edit, now_ms=step.now_ms)
                assert edited is not None, "a waiting job can be edited"
                step.put(holder, edited[1], edited[0])
                answer = EnqueueAnswer.REPLACED
            return Enqueued(answer, holder.job.id, job.queue)
    if bounded and step.flow.rules.queues and (full := _full(step, job)) is not None:
        return full
    waiting_on = frozenset(p for p in job.parents if not step.is_completed(p))
    stamped, status = lifecycle.admit(job, seq=0, now_ms=step.now_ms, waiting_on=waiting_on)
    step.add(stamped, status)
    for parent_id in waiting_on:
        parent = step.parent(parent_id)
        if parent is not None and parent[1] in (State.DEAD, State.CANCELLED):
            step.cascade(parent_id, parent[0])
    for ref in job.unblocks:
        step.adopt(job.id, ref)
    return Enqueued(EnqueueAnswer.OK, job.id, job.queue)
