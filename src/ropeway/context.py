"""What a running handler can know and say: `Context`, and `current_job()`.

The context talks to its worker through a `Reporter`, so that handlers run the same on the loop,
in a thread, in a process of their own and in a plain call.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, MutableMapping, Sequence
from contextvars import ContextVar
from typing import Any, Generic, Protocol, TypeVar, cast

import msgspec

from ropeway import codec
from ropeway.errors import ConfigError
from ropeway.job import Failure, Job, Lease, Progress

S = TypeVar("S")
T = TypeVar("T")

_log = logging.getLogger("ropeway.job")


class Reporter(Protocol):
    """How a running job reaches its worker. Every method may be called from any thread."""

    def stop_reason(self) -> BaseException | None:
        """Why the run should stop; None: it should not."""
        ...

    def progress(self, lease: Lease, progress: Progress) -> None:
        """Keep the newest progress; it travels with the next beat of the lease."""
        ...

    def save(self, lease: Lease, data: bytes) -> "asyncio.Future[None] | None":
        """Store the handler's cursor; the future is done when it is durable.

        Called from a thread, it blocks until then and returns None.
        """
        ...

    def line(self, lease: Lease, kind: str, data: str) -> None:
        """Add a line to the job's own stream; it travels with the next beat."""
        ...


class _Detached:
    """The reporter of a handler that was called as a plain function: it tells nobody."""

    def stop_reason(self) -> None: ...

    def progress(self, lease: Lease, progress: Progress) -> None: ...

    def save(self, lease: Lease, data: bytes) -> None: ...

    def line(self, lease: Lease, kind: str, data: str) -> None: ...


class _JobLogger(logging.LoggerAdapter[logging.Logger]):
    """Logs to `ropeway.job` with the job's id, and to the job's own stream."""

    def __init__(self, context: "Context[Any] | BatchContext[Any]") -> None:
        super().__init__(_log, {})
        self._context = context

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        context, extra = self._context, cast("Mapping[str, object]", kwargs.get("extra") or {})
        jobs = [context.job] if isinstance(context, Context) else context.jobs
        ids, task = ",".join(job.id for job in jobs[:1]), jobs[0].task if jobs else ""
        more = f" and {len(jobs) - 1} more" if len(jobs) > 1 else ""
        return msg, {**kwargs, "extra": {**extra, "job_id": ids + more, "task": task}}

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        text = str(msg) % args if args else str(msg)
        self._context.tell("log", f"{logging.getLevelName(level)} {text}")
        kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1
        super().log(level, msg, *args, **kwargs)


_DETACHED = _Detached()


class Stoppable:
    """What a handler can ask about the end of its run."""

    __slots__ = ()
    _reporter: Reporter
    stop_at: float | None  # time.monotonic() at which the run must have ended

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the run is stopped by its timeout or deadline; None without one."""
        return None if self.stop_at is None else max(0.0, self.stop_at - time.monotonic())

    @property
    def should_stop(self) -> bool:
        """Whether the run was cancelled, timed out or lost its lease.

        Handlers on the loop are cancelled anyway; those in threads cannot be stopped from
        outside and should ask, or call `check`, in their loops.
        """
        return self._reporter.stop_reason() is not None

    def check(self) -> None:
        """Raise the reason when the run should stop; for handlers that run in a thread."""
        reason = self._reporter.stop_reason()
        if reason is not None:
            raise reason


class Context(Stoppable, msgspec.Struct, Generic[S], eq=False):
    """One run of a job, as its handler sees it.

    `state` is what the app's `lifespan` yielded. `saved` holds what an earlier run of the same
    job gave to `save`, after a crash or a retry. `failure` is set in a fallback only: how the
    job failed for good.
    """

    lease: Lease
    state: S
    _reporter: Reporter = _DETACHED
    stop_at: float | None = None  # time.monotonic() at which the run must have ended
    failure: Failure | None = None

    @property
    def job(self) -> Job:
        """What was enqueued."""
        return self.lease.job

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger whose records carry the job's id, and go to the job's own stream too.

        Made when it is asked for: kept here, it would be a cycle in memory for every job.
        """
        return _JobLogger(self)

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1."""
        return self.lease.attempt

    @property
    def saved(self) -> Any:
        """The cursor last saved by an earlier run (plain JSON types), or None."""
        return self.saved_as(Any)

    def saved_as(self, type_: type[T] | Any) -> T | None:
        """`saved`, decoded into `type_`. Raises CodecError when it does not fit."""
        data = self.lease.saved
        return None if data is None else codec.decode(data, "json", type_, what="saved cursor")

    async def progress(self, fraction: float, note: str = "") -> None:
        """Say how far the run is (0..1). Shown within one beat of the lease."""
        self.progress_sync(fraction, note)

    def progress_sync(self, fraction: float, note: str = "") -> None:
        """`progress` for handlers that run in a thread or a process."""
        self._reporter.progress(self.lease, _progress(fraction, note))

    async def save(self, cursor: object) -> None:
        """Keep `cursor` durably: a later run of this job finds it in `saved`.

        Raises CodecError when it cannot be encoded, and asyncio.CancelledError when the lease
        was lost meanwhile.
        """
        done = self._reporter.save(self.lease, _encode(cursor))
        if done is not None:
            await done

    def save_sync(self, cursor: object) -> None:
        """`save` for handlers that run in a thread or a process: returns when it is durable."""
        self._reporter.save(self.lease, _encode(cursor))

    def tell(self, kind: str, data: str) -> None:
        """Add an entry to the job's stream, e.g. a partial result (`kind="partial"`)."""
        self._reporter.line(self.lease, kind, data)


class BatchContext(Stoppable, Generic[S]):
    """One run of a batch task, as its handler sees it: many jobs, one call.

    Attributes:
        leases: one for each item of the list, in its order.
        state: what the app's `lifespan` yielded.
        failures: in a fallback only: how each of the jobs failed for good.

    """

    def __init__(
        self,
        leases: Sequence[Lease],
        state: S,
        reporter: Reporter = _DETACHED,
        *,
        failures: Sequence[Failure | None] = (),
    ) -> None:
        self.leases: Sequence[Lease] = leases
        self.state: S = state
        self.failures: Sequence[Failure | None] = failures
        self.stop_at: float | None = None
        self._reporter: Reporter = reporter

    @property
    def jobs(self) -> list[Job]:
        """What was enqueued, one for each item."""
        return [lease.job for lease in self.leases]

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger whose lines go to the stream of each of the jobs too."""
        return _JobLogger(self)

    async def progress(self, fraction: float, note: str = "") -> None:
        """Say how far the batch is (0..1); shown for each of its jobs."""
        self.progress_sync(fraction, note)

    def progress_sync(self, fraction: float, note: str = "") -> None:
        """`progress` for handlers that run in a thread."""
        progress = _progress(fraction, note)
        for lease in self.leases:
            self._reporter.progress(lease, progress)

    def tell(self, kind: str, data: str) -> None:
        """Add an entry to the stream of each of the jobs."""
        for lease in self.leases:
            self._reporter.line(lease, kind, data)


def _progress(fraction: float, note: str) -> Progress:
    if not 0 <= fraction <= 1:
        raise ConfigError(f"progress {fraction!r} is not a fraction within 0..1")
    return Progress(float(fraction), note)


def _encode(cursor: object) -> bytes:
    return codec.encode(cursor, compress_above_bytes=None, what="saved cursor").data


CURRENT: ContextVar[Context[Any] | BatchContext[Any]] = ContextVar("ropeway_current_job")


def current_job() -> Context[Any]:
    """The context of the job that is running here.

    Raises:
        LookupError: called outside a running job, or in a batch, which is many of them.
    """
    found = CURRENT.get(None)
    if isinstance(found, Context):
        return found
    raise LookupError(
        "current_job() was called outside a running job; take a `ctx: Context` parameter, "
        "or call it from code that a handler runs"
        if found is None
        else "current_job() was called in a batch of jobs; take a `ctx: BatchContext` parameter"
    )
