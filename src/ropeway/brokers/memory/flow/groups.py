"""Batches in the memory broker: who gathers with whom, and when they are ready."""

from collections.abc import Iterable

from ropeway.brokers.memory.flow.rules import Rules
from ropeway.brokers.memory.row import Row, ready_key
from ropeway.job import Job

Place = tuple[str, str, str]  # queue, task, group key


class Groups:
    """The available jobs with a group key, by queue, task and key."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._rows: dict[Place, dict[Row, None]] = {}

    def join(self, row: Row) -> None:
        """The row became available."""
        self._rows.setdefault(_place(row.job), {})[row] = None

    def leave(self, row: Row, words: Job) -> None:
        """The row, whose job had these words, is not available any more, or not here."""
        place = _place(words)
        rows = self._rows.get(place)
        if rows is not None:
            rows.pop(row, None)
            if not rows:
                del self._rows[place]

    def ready(self, queues: Iterable[str], now_ms: int) -> list[Row]:
        """The batch that has been ready for longest, in the order of its queue."""
        named = frozenset(queues)
        due = [(self._ready_ms(place), place) for place in self._rows if place[0] in named]
        at_ms, place = min(due, default=(now_ms + 1, ("", "", "")))
        if at_ms > now_ms:
            return []
        rule = self._rules.group(place[1])
        rows = sorted(self._rows[place], key=ready_key)
        return rows[: 1 if rule is None else rule.size]

    def next_ms(self, queues: Iterable[str]) -> int | None:
        """When the next batch of these queues is ready if no job comes."""
        named = frozenset(queues)
        return min((self._ready_ms(p) for p in self._rows if p[0] in named), default=None)

    def _ready_ms(self, place: Place) -> int:
        """By its rule; a job has been here since it was due."""
        rows, rule = self._rows[place], self._rules.group(place[1])
        due = [row.status.due_ms for row in rows]
        if rule is None or len(rows) >= rule.size:
            return min(due)
        return min(min(due) + rule.within_ms, max(due) + rule.grace_ms)


def _place(job: Job) -> Place:
    return job.queue, job.task, job.group_key or ""
