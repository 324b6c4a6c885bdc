"""Shares of several queues: smooth weighted round robin over batches.

The algorithm is nginx's smooth weighted round robin: each turn every candidate gains its weight,
the richest is picked and pays the sum of the weights. Credits live as long as the object, so that
shares hold over many small calls. Work-conserving: a queue that has nothing left drops out and
its share goes to the others.
"""

from collections.abc import Mapping

from ropeway.errors import ConfigError


class Shares:
    """Deals out places among queues by weight."""

    def __init__(self, weights: Mapping[str, int]) -> None:
        for queue, weight in weights.items():
            if weight < 1:
                raise ConfigError(f"queue {queue!r}: weight {weight} is too small; give 1 or more")
        self._weights = dict(weights)
        self._credits = dict.fromkeys(weights, 0)
        self._first: str | None = None

    def favour(self, queue: str | None) -> None:
        """Deal to this queue first from now on; None: in the order given.

        Who is dealt a place and may take it only with empty hands would else wait for ever behind
        a queue that always has something.
        """
        self._first = queue

    def credits(self) -> dict[str, int]:
        """Whose turn it is, to be given to `restore`."""
        return dict(self._credits)

    def restore(self, turns: dict[str, int]) -> None:
        """Take back what was dealt since then: nobody had a job, so nobody pays for a turn."""
        self._credits = turns

    def deal(self, places: int, *, exhausted: frozenset[str] = frozenset()) -> dict[str, int]:
        """How many of `places` each queue gets, leaving out the exhausted ones."""
        weights = {q: w for q, w in self._weights.items() if q not in exhausted}
        order = sorted(weights, key=lambda queue: queue != self._first)
        dealt = dict.fromkeys(order, 0)
        if not weights:
            return dealt
        total = sum(weights.values())
        rounds, rest = divmod(places, total)
        for queue, weight in weights.items():
            dealt[queue] = rounds * weight
        for _ in range(rest):
            for queue, weight in weights.items():
                self._credits[queue] += weight
            richest = max(weights, key=self._credits.__getitem__)
            self._credits[richest] -= total
            dealt[richest] += 1
        return dealt
