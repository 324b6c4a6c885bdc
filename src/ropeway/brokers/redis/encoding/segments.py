"""Jobs as the scripts that store them read them: those of one queue and kind go together."""

from collections.abc import Iterable
from typing import Any

from ropeway.brokers.redis.encoding.records import write, write_traits
from ropeway.brokers.redis.wire.client import Word
from ropeway.job import Job

Kind = tuple[str, int, str, int]
"""A queue; a priority, or -1 for jobs with other traits; `dl` a delay, `sa` a time, "" at once."""


class Segments:
    """Jobs on their way: segments for the head of a script, and its arguments."""

    __slots__ = ("args", "head")

    def __init__(self, jobs: Iterable[Job]) -> None:
        self.head: list[list[Any]] = []
        self.args: list[Word] = []
        kind: Kind | None = None
        args = self.args
        for job in jobs:
            words = write(job)
            if words is None:
                this: Kind = job.queue, -1, "", 0
                args += (job.id.encode(), *write_traits(job))
            else:
                if job.delay_ms:
                    this = job.queue, job.priority, "dl", job.delay_ms
                elif job.scheduled_at_ms is not None:
                    this = job.queue, job.priority, "sa", job.scheduled_at_ms
                else:
                    this = job.queue, job.priority, "", 0
                args += (job.id.encode(), words)
            if this == kind:
                self.head[-1][2] += 1
            else:
                kind = this
                queue, priority, *time = this
                self.head.append([queue, priority, 1, *(time if time[0] else ())])
