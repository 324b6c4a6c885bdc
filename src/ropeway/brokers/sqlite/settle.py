"""What holders of leases write: outcomes, beats and log lines, each fenced by the token."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from ropeway import crash, lifecycle
from ropeway.broker import (
    EVENTS_BYTES_KEPT,
    EVENTS_KEPT,
    Beat,
    Entry,
    ExtendAnswer,
    Extended,
)
from ropeway.brokers.sqlite.enqueue import insert_one
from ropeway.brokers.sqlite.reserve import paused_queues
from ropeway.brokers.sqlite.rows import CODE, Flag, Stored, blobs_of, load_seqs, numbers, texts
from ropeway.brokers.sqlite.step import Step
from ropeway.job import FINAL, Lease, State
from ropeway.outcome import Ack, Outcome, Settled

_RUNNING, _COMPLETED = CODE[State.RUNNING], CODE[State.COMPLETED]
_KEPT_MS = lifecycle.RETENTION_MS[State.COMPLETED]
# With one of these an ack changes more than the job's own row.
_NOT_PLAIN = Flag.EDGES | Flag.ORDERED

# The fences of many jobs as one row; see `reserve._NEXT`.
_FENCES = """
SELECT json_group_array(json_array(
  j.id, j.queue, j.seq, j.state, j.token, j.settled_token, j.flags, j.extra IS NOT NULL))
FROM carray(?) AS wanted CROSS JOIN jobs AS j ON j.id = wanted.value
"""
# As `lifecycle._ack`, for jobs that nothing follows from and whose lease is the current one.
# ?1: of each its seq, in 16 digits, its id, of ?8 bytes, and its result; ?2 now, ?3 whether there
# are results, ?4 their codec, ?5 prune at, ?6 token, ?7 queue. The pluses keep the planner to seqs.
_COMPLETE = f"""
UPDATE jobs SET state = 5, finished_at_ms = ?2, settled_token = token,
  result = CASE WHEN ?3 THEN substr(value, 17 + ?8) END, result_codec = ?4, prune_at_ms = ?5,
  unique_key = NULL, unique_until_ms = NULL
FROM carray(?1)
WHERE seq = CAST(substr(value, 1, 16) AS INTEGER) AND +state = 3 AND +token = ?6 AND +queue = ?7
  AND +id = CAST(substr(value, 17, ?8) AS TEXT) AND flags & {_NOT_PLAIN} = 0 AND extra IS NULL
"""
_PROLONG = "UPDATE jobs SET lease_until_ms = ?2 WHERE seq IN (SELECT value FROM carray(?1))"


class Fence(NamedTuple):
    """The columns that decide whether a token still counts."""

    id: str
    queue: str
    seq: int
    state: int
    token: int
    settled_token: int
    flags: int
    has_extra: int

    def is_held_by(self, lease: Lease) -> bool:
        return self.state == _RUNNING and self.token == lease.token


_Fences = msgspec.json.Decoder(list[Fence])


def _fences(step: Step, leases: Iterable[Lease]) -> dict[tuple[str, str], Fence]:
    ids = {lease.job.id for lease in leases}
    if not ids:
        return {}
    ((found,),) = step.sql.rows(_FENCES, (texts(ids),))
    return {(fence.id, fence.queue): fence for fence in _Fences.decode(found)}


def _survived(step: Step, fence: Fence | None, lease: Lease) -> None:
    """A holder thought dead has answered: that crash is taken back."""
    if fence is None or not fence.has_extra or fence.state >= _COMPLETED:
        return
    for row in load_seqs(step.sql, [fence.seq]):
        if any(crash.token == lease.token for crash in row.status.crashes):
            step.put(row, lifecycle.survived(row.status, lease.token))


# ------------------------------------------------------------------------------ settle


def settle(step: Step, outcomes: Sequence[Outcome]) -> list[Settled]:
    """One call; see `settle_many`."""
    return settle_many(step, [outcomes])[0]


def settle_many(step: Step, calls: Sequence[Sequence[Outcome]]) -> list[list[Settled]]:
    """Several callers' outcomes in one go.

    Plain acks are written without a look at their rows: the statement itself checks the leases.
    Only when it does not find all of them is each outcome looked into.
    """
    outcomes = [outcome for call in calls for outcome in call]
    plain = [
        outcome for outcome in outcomes if isinstance(outcome, Ack) and _looks_plain(step, outcome)
    ]
    done: set[int] = set()
    if plain and _are_different(outcomes) and _complete(step, plain):
        done = {ack.lease.seq for ack in plain}
    others = [outcome for outcome in outcomes if outcome.lease.seq not in done]
    answers = iter(_settle_each(step, others) if others else ())
    crash.point("settle.written")
    return [
        [Settled.OK if outcome.lease.seq in done else next(answers) for outcome in call]
        for call in calls
    ]


def _looks_plain(step: Step, ack: Ack) -> bool:
    """Whether nothing but its own row follows, as far as a lease can tell."""
    job = ack.lease.job
    return (
        ack.lease.seq > 0
        and not ack.then
        and not lifecycle.holds_key(job, State.COMPLETED, now_ms=step.now_ms)
        and job.ordering_key is None
        and job.retention_ms != 0
    )


def _are_different(outcomes: Sequence[Outcome]) -> bool:
    """Whether they are of as many jobs, so that their order does not matter."""
    return len({outcome.lease.seq for outcome in outcomes}) == len(outcomes)


def _complete(step: Step, acks: Sequence[Ack]) -> bool:
    """Write acks by one statement for those that share everything but their results.

    False, with nothing written, if a lease is not the current one or a job turns out not plain.
    """
    groups: dict[tuple[int, str, int, bool, str, int | None], list[bytes]] = {}
    for ack in acks:
        job, token, result = ack.lease.job, ack.lease.token, ack.result
        id_ = job.id.encode()
        has_result = result is not None
        alike = (token, job.queue, len(id_), has_result, ack.result_codec, job.retention_ms)
        groups.setdefault(alike, []).append(b"%016d%b%b" % (ack.lease.seq, id_, result or b""))
    sql, written = step.sql, 0
    sql.run("SAVEPOINT acks")
    for (token, queue, id_size, has_result, codec, kept_ms), packed in groups.items():
        prune_at_ms = step.now_ms + (_KEPT_MS if kept_ms is None else kept_ms)
        stored_codec = None if codec == "json" else codec
        values = (step.now_ms, has_result, stored_codec, prune_at_ms, token, queue, id_size)
        sql.run(_COMPLETE, (blobs_of(packed), *values))
        written += sql.changes
    if written != len(acks):
        sql.run("ROLLBACK TO acks")
        sql.run("RELEASE acks")
        return False
    sql.run("RELEASE acks")
    for (_, queue, *_), packed in groups.items():
        step.counts[queue, _RUNNING] -= len(packed)
        step.counts[queue, _COMPLETED] += len(packed)
    step.flow.completed((ack.lease.job for ack in acks), {queue for _, queue, *_ in groups})
    for parent_id in step.needed([ack.lease.job.id for ack in acks]):
        step.unblock_children(parent_id)
    step.woke = True
    return True


def _settle_each(step: Step, outcomes: Sequence[Outcome]) -> list[Settled]:
    fences = _fences(step, (outcome.lease for outcome in outcomes))
    repeated = not _are_different(outcomes)
    answers: list[Settled] = []
    for outcome in outcomes:
        lease = outcome.lease
        place = lease.job.id, lease.job.queue
        fence = fences.get(place)
        if fence is None or not fence.is_held_by(lease):
            answers.append(_stale(step, fence, lease))
            continue
        _settle_one(step, fence.seq, outcome)
        answers.append(Settled.OK)
        if repeated:  # what else is said of this job meets what it has become
            del fences[place]
            fences |= _fences(step, [lease])
    return answers


def _stale(step: Step, fence: Fence | None, lease: Lease) -> Settled:
    if fence is not None and fence.settled_token == lease.token:
        return Settled.ALREADY
    _survived(step, fence, lease)
    return Settled.LOST


def _settle_one(step: Step, seq: int, outcome: Outcome) -> None:
    (row,) = load_seqs(step.sql, [seq])
    status = lifecycle.settle(row.status, outcome, now_ms=step.now_ms)
    ended = step.write(row, status)
    if isinstance(outcome, Ack):  # after the key is free, before a child can lose its last parent
        if outcome.then:
            crash.point("settle.then")
        for job in outcome.then:
            insert_one(step, job, bounded=False)
    if status.state in FINAL:
        step.ended(ended)


# ------------------------------------------------------------------------------ extend


class Beats(NamedTuple):
    """The arguments of one call of `extend`."""

    beats: Sequence[Beat]
    lease_ms: int


def extend(step: Step, call: Beats) -> list[Extended]:
    """Prolong leases from now; keep what the handlers want to keep."""
    fences = _fences(step, (beat.lease for beat in call.beats))
    paused = paused_queues(step)
    until_ms = step.mono_ms + call.lease_ms
    plain: list[int] = []
    answers: list[Extended] = []
    for beat in call.beats:
        fence = fences.get((beat.lease.job.id, beat.lease.job.queue))
        if fence is None or not fence.is_held_by(beat.lease):
            _survived(step, fence, beat.lease)
            answers.append(Extended(ExtendAnswer.LOST, 0))
            continue
        told = ExtendAnswer.PAUSED if fence.queue in paused else ExtendAnswer.OK
        if fence.has_extra or beat.progress is not None or beat.saved is not None:
            row = _keep(step, fence.seq, beat, until_ms)
            if row.status.cancel_requested:
                told = ExtendAnswer.CANCEL_REQUESTED
        else:
            plain.append(fence.seq)
        answers.append(Extended(told, until_ms))
    if plain:
        step.sql.run(_PROLONG, (numbers(plain), until_ms))
    crash.point("extend.written")
    return answers


def _keep(step: Step, seq: int, beat: Beat, until_ms: int) -> Stored:
    (row,) = load_seqs(step.sql, [seq])
    status = lifecycle.extended(
        row.status, lease_until_ms=until_ms, progress=beat.progress, saved=beat.saved
    )
    return step.put(row, status)


# ------------------------------------------------------------------------------ log lines

_LAST_EVENT = "SELECT n, total FROM events WHERE job_seq = ? ORDER BY n DESC LIMIT 1"
_TRIM_EVENTS = "DELETE FROM events WHERE job_seq = ? AND (n <= ? OR total <= ?)"
_MARK_EVENTS = "UPDATE jobs SET flags = flags | ? WHERE seq = ?"


def append(step: Step, entries: Sequence[Entry]) -> list[ExtendAnswer]:
    """Add lines to the streams of running jobs."""
    fences = _fences(step, (entry.lease for entry in entries))
    answers: list[ExtendAnswer] = []
    last: dict[int, tuple[int, int]] = {}
    rows: list[tuple[Any, ...]] = []
    for entry in entries:
        fence = fences.get((entry.lease.job.id, entry.lease.job.queue))
        if fence is None or not fence.is_held_by(entry.lease):
            _survived(step, fence, entry.lease)
            answers.append(ExtendAnswer.LOST)
            continue
        if fence.seq not in last:
            if not fence.flags & Flag.EVENTS:
                step.sql.run(_MARK_EVENTS, (Flag.EVENTS, fence.seq))
            last[fence.seq] = step.sql.first(_LAST_EVENT, (fence.seq,)) or (0, 0)
        n, total = last[fence.seq]
        last[fence.seq] = n + 1, total + len(entry.data.encode())
        rows.append((fence.seq, n + 1, entry.at_ms, entry.kind, last[fence.seq][1], entry.data))
        answers.append(ExtendAnswer.OK)
    step.sql.run_many("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)", rows)
    for seq, (n, total) in last.items():
        step.sql.run(_TRIM_EVENTS, (seq, n - EVENTS_KEPT, total - EVENTS_BYTES_KEPT))
    return answers
