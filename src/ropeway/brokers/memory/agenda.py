"""Rows in the order of a key: when they are due, when their lease ends, when they may go."""

from collections import deque
from collections.abc import Callable, Iterator
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

    def pop(self) -> tuple[K, Row]:
        """Take the first entry out. IndexError when there is none."""
        early, in_order = self._early, self._in_order
        if early and (not in_order or early[0][0] < in_order[0][0]):
            return heappop(early)
        return in_order.popleft()

    def keep(self, wanted: Callable[[Row], bool]) -> None:
        """Drop the entries of all other rows."""
        self._in_order = deque(entry for entry in self._in_order if wanted(entry[1]))
        self._early = [entry for entry in self._early if wanted(entry[1])]
        heapify(self._early)
