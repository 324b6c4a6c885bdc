"""Rows in the order in which something is to happen to them.

`Agenda` orders rows one by one; `Calendar` only keeps together those of the same millisecond, which
costs a tenth of that where rows come in batches.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

from ropeway.brokers.memory.row import Row

K = TypeVar("K", bound=tuple[float, ...])


class Agenda(Generic[K]):
    """A priority queue that costs next to nothing while rows come in the order of their keys.

    Those wait in a deque; only one that comes before an earlier one goes to a heap. Keys are
    unique among the rows that exist, so rows are never compared.
    """

    __slots__ = ("_early", "_in_order")

    def __init__(self) -> None:
        self._in_order: deque[tuple[K, Row]] = deque()
        self._early: list[tuple[K, Row]] = []

    def __iter__(self) -> Iterator[tuple[K, Row]]:
        """All entries, in no order."""
        yield from self._in_order
        yield from self._early

    def push(self, key: K, row: Row) -> None:
        """Add an entry."""
        in_order = self._in_order
        if not in_order or key >= in_order[-1][0]:
            in_order.append((key, row))
        else:
            heappush(self._early, (key, row))

    def first(self) -> tuple[K, Row] | None:
        """The entry with the least key, left in its place."""
        early, in_order = self._early, self._in_order
        if early and (not in_order or early[0][0] < in_order[0][0]):
            return early[0]
        return in_order[0] if in_order else None

    def pop(self) -> tuple[K, Row] | None:
        """Take the first entry out."""
        early, in_order = self._early, self._in_order
        if early and (not in_order or early[0][0] < in_order[0][0]):
            return heappop(early)
        return in_order.popleft() if in_order else None

    def keep(self, wanted: Callable[[Row], bool]) -> None:
        """Drop the entries of all other rows."""
        self._in_order = deque(entry for entry in self._in_order if wanted(entry[1]))
        self._early = [entry for entry in self._early if wanted(entry[1])]
        heapify(self._early)


class Calendar:
    """Rows by the millisecond at which their lease ends, or at which they may go.

    Nothing is taken out when a row changes: whoever looks asks whether an entry still counts.
    """

    __slots__ = ("_rows", "_times")

    def __init__(self) -> None:
        self._rows: dict[int, list[Row]] = {}
        self._times: list[int] = []  # a heap of the keys of `_rows`

    def __iter__(self) -> Iterator[tuple[int, Row]]:
        """All entries, in no order."""
        for at_ms, rows in self._rows.items():
            for row in rows:
                yield at_ms, row

    def add(self, at_ms: int, rows: Iterable[Row]) -> None:
        """Enter rows at a time."""
        known = self._rows.get(at_ms)
        if known is None:
            self._rows[at_ms] = list(rows)
            heappush(self._times, at_ms)
        else:
            known.extend(rows)

    def first_ms(self, counts: Callable[[int, Row], bool]) -> int | None:
        """The earliest time with an entry that counts. Drops what comes before it."""
        while self._times:
            at_ms = self._times[0]
            if any(counts(at_ms, row) for row in self._rows[at_ms]):
                return at_ms
            del self._rows[heappop(self._times)]
        return None

    def pop(self, until_ms: int) -> tuple[int, Row] | None:
        """Take out an entry of the earliest time, if that is not after `until_ms`."""
        while self._times and self._times[0] <= until_ms:
            at_ms = self._times[0]
            if rows := self._rows[at_ms]:
                return at_ms, rows.pop()
            del self._rows[heappop(self._times)]
        return None

    def keep(self, wanted: Callable[[Row], bool]) -> None:
        """Drop the entries of all other rows."""
        for rows in self._rows.values():
            rows[:] = filter(wanted, rows)
