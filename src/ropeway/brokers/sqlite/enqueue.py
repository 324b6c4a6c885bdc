"""Enqueueing: one statement for a batch of plain jobs, one job at a time for the others."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import repeat
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
from ropeway.flow.rules import refuse_unknown
from ropeway.job import WAITING, Job, JobRef, State, Status

_ANSWERS = msgspec.msgpack.Decoder(list[Enqueued])

# One job alone, without the detour by arrays: its columns, then the call, the minute and now.
_INSERT_ALONE = """
INSERT INTO jobs (id, queue, task, state, priority, due_ms, created_at_ms, overdue_at_ms, flags,
  rank, job)
SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11
WHERE NOT EXISTS (
  SELECT 1 FROM calls WHERE minute IN (?13, ?13 - 1) AND id = ?12 AND until_ms > ?7)
ON CONFLICT DO NOTHING
"""
# ?2: now. No job is inserted if a call of the ids ?3 came before, this minute, ?4, or the last one.
_UNLESS_KNOWN = """
WHERE NOT EXISTS (SELECT 1 FROM calls WHERE minute IN (?4, ?4 - 1) AND until_ms > ?2
  AND id IN (SELECT value FROM carray(?3)))
ON CONFLICT DO NOTHING
"""
# For jobs that differ in their ids, ranks and words alone: ?1: of each its id, of ?5 bytes, its
# rank and its words; then the columns that they share. Three times as fast as the one for any jobs.
_INSERT_ALIKE = f"""
INSERT INTO jobs (id, queue, task, state, priority, due_ms, created_at_ms, overdue_at_ms, flags,
  rank, job)
SELECT CAST(substr(value, 1, ?5) AS TEXT), ?6, ?7, ?8, ?9, ?10, ?2, ?11, ?12,
  CAST(substr(value, ?5 + 1, ?13) AS REAL), substr(value, ?5 + 1 + ?13)
FROM carray(?1) {_UNLESS_KNOWN}
"""
_RANK = b"%25.17g"  # exact, and always of one width
# ?1: JSON, one array of columns a job, with the place of its words in ?5.
_INSERT_EACH = f"""
INSERT INTO jobs (id, queue, task, state, priority, due_ms, created_at_ms, overdue_at_ms, flags,
  rank, job)
SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, ?2, value->>6,
  value->>7, CAST(value->>8 AS REAL), substr(?5, value->>9, value->>10)
FROM json_each(?1) {_UNLESS_KNOWN}
"""
# Of the lowest priority the oldest that were never started, more than one since some are needed.
_TO_DROP = """
SELECT seq FROM jobs WHERE queue = ? AND state IN (0, 1, 2) AND token = 0
ORDER BY priority, seq LIMIT 100
"""
_AVAILABLE = CODE[State.AVAILABLE]
_BOUNDED = (State.PENDING, State.SCHEDULED, State.AVAILABLE)
_STATEMENT_MAX_BYTES = 256 * 1024 * 1024  # a quarter of what SQLite takes as one value
_REMEMBER_CALL = "INSERT INTO calls (minute, id, until_ms, answers) VALUES (?, ?, ?, ?)"
_KNOWN_CALLS = """
SELECT id, answers FROM calls WHERE minute IN (?1, ?1 - 1) AND until_ms > ?2
  AND id IN (SELECT value FROM carray(?3))
"""


class Call(NamedTuple):
    """The arguments of one call of `enqueue`."""

    jobs: Sequence[Job]
    call_id: str | None


def enqueue(step: Step, call: Call) -> list[Enqueued]:
    """One call. Checks come in this order: call, id, unique key."""
    return enqueue_many(step, [call])[0]


def enqueue_many(step: Step, calls: Sequence[Call]) -> list[list[Enqueued]]:
    """Several callers' calls in one go.

    New plain jobs are written by one statement, which itself looks whether a call or an id is
    known. Only when one is, the calls are looked into.

    Raises:
        IdConflict, ConfigError: of any of the calls; the transaction must then be rolled back.
    """
    refuse_unknown((job for call in calls for job in call.jobs), step.flow.rules.limits)
    if len(calls) == 1 and len(calls[0].jobs) == 1:
        answers = [_stored(calls[0])] if _enqueue_alone(step, *calls[0]) else None
    else:
        answers = _enqueue_plain(step, calls)
    if answers is None:
        answers = _enqueue_each(step, calls)
    crash.point("enqueue.written")
    return answers


def _enqueue_alone(step: Step, jobs: Sequence[Job], call_id: str | None) -> bool:
    """Insert one job; False, with nothing written, unless it is plain, and new as its call is."""
    (job,) = jobs
    if not _is_plain(job) or not _have_room(step, jobs):
        return False
    step.flow.turns.save()
    stamped, status = lifecycle.admit(job, seq=0, now_ms=step.now_ms)
    shape = _shape(step, stamped, status)
    sql = step.sql
    values = (job.id, *shape[:5], step.now_ms, *shape[5:], encode(stamped))
    sql.run(_INSERT_ALONE, (*values, call_id, _minute(step)))
    if not sql.changes:
        step.flow.turns.drop()
        return False
    if call_id is not None:
        sql.run(_REMEMBER_CALL, (_minute(step), call_id, step.now_ms + CALLS_KEPT_MS, None))
    step.counts[job.queue, CODE[status.state]] += 1
    step.woke = True
    return True


def _shape(step: Step, job: Job, status: Status) -> tuple[Any, ...]:
    """The columns of a new plain job besides its id, the time and its words."""
    code = CODE[status.state]
    rank = step.flow.turns.join(job) if code == _AVAILABLE else 0.0
    due = (status.due_ms, overdue_at_ms(job), flags_of(job, status), rank)
    return (job.queue, job.task, code, job.priority, *due)


def _enqueue_plain(step: Step, calls: Sequence[Call]) -> list[list[Enqueued]] | None:
    """Insert the jobs of all calls; None, with nothing written, unless all are new and plain."""
    jobs = [job for call in calls for job in call.jobs]
    ids = [call.call_id for call in calls if call.call_id is not None]
    if len(set(ids)) < len(ids) or not _insert_plain(step, jobs, ids):
        return None
    minute, until_ms = _minute(step), step.now_ms + CALLS_KEPT_MS
    step.sql.run_many(_REMEMBER_CALL, [(minute, call_id, until_ms, None) for call_id in ids])
    return [_stored(call) for call in calls]


def _enqueue_each(step: Step, calls: Sequence[Call]) -> list[list[Enqueued]]:
    """Look into the calls; see `enqueue_many`."""
    known = _known_answers(step, calls)
    fresh = [call for call in calls if call.call_id not in known]
    jobs = [job for call in fresh for job in call.jobs]
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
            kept = (_minute(step), call.call_id, step.now_ms + CALLS_KEPT_MS, encode(mine))
            step.sql.run(_REMEMBER_CALL, kept)
    return answers


def _stored(call: Call) -> list[Enqueued]:
    """The answers to a call all of whose jobs are new."""
    return [Enqueued(EnqueueAnswer.OK, job.id, job.queue) for job in call.jobs]


def _minute(step: Step) -> int:
    """What calls are kept by: those that are remembered are of this minute or the one before."""
    return step.now_ms // CALLS_KEPT_MS


def _known_answers(step: Step, calls: Sequence[Call]) -> dict[str, list[Enqueued]]:
    """What calls that came before were answered."""
    by_id = {call.call_id: call for call in calls if call.call_id is not None}
    found = step.sql.rows(_KNOWN_CALLS, (_minute(step), step.now_ms, texts(by_id)))
    return {
        call_id: _stored(by_id[call_id]) if blob is None else _ANSWERS.decode(blob)
        for call_id, blob in found
    }


def insert_all(step: Step, jobs: Sequence[Job]) -> list[Enqueued]:
    """Insert jobs in their order; the answers by position."""
    if _insert_plain(step, jobs, ()):
        return [Enqueued(EnqueueAnswer.OK, job.id, job.queue) for job in jobs]
    _refuse_conflicts(step, jobs)
    return [insert_one(step, job) for job in jobs]


def _is_plain(job: Job) -> bool:
    """Whether nothing but its own row follows from the job."""
    return (
        job.unique is None
        and job.ordering_key is None
        and not job.parents
        and not job.unblocks
        and job.group_key is None
    )


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


def _insert_plain(step: Step, jobs: Sequence[Job], calls: Sequence[str]) -> bool:
    """Insert jobs by one statement; False, with nothing written, unless all are new and plain.

    `calls`: the ids of the calls that they come with; nothing is written if one is known.
    """
    if not all(map(_is_plain, jobs)) or not _have_room(step, jobs):
        return False
    turns = step.flow.turns
    turns.save()
    turns.load(jobs)
    shapes: list[tuple[Any, ...]] = []
    blobs: list[bytes] = []
    ranks: list[float] = []
    for job in jobs:
        stamped, status = lifecycle.admit(job, seq=0, now_ms=step.now_ms)
        *shape, rank = _shape(step, stamped, status)
        shapes.append(tuple(shape))
        ranks.append(rank)
        blobs.append(encode(stamped))
    if sum(map(len, blobs)) > _STATEMENT_MAX_BYTES:
        return False
    sql = step.sql
    sql.run("SAVEPOINT plain")
    ids = [job.id.encode() for job in jobs]
    known = (step.now_ms, texts(calls), _minute(step))
    if len(set(shapes)) == 1 and len(set(map(len, ids))) == 1:
        packed = blobs_of(map(b"".join, zip(ids, _packed(ranks), blobs, strict=True)))
        rank_size = 25 if any(ranks) else 1
        sql.run(_INSERT_ALIKE, (packed, *known, len(ids[0]), *shapes[0], rank_size))
    else:
        rows = [(*shape, rank) for shape, rank in zip(shapes, ranks, strict=True)]
        sql.run(_INSERT_EACH, (_columns(jobs, rows, blobs), *known, b"".join(blobs)))
    complete = sql.changes == len(jobs)
    if not complete:
        sql.run("ROLLBACK TO plain")
    sql.run("RELEASE plain")
    if complete:
        for (queue, code), n in Counter((shape[0], shape[2]) for shape in shapes).items():
            step.counts[queue, code] += n
        step.woke = True
    else:
        turns.drop()
    return complete


def _packed(ranks: Sequence[float]) -> Iterable[bytes]:
    return [_RANK % rank for rank in ranks] if any(ranks) else repeat(b"0", len(ranks))


def _columns(jobs: Sequence[Job], shapes: list[tuple[Any, ...]], blobs: list[bytes]) -> str:
    """The first parameter of `_INSERT_EACH`."""
    rows: list[tuple[Any, ...]] = []
    place = 1
    for job, shape, blob in zip(jobs, shapes, blobs, strict=True):
        rows.append((job.id, *shape, place, len(blob)))
        place += len(blob)
    return msgspec.json.encode(rows).decode()


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
