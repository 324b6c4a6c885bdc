"""Bounded queues in the memory broker."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from heapq import heapify, heappop, heappush

from ropeway.brokers.memory.row import Row
from ropeway.flow.pace import Pace
from ropeway.job import WAITING


class Bounds:
    """What is known of queues with a bound: how fast they are served, what may be dropped."""

    def __init__(self) -> None:
        self.paces: defaultdict[str, Pace] = defaultdict(Pace)
        self._oldest: dict[str, list[tuple[int, int, Row]]] = {}

    def added(self, row: Row) -> None:
        """A row is new."""
        heap = self._oldest.get(row.job.queue)
        if heap is not None:
            heappush(heap, _entry(row))

    def to_drop(
        self, queue: str, rows: Iterable[Row], is_needed: Callable[[Row], bool]
    ) -> Row | None:
        """The row to drop: of the lowest priority the oldest that nobody started or waits for.

        `rows` are all there are, looked through the first time.
        """
        heap = self._oldest.get(queue)
        if heap is None:
            heap = self._oldest[queue] = [_entry(row) for row in rows if row.job.queue == queue]
            heapify(heap)
        kept: list[tuple[int, int, Row]] = []
        found = None
        while heap and found is None:
            entry = heappop(heap)
            row = entry[2]
            if not _may_be_dropped(row, queue):
                continue
            if row.job.priority != entry[0]:
                heappush(heap, (row.job.priority, entry[1], row))
            elif row.job.unblocks or is_needed(row):
                kept.append(entry)
            else:
                found = row
        for entry in kept:
            heappush(heap, entry)
        return found


def _entry(row: Row) -> tuple[int, int, Row]:
    return row.job.priority, row.status.seq, row


def _may_be_dropped(row: Row, queue: str) -> bool:
    return (
        not row.removed
        and row.job.queue == queue
        and row.status.state in WAITING
        and row.status.token == 0
    )
