"""Finding records in the memory broker."""

from collections.abc import Set as AbstractSet

from ropeway.broker import FIND_SCAN_MAX, Filter, Page, QueueInfo
from ropeway.brokers.memory.row import Row
from ropeway.brokers.memory.table import Table
from ropeway.errors import ConfigError
from ropeway.job import JobRecord, Status


def find(table: Table, where: Filter, *, after: str | None, limit: int) -> Page:
    """One page of records, newest first; the cursor is the seq of the last one looked at."""
    records: list[JobRecord] = []
    seq: int | None = _parse(after)
    for scanned, row in enumerate(table.newest_first(before_seq=seq)):
        if len(records) >= limit or scanned >= FIND_SCAN_MAX:
            return Page(records, str(seq))
        seq = row.status.seq
        if matches(row, where):
            records.append(row.record)
    return Page(records, None)


def _parse(cursor: str | None) -> int | None:
    if cursor is None:
        return None
    if not cursor.isdecimal():
        raise ConfigError(f"cursor {cursor!r} is not one that find() returned")
    return int(cursor)


def matches(row: Row, where: Filter) -> bool:
    """Whether every given field of the filter matches."""
    job, status = row.job, row.status
    return (
        (where.states is None or status.state in where.states)
        and (where.queue is None or job.queue == where.queue)
        and (where.task is None or job.task == where.task)
        and (where.tag is None or where.tag in job.tags)
        and (where.worker is None or status.worker == where.worker)
        and (
            where.unique_key is None
            or (job.unique is not None and job.unique.key == where.unique_key)
        )
        and _within(job.created_at_ms, where.created_from_ms, where.created_before_ms)
        and _within(status.finished_at_ms, where.finished_from_ms, where.finished_before_ms)
        and (where.error is None or where.error in _failure_text(status))
    )


def _within(at_ms: int | None, from_ms: int | None, before_ms: int | None) -> bool:
    if from_ms is None and before_ms is None:
        return True
    if at_ms is None:
        return False
    return (from_ms is None or at_ms >= from_ms) and (before_ms is None or at_ms < before_ms)


def _failure_text(status: Status) -> str:
    """What a filter's `error` is looked for in."""
    last = status.errors[-1] if status.errors else None
    words = (last.type, last.message) if last is not None else ()
    return "\n".join((*words, status.reason or ""))


def queues(table: Table, paused: AbstractSet[str]) -> list[QueueInfo]:
    """Every queue that has records or is paused, by name."""
    counts = table.counts
    infos: list[QueueInfo] = []
    for name in sorted({name for name in counts if any(counts[name].values())} | paused):
        due = [row.status.due_ms for row in table.in_order(name)]
        infos.append(
            QueueInfo(
                name=name,
                paused=name in paused,
                counts={state: n for state, n in counts[name].items() if n},
                oldest_due_ms=min(due, default=None),
            )
        )
    return infos
