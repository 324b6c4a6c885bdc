"""Finding records in the memory broker."""

from collections.abc import Set as AbstractSet

from ropeway.broker import FIND_SCAN_MAX, Filter, Page, QueueInfo
from ropeway.brokers.memory.table import Table
from ropeway.job import JobRecord
from ropeway.matching import matches, parse_cursor


def find(table: Table, where: Filter, *, after: str | None, limit: int) -> Page:
    """One page of records, newest first; the cursor is the seq of the last one looked at."""
    records: list[JobRecord] = []
    seq: int | None = parse_cursor(after)
    for scanned, row in enumerate(table.newest_first(before_seq=seq)):
        if len(records) >= limit or scanned >= FIND_SCAN_MAX:
            return Page(records, str(seq))
        seq = row.status.seq
        if matches(row, where):
            records.append(row.record)
    return Page(records, None)


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
