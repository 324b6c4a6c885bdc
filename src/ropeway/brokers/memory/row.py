"""One job as the memory broker keeps it."""

import asyncio
from collections import deque

import msgspec

from ropeway import lifecycle
from ropeway.broker import JobEvent
from ropeway.job import Job, JobRecord, Status

ReadyKey = tuple[int, float, int, int]  # -priority, rank, due_ms, seq: the order of reserve


class Row(msgspec.Struct, eq=False, gc=False):
    """One job. `job` is replaced, never changed; `status` is this row's own and never handed out.

    What most rows never need is None until then. Without `gc` the collector does not walk through
    every waiting job; a row refers to nothing that refers to it.
    """

    job: Job
    status: Status
    ready_key: ReadyKey | None = None  # of its entry among those that are ready
    in_line: bool = False  # whether the heap of its ordering key has it
    removed: bool = False
    parents: set[str] | None = None  # ids under which it stands in `Table.children`
    waiters: list[asyncio.Future[JobRecord | None]] | None = None
    events: deque[JobEvent] | None = None
    events_bytes: int = 0

    @property
    def record(self) -> JobRecord:
        """The job as it is now: later changes do not show in it."""
        return JobRecord(self.job, lifecycle.copied(self.status))
