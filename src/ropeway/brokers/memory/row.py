"""One job as the memory broker keeps it."""

import asyncio
from collections import deque

from ropeway.broker import JobEvent
from ropeway.job import Job, JobRecord, Status

ReadyKey = tuple[int, float, int, int]  # -priority, rank, due_ms, seq: the order of reserve


class Row:
    """One job. `job` and `status` are replaced, never changed in place."""

    __slots__ = (
        "events", "events_bytes", "in_line", "job", "parents", "ready_key", "status", "waiters",
    )  # fmt: skip

    def __init__(self, job: Job, status: Status) -> None:
        self.job = job
        self.status = status
        self.ready_key: ReadyKey | None = None  # of its entry in the ready heap
        self.in_line = False  # whether the heap of its ordering key has it
        self.parents: set[str] = set()  # ids under which it stands in `Table.children`
        self.waiters: list[asyncio.Future[JobRecord | None]] = []
        self.events: deque[JobEvent] = deque()
        self.events_bytes = 0

    @property
    def record(self) -> JobRecord:
        return JobRecord(self.job, self.status)
