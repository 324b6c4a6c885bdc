"""Fair queues: tenants take turns, by a number that the queue is sorted by.

Start-time fair queueing (Goyal, Vin and Cheng, 1996): every key has a virtual time of its own,
which each of its jobs moves on by 1 / weight; a key that was idle starts at the time that the
queue has reached. A tenant with many waiting jobs therefore delays another one's single job by at
most one job per active tenant of equal weight.
"""

from typing import Final

from ropeway.job import Job

KEYLESS: Final = ""
"""The key of jobs without one in a queue that has been fair: together, one more tenant."""


def turn_of(job: Job) -> tuple[str, int, str | None, int]:
    """All that its place in the sequence of turns follows from."""
    return job.queue, job.priority, job.fair_key, job.fair_weight


def place(reached: float, last: float, weight: int) -> float:
    """The rank of a tenant's next job.

    Args:
        reached: the highest rank that was handed out of this queue and priority.
        last: the rank of the tenant's last job; 0 when it is not known.
        weight: how many turns the tenant has where others have one.
    """
    return max(reached, last) + 1 / weight


def step_back(last: float, weight: int) -> float:
    """The tenant's last rank after a job of it left without being run."""
    return last - 1 / weight


class Turns:
    """Who is where in one queue and priority. A tenant that the queue has passed is forgotten."""

    __slots__ = ("changed", "last", "reached")

    def __init__(self, reached: float = 0.0, last: dict[str, float] | None = None) -> None:
        self.reached: float = reached
        self.last: dict[str, float] = {} if last is None else last
        self.changed: set[str] = set()

    def join(self, key: str | None, weight: int) -> float:
        """The rank of a job that becomes available."""
        tenant = key or KEYLESS
        rank = place(self.reached, self.last.get(tenant, 0.0), weight)
        self.last[tenant] = rank
        self.changed.add(tenant)
        return rank

    def leave(self, key: str | None, weight: int) -> None:
        """A waiting job of the tenant is gone without being run."""
        tenant = key or KEYLESS
        if tenant in self.last:
            self.last[tenant] = step_back(self.last[tenant], weight)
            self.changed.add(tenant)

    def serve(self, rank: float) -> None:
        """A job of this rank was handed out."""
        self.reached = max(self.reached, rank)

    def forget_passed(self) -> None:
        """Drop the tenants that have nothing waiting: they start again at what was reached."""
        self.last = {key: rank for key, rank in self.last.items() if rank > self.reached}
