"""Fair queues: tenants take turns, by a number that the queue is sorted by.

Start-time fair queueing (Goyal, Vin and Cheng, 1996): every key has a virtual time of its own,
which each of its jobs moves on by 1 / weight; a key that was idle starts at the time that the
queue has reached. A tenant with many waiting jobs therefore delays another one's single job by at
most one job per active tenant of equal weight.
"""

from typing import Final

KEYLESS: Final = ""
"""The key of jobs without one in a queue that has been fair: together, one more tenant."""


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
