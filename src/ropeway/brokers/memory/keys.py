"""Unique and ordering keys in the memory broker.

Of one unique key, one job is the holder. Of one ordering key, only the unfinished job with the
lowest seq may run; the others are blocked on it.
"""

from collections.abc import Callable
from heapq import heapify, heappop, heappush

from ropeway import lifecycle
from ropeway.brokers.memory.row import Row
from ropeway.job import FINAL, State, UniqueKey


class Holders:
    """Who holds which unique key, by (queue, key). A holder goes when somebody looks."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], Row] = {}

    def find(self, queue: str, key: str, *, now_ms: int) -> Row | None:
        """The job that holds a key now."""
        row = self._rows.get((queue, key))
        if row is None or lifecycle.holds_key(row.job, row.status.state, now_ms=now_ms):
            return row
        del self._rows[queue, key]
        return None

    def update(self, row: Row, unique: UniqueKey, now_ms: int) -> None:
        """The row was added, or its status changed."""
        if not lifecycle.holds_key(row.job, row.status.state, now_ms=now_ms):
            self.leave(row)
        elif self.find(row.job.queue, unique.key, now_ms=now_ms) is None:
            self._rows[row.job.queue, unique.key] = row

    def leave(self, row: Row) -> None:
        """The row is removed, or gets another key."""
        unique = row.job.unique
        if unique is not None and self._rows.get((row.job.queue, unique.key)) is row:
            del self._rows[row.job.queue, unique.key]


class _Line:
    """The unfinished jobs of one key, by seq; `head` is the one that may run."""

    __slots__ = ("head", "heap")

    def __init__(self) -> None:
        self.heap: list[tuple[int, Row]] = []
        self.head: Row | None = None


class Lines:
    """All lines, by (queue, ordering key). `on_ready` is told of a head that may run now."""

    def __init__(self, on_ready: Callable[[Row], None]) -> None:
        self._lines: dict[tuple[str, str], _Line] = {}
        self._on_ready = on_ready

    def update(self, row: Row) -> None:
        """The row was added, or its status changed."""
        place = _place(row)
        line = self._lines.setdefault(place, _Line())
        if row.status.state in FINAL:
            _set_blocked(row, None)
        else:
            if not row.in_line:
                row.in_line = True
                heappush(line.heap, (row.status.seq, row))
            if line.head not in (None, row):
                _set_blocked(row, f"ordering:{place[1]}")
        self._choose_head(place, line)

    def leave(self, row: Row) -> None:
        """The row is removed or goes to another queue."""
        if row.job.ordering_key is None:
            return
        place = _place(row)
        row.in_line = False
        line = self._lines.get(place)
        if line is not None:
            line.heap = [entry for entry in line.heap if entry[1] is not row]
            heapify(line.heap)
            if line.head is row:
                line.head = None
            self._choose_head(place, line)
        _set_blocked(row, None)

    def _choose_head(self, place: tuple[str, str], line: _Line) -> None:
        old = line.head
        if old is not None and old.status.state is State.RUNNING:
            return
        while line.heap and line.heap[0][1].status.state in FINAL:
            heappop(line.heap)[1].in_line = False
        line.head = line.heap[0][1] if line.heap else None
        if line.head is None:
            del self._lines[place]
            return
        if old is not None and old is not line.head and old.status.state not in FINAL:
            _set_blocked(old, f"ordering:{place[1]}")
        _set_blocked(line.head, None)
        if line.head.status.state is State.AVAILABLE and line.head is not old:
            self._on_ready(line.head)


def _place(row: Row) -> tuple[str, str]:
    return row.job.queue, row.job.ordering_key or ""


def _set_blocked(row: Row, on: str | None) -> None:
    if row.parked is None and row.status.blocked_on != on:  # else it says what it is parked under
        row.status = lifecycle.blocked(row.status, on)
