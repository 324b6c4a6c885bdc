"""Fair queues in the memory broker."""

from collections.abc import Sequence

from ropeway.brokers.memory.row import Row
from ropeway.flow.fair import Turns
from ropeway.job import Job, Status

_TENANTS_MIN = 1_000  # so many are kept before those that the queue has passed are dropped


class AllTurns:
    """The turns of every queue and priority that has seen a job with a fair key."""

    def __init__(self) -> None:
        self._turns: dict[tuple[str, int], Turns] = {}
        self._kept: dict[tuple[str, int], int] = {}

    def __bool__(self) -> bool:
        """Whether any queue is or was fair."""
        return bool(self._turns)

    def join(self, job: Job, status: Status) -> None:
        """Give a job that becomes available its rank; those that gather take no turns."""
        place = job.queue, job.priority
        turns = self._turns.get(place) if job.group_key is None else None
        if turns is None:
            if job.fair_key is None:
                status.rank = 0.0
                return
            turns = self._turns[place] = Turns()
        status.rank = turns.join(job.fair_key, job.fair_weight)
        if len(turns.last) > 2 * self._kept.get(place, 0) + _TENANTS_MIN:
            turns.forget_passed()
            self._kept[place] = len(turns.last)

    def leave(self, job: Job) -> None:
        """An available job is gone without being run."""
        turns = self._turns.get((job.queue, job.priority))
        if turns is not None and job.group_key is None:
            turns.leave(job.fair_key, job.fair_weight)

    def served(self, queue: str, rows: Sequence[Row]) -> None:
        """These were handed out."""
        if not self._turns:
            return
        for row in rows:
            turns = self._turns.get((queue, row.job.priority))
            if turns is not None:
                turns.serve(row.status.rank)
