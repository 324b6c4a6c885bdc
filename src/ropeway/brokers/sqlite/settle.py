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
from ropeway.brokers.sqlite.rows import CODE, Flag, Stored, load_seqs, numbers, texts
from ropeway.brokers.sqlite.step import Step
from ropeway.job import FINAL, Lease, State
from ropeway.outcome import Ack, Outcome, Settled

_RUNNING, _COMPLETED = CODE[State.RUNNING], CODE[State.COMPLETED]
_KEPT_MS = lifecycle.RETENTION_MS[State.COMPLETED]
# With one of these an ack changes more than the job's own row.
_NOT_PLAIN = Flag.UNIQUE | Flag.EDGES | Flag.ORDERED

# The fences of many jobs as one row; see `reserve._NEXT`.
_FENCES = """
SELECT json_group_array(json_array(
  j.id, j.queue, j.seq, j.state, j.token, j.settled_token, j.flags, j.extra IS NOT NULL))
FROM carray(?) AS wanted CROSS JOIN jobs AS j ON j.id = wanted.value
"""
# Both as `lifecycle._ack`. The first for acks with the same result: ?1 seqs, ?2 now, ?3 result,
# ?4 its codec, ?5 prune at. The second for different ones: ?1 JSON with (seq, start, length,
# codec, prune at) of each, ?2 now, ?3 all results; it takes twice as long.
_COMPLETE_ALIKE = """
UPDATE jobs SET state = 5, finished_at_ms = ?2, settled_token = token, result = ?3,
  result_codec = ?4, prune_at_ms = ?5
WHERE seq IN (SELECT value FROM carray(?1))
"""
_COMPLETE_EACH = """
UPDATE jobs SET state = 5, finished_at_ms = ?2, settled_token = token,
  result = CASE WHEN size < 0 THEN NULL ELSE substr(?3, start, size) END,
  result_codec = codec, prune_at_ms = prune
FROM (SELECT value->>0 AS place, value->>1 AS start, value->>2 AS size, value->>3 AS codec,
  value->>4 AS prune FROM json_each(?1))
WHERE jobs.seq = place
"""
_ALIKE_MIN = 8  # acks with the same result, on average, from which a statement each pays
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
    """Several callers' outcomes in one go. Plain acks are written by one statement."""
    fences = _fences(step, (outcome.lease for call in calls for outcome in call))
    settled: set[int] = set()
    plain: list[tuple[Fence, Ack]] = []
    answers: list[list[Settled]] = []
    for call in calls:
        mine: list[Settled] = []
        for outcome in call:
            lease = outcome.lease
            fence = fences.get((lease.job.id, lease.job.queue))
            if fence is None or not fence.is_held_by(lease):
                mine.append(_stale(step, fence, lease))
                continue
            if fence.seq in settled:
                mine.append(Settled.ALREADY)
                continue
            if isinstance(outcome, Ack) and _is_plain(fence, outcome):
                plain.append((fence, outcome))
            else:
                _settle_one(step, fence.seq, outcome)
            settled.add(fence.seq)
            mine.append(Settled.OK)
        answers.append(mine)
    if plain:
        _complete(step, plain)
    crash.point("settle.written")
    return answers


def _stale(step: Step, fence: Fence | None, lease: Lease) -> Settled:
    if fence is not None and fence.settled_token == lease.token:
        return Settled.ALREADY
    _survived(step, fence, lease)
    return Settled.LOST


def _is_plain(fence: Fence, ack: Ack) -> bool:
    return not (
        fence.flags & _NOT_PLAIN
        or fence.has_extra
        or ack.then
        or ack.lease.job.retention_ms == 0
        or ack.lease.job.queue != fence.queue
    )


def _complete(step: Step, acks: Sequence[tuple[Fence, Ack]]) -> None:
    alike: dict[tuple[bytes | None, str | None, int], list[int]] = {}
    for fence, ack in acks:
        kept_ms = ack.lease.job.retention_ms
        prune_at_ms = step.now_ms + (_KEPT_MS if kept_ms is None else kept_ms)
        codec = None if ack.result_codec == "json" else ack.result_codec
        alike.setdefault((ack.result, codec, prune_at_ms), []).append(fence.seq)
        step.counts[fence.queue, _RUNNING] -= 1
        step.counts[fence.queue, _COMPLETED] += 1
    if len(alike) * _ALIKE_MIN <= len(acks) or len(alike) == 1:
        for (result, codec, prune_at_ms), seqs in alike.items():
            step.sql.run(_COMPLETE_ALIKE, (numbers(seqs), step.now_ms, result, codec, prune_at_ms))
    else:
        _complete_each(step, alike)
    for parent_id in step.needed([ack.lease.job.id for _, ack in acks]):
        step.unblock_children(parent_id)
    step.woke = True


def _complete_each(
    step: Step, alike: dict[tuple[bytes | None, str | None, int], list[int]]
) -> None:
    rows: list[tuple[int, int, int, str | None, int]] = []
    blobs: list[bytes] = []
    start = 1
    for (result, codec, prune_at_ms), seqs in alike.items():
        size = -1 if result is None else len(result)
        rows += [(seq, start, size, codec, prune_at_ms) for seq in seqs]
        if result:
            blobs.append(result)
            start += size
    step.sql.run(_COMPLETE_EACH, (msgspec.json.encode(rows).decode(), step.now_ms, b"".join(blobs)))


def _settle_one(step: Step, seq: int, outcome: Outcome) -> None:
    (row,) = load_seqs(step.sql, [seq])
    status = lifecycle.settle(row.status, outcome, now_ms=step.now_ms)
    ended = step.write(row, status)
    if isinstance(outcome, Ack):  # after the key is free, before a child can lose its last parent
        if outcome.then:
            crash.point("settle.then")
        for job in outcome.then:
            insert_one(step, job)
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
