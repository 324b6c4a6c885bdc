"""Jobs as the scripts that store them read them: those of one queue and kind go together."""

from collections.abc import Iterable
from typing import Any

from ropeway.brokers.redis.records import write
from ropeway.brokers.redis.wire.client import Word
from ropeway.job import Job


class Segments:
    """Jobs on their way: segments for the head of a script, and its arguments."""

    __slots__ = ("args", "head")

    def __init__(self, jobs: Iterable[Job]) -> None:
        self.head: list[list[Any]] = []
        self.args: list[Word] = []
        kind: tuple[str, int, bool] | None = None
        for job in jobs:
            traits, task, rest = write(job)
            if traits is None:
                this = job.queue, job.priority, bool(rest)
                self.args += (job.id.encode(), task, rest) if rest else (job.id.encode(), task)
            else:
                this = job.queue, -1, True
                self.args += (job.id.encode(), traits, task, rest)
            if this == kind:
                self.head[-1][2] += 1
            else:
                kind = this
                self.head.append([job.queue, this[1], 1, this[2]])
