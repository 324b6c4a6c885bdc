"""What time asks for: each part bounded, none of them scanning."""

from collections.abc import Sequence

from ropeway import crash, lifecycle
from ropeway.broker import CALLS_KEPT_MS, SIGNALS_KEPT_MS, WORKER_GONE_MS, Maintained
from ropeway.brokers.sqlite.reserve import bury_overdue, promote
from ropeway.brokers.sqlite.rows import CODE, load_seqs, numbers
from ropeway.brokers.sqlite.step import Step
from ropeway.job import State

_COMPLETED = CODE[State.COMPLETED]
_FAILED = (CODE[State.DEAD], CODE[State.CANCELLED])
_AGAIN_MS = 1_000  # when to look again at a record that an unfinished job still needs
_CLOCK_STEP_MS = 10_000  # the stored clock is moved on in steps of this

_EXPIRED = (
    "SELECT seq FROM jobs WHERE state = 3 AND lease_until_ms <= ? ORDER BY lease_until_ms LIMIT ?"
)
_OVERDUE = """
SELECT seq FROM jobs WHERE overdue_at_ms IS NOT NULL AND state IN (0, 1, 2, 4)
  AND overdue_at_ms <= ? ORDER BY overdue_at_ms LIMIT ?
"""
_PRUNABLE = """
SELECT seq, id, queue, state, flags FROM jobs
WHERE prune_at_ms IS NOT NULL AND prune_at_ms <= ? ORDER BY prune_at_ms LIMIT ?
"""
_SURPLUS = """
SELECT seq, id, queue, state, flags FROM jobs
WHERE queue = ? AND state = 5 AND state NOT IN (2, 3) ORDER BY seq LIMIT ?
"""
_CHILDREN = """
SELECT e.child_seq FROM edges e JOIN jobs j ON j.seq = e.child_seq
WHERE e.parent_id = ? AND e.child_seq > ? AND j.state = 0 ORDER BY e.child_seq LIMIT ?
"""
_CALLS_OVER = """
DELETE FROM calls WHERE (minute, id) IN (SELECT minute, id FROM calls WHERE minute < ? - 1 LIMIT ?)
"""
_KEYS_OVER = """
UPDATE jobs SET unique_key = NULL, unique_until_ms = NULL WHERE seq IN (
  SELECT seq FROM jobs WHERE unique_until_ms IS NOT NULL AND unique_until_ms <= ? LIMIT ?)
"""


def maintain(step: Step, limit: int) -> Maintained:
    """One round, in the order of the contract."""
    promoted = 0
    for queue in _queues_with(step, (State.SCHEDULED, State.RETRYABLE)):
        promoted += promote(step, queue, limit - promoted)
    crash.point("maintain.promoted")
    expired = take_back(step, _seqs(step, _EXPIRED, step.mono_ms, limit))
    crash.point("maintain.expired")
    overdue = _seqs(step, _OVERDUE, step.now_ms, limit)
    bury_overdue(step, overdue)
    cascaded = _cascade(step, limit)
    crash.point("maintain.cascaded")
    step.finish()  # the counts that pruning by number reads
    pruned = _prune(step, limit)
    _forget(step, limit)
    crash.point("maintain.pruned")
    return Maintained(
        promoted=promoted,
        expired=expired,
        buried=len(overdue),
        cascaded=cascaded,
        pruned=pruned,
        more=limit in (promoted, expired, len(overdue), cascaded, pruned),
        next_ms=_next_ms(step),
    )


def _seqs(step: Step, sql: str, until_ms: int, limit: int) -> list[int]:
    return [seq for (seq,) in step.sql.rows(sql, (until_ms, limit))]


def _queues_with(step: Step, states: Sequence[State]) -> list[str]:
    codes = numbers(CODE[state] for state in states)
    found = step.sql.rows(
        "SELECT DISTINCT queue FROM counters"
        " WHERE n > 0 AND state IN (SELECT value FROM carray(?)) ORDER BY queue",
        (codes,),
    )
    return [queue for (queue,) in found]


def take_back(step: Step, seqs: list[int]) -> int:
    """End the leases of running jobs whose holders are gone; how many."""
    rows = load_seqs(step.sql, seqs)
    for row in rows:
        status = lifecycle.lease_expired(row.job, row.status, now_ms=step.now_ms)
        step.put(row, status)
    return len(rows)


def _cascade(step: Step, limit: int) -> int:
    """Tell the children of failed parents, at most `limit`, going on where it was left."""
    done = 0
    for _ in range(limit):
        cascade = step.sql.first("SELECT parent_seq, parent_id, after_seq FROM cascades LIMIT 1")
        if cascade is None:
            break
        parent_seq, parent_id, after_seq = cascade
        parent = step.sql.first("SELECT state FROM jobs WHERE seq = ?", (parent_seq,))
        over = parent is not None and parent[0] not in _FAILED
        asked, seqs = limit - done, list[int]()
        if not over:  # an operator gave it another try meanwhile
            found = step.sql.rows(_CHILDREN, (parent_id, after_seq, asked))
            seqs = [seq for (seq,) in found]
        for row in load_seqs(step.sql, seqs):
            if parent_id not in row.status.waiting_on:
                continue
            status = lifecycle.parent_failed(row.job, row.status, parent_id, now_ms=step.now_ms)
            if status is not row.status:
                step.put(row, status)
                done += 1
        if len(seqs) == asked:
            step.sql.run(
                "UPDATE cascades SET after_seq = ? WHERE parent_seq = ?", (seqs[-1], parent_seq)
            )
        else:
            step.sql.run("DELETE FROM cascades WHERE parent_seq = ?", (parent_seq,))
        if done >= limit:
            break
    return done


# ------------------------------------------------------------------------------ pruning


def _prune(step: Step, limit: int) -> int:
    found = step.sql.rows(_PRUNABLE, (step.now_ms, limit))
    needed = step.needed([job_id for _, job_id, *_ in found])
    if needed:
        kept = [seq for seq, job_id, *_ in found if job_id in needed]
        step.sql.run(
            "UPDATE jobs SET prune_at_ms = ?2 WHERE seq IN (SELECT value FROM carray(?1))",
            (numbers(kept), step.now_ms + _AGAIN_MS),
        )
    pruned = remove_rows(step, [row for row in found if row[1] not in needed])
    return pruned + _prune_surplus(step, limit - pruned)


def _prune_surplus(step: Step, limit: int) -> int:
    """Keep at most `COMPLETED_KEPT` completed records a queue, dropping the oldest."""
    step.finish()
    crowded = step.sql.rows(
        "SELECT queue, n - ?1 FROM counters WHERE state = ?2 AND n > ?1",
        (lifecycle.COMPLETED_KEPT, _COMPLETED),
    )
    pruned = 0
    for queue, surplus in crowded:
        wanted = min(surplus, limit - pruned)
        found = step.sql.rows(_SURPLUS, (queue, wanted))
        needed = step.needed([job_id for _, job_id, *_ in found])
        pruned += remove_rows(step, [row for row in found if row[1] not in needed])
    return pruned


def remove_rows(step: Step, rows: Sequence[tuple[int, str, str, int, int]]) -> int:
    """Delete final records (seq, id, queue, state, flags) and what hangs on them; how many."""
    if not rows:
        return 0
    flags = 0
    for _, _, queue, state, row_flags in rows:
        step.counts[queue, state] -= 1
        flags |= row_flags
    seqs = [row[0] for row in rows]
    step.sql.run("DELETE FROM jobs WHERE seq IN (SELECT value FROM carray(?))", (numbers(seqs),))
    step.forget(seqs, flags)
    return len(rows)


def _forget(step: Step, limit: int) -> None:
    """Drop what is kept for a while only: calls, signals, workers, waiters, key windows."""
    now_ms = step.now_ms
    for table, column, until_ms in (
        ("waiters", "until_ms", now_ms),
        ("signals", "at_ms", now_ms - SIGNALS_KEPT_MS),
        ("workers", "seen_at_ms", now_ms - WORKER_GONE_MS),
    ):
        key = "id" if table == "workers" else "rowid"
        step.sql.run(
            f"DELETE FROM {table} WHERE {key} IN"
            f" (SELECT {key} FROM {table} WHERE {column} <= ? LIMIT ?)",
            (until_ms, limit),
        )
    step.sql.run(_CALLS_OVER, (now_ms // CALLS_KEPT_MS, limit))
    step.sql.run(_KEYS_OVER, (now_ms, limit))
    step.flow.sweep()
    step.sql.run("UPDATE meta SET clock_ms = ?1 WHERE clock_ms < ?1 - ?2", (now_ms, _CLOCK_STEP_MS))


def _next_ms(step: Step) -> int | None:
    """Milliseconds until the next due time or lease end that is known now."""
    waits: list[int] = []
    for queue in _queues_with(step, (State.SCHEDULED, State.RETRYABLE)):
        due = step.sql.first(
            "SELECT min(due_ms) FROM jobs WHERE queue = ? AND state IN (1, 4)", (queue,)
        )
        if due and due[0] is not None:
            waits.append(due[0] - step.now_ms)
    lease = step.sql.first("SELECT min(lease_until_ms) FROM jobs WHERE state = 3")
    if lease and lease[0] is not None:
        waits.append(lease[0] - step.mono_ms)
    return max(0, min(waits)) if waits else None
