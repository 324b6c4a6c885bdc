"""One held lease (`Run`) and the reasons for which a run has to stop.

A `Run` is what the worker's roles share about a job: the fetcher makes it, the runner starts it,
the beater prolongs it, the settler lets it go. It is also the `Reporter` of its handler.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Final, Literal, Protocol

import msgspec

from ropeway.definition import Definition
from ropeway.errors import SoftTimeout, Stop
from ropeway.job import JobRef, Lease, Progress

LINES_KEPT: Final = 1_000
"""Lines of one job that wait for the next beat; older ones are dropped, as in the store."""


class HardTimeout(Stop, TimeoutError):
    """The run has used up its time: `limit` says which of the two, in the record too."""

    limit: Literal["timeout", "deadline"] = "timeout"

    def __init__(self, message: str, *, limit: Literal["timeout", "deadline"]) -> None:
        super().__init__(message)
        self.limit = limit


class CancelRequested(Stop):
    """Somebody cancelled the job while it ran."""


class LeaseLost(Stop):
    """Another worker may run the job by now; whatever this run does counts for nothing."""


class LeaseUnsure(Stop):
    """The broker could not be reached in time to prolong the lease, so it may end any moment."""


class ShuttingDown(Stop):
    """The worker stops and its period of grace is over; the job runs again elsewhere."""


class SaveQueue(Protocol):
    """Where `Context.save` goes; see `beater.py`."""

    def save(self, run: "Run", data: bytes) -> Future[None]:
        """Store the cursor; the future is done when it is durable, cancelled when it cannot be."""
        ...


class Run(msgspec.Struct, eq=False):
    """A lease in this worker's hands, from reserve to settle.

    Attributes:
        fence_at_ms: when the lease ends at the latest, by this host's monotonic clock, counted
            from the start of the request that got or prolonged it.
        soft_at_ms, hard_at_ms: the limits of the run on the same clock; None without one.
        reason: why the run must stop, once it must.
        slot: the task that runs the handler on the loop, while it does.
        interrupt: stops a handler that runs elsewhere, while one does.
        began_ms, ended_ms: when its handler did, on the same clock; noted for hooks only.

    """

    lease: Lease
    _saves: SaveQueue
    reserved_at_ms: int
    fence_at_ms: int
    definition: Definition | None = None
    soft_at_ms: int | None = None
    hard_at_ms: int | None = None
    hard_limit: Literal["timeout", "deadline"] = "timeout"
    reason: Stop | None = None
    slot: asyncio.Task[None] | None = None
    interrupt: Callable[[Stop], None] | None = None
    pending_progress: Progress | None = None
    pending_save: tuple[bytes, Future[None]] | None = None
    lines: deque[tuple[str, str]] | None = None
    began_ms: int | None = None
    ended_ms: int | None = None

    @property
    def parts(self) -> Sequence["Run"]:
        """The leases that end with this run: a batch has many."""
        return (self,)

    def __repr__(self) -> str:
        return f"<Run {self.lease.job.task} {self.lease.job.id} attempt {self.lease.attempt}>"

    @property
    def label(self) -> dict[str, str]:
        """What log records about this run carry."""
        return {"job_id": self.lease.job.id, "task": self.lease.job.task}

    @property
    def has_words(self) -> bool:
        """Whether there is something to report before the outcome."""
        return self.pending_progress is not None or bool(self.lines)

    @property
    def is_stopping(self) -> bool:
        """Whether the run was told to end (a soft limit only asks)."""
        return self.reason is not None and not isinstance(self.reason, SoftTimeout)

    def is_named(self, ref: JobRef) -> bool:
        """Whether `ref` means this job."""
        job = self.lease.job
        return ref.id == job.id and ref.queue in (None, job.queue)

    def stop(self, reason: Stop) -> None:
        """Make the run end for `reason`; the first reason stays, except a soft limit's.

        On the loop, the handler is cancelled; elsewhere it depends on where it runs.
        """
        if not self.is_stopping:
            self.reason = reason
        if isinstance(reason, SoftTimeout):
            return
        if self.slot is not None:
            self.slot.cancel()
        elif self.interrupt is not None:
            self.interrupt(reason)

    def stop_reason(self) -> Stop | None:
        """Why the run must stop, or None: the worker's side of `Context.should_stop`."""
        return self.reason

    # -- Reporter: called by the handler, from any thread ------------------------------------

    def progress(self, lease: Lease, progress: Progress) -> None:  # noqa: ARG002
        """Keep the newest progress for the next beat."""
        self.pending_progress = progress

    def line(self, lease: Lease, kind: str, data: str) -> None:  # noqa: ARG002
        """Keep a line for the next beat."""
        if self.lines is None:
            self.lines = deque(maxlen=LINES_KEPT)
        self.lines.append((kind, data))

    def save(self, lease: Lease, data: bytes) -> "asyncio.Future[None] | None":  # noqa: ARG002
        """Store the cursor now: a future on the loop, blocking in any other thread."""
        if self.definition is None or self.definition.kind == "async":
            return asyncio.wrap_future(self._saves.save(self, data))
        self.save_blocking(data)
        return None

    def save_blocking(self, data: bytes) -> None:
        """Store the cursor from a thread. Raises `LeaseLost` when the lease is gone."""
        done = self._saves.save(self, data)
        waiter = threading.Event()
        done.add_done_callback(lambda _done: waiter.set())
        waiter.wait()
        if done.cancelled():
            raise self.reason or LeaseLost("the lease was lost before the cursor was saved")
        done.result()


def in_order(runs: set[Run]) -> list[Run]:
    """The runs, the longest held first: a set of them has another order in each process."""
    return sorted(runs.copy(), key=lambda run: (run.lease.token, run.lease.job.id))
