"""Jobs as the scripts that store them read them: those of one queue and kind go together."""

from collections.abc import Iterable
from typing import Any

from ropeway.brokers.redis.records import write, write_traits
from ropeway.brokers.redis.wire.client import Word
from ropeway.job import Job


class Segments:
    """Jobs on their way: segments for the head of a script, and its arguments."""

    __slots__ = ("args", "head")

    def __init__(self, jobs: Iterable[Job]) -> None:
        self.head: list[list[Any]] = []
        self.args: list[Word] = []
        queue, kind, place = "", -2, -1
        head, args = self.head, self.args
        for job in jobs:
            words = write(job)
            if words is None:
                this = -1
                args += (job.id.encode(), *write_traits(job))
            else:
                this = job.priority
                args += (job.id.encode(), words)
            if this == kind and job.queue == queue:
                head[place][2] += 1
            else:
                queue, kind, place = job.queue, this, place + 1
                head.append([queue, kind, 1])
