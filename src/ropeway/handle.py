"""`Handle`: a job that was enqueued, as its producer sees it."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from datetime import timedelta
from typing import Any, Generic, Protocol, TypeVar

from ropeway import codec
from ropeway.action import Acted, Action, Answer, CancelJob, RetryJob
from ropeway.broker import JobEvent, JobStore
from ropeway.duration import to_ms
from ropeway.errors import (
    Disconnected,
    JobCancelled,
    JobError,
    JobExpired,
    JobFailed,
    JobNotFound,
    JobTimeout,
    ResultExpired,
)
from ropeway.hooks import Hooks
from ropeway.job import FINAL, Failure, JobRecord, JobRef, Progress, State
from ropeway.offload import Offload

T = TypeVar("T")
R_co = TypeVar("R_co", covariant=True)

_WAIT_MS = 30_000  # of one call to the store; a lost wake-up delays an answer by this at most
_GONE_GRACE_S = 1.0
_EVENTS_EVERY_MS = 500
_AWAY_MAX_S = 60.0 + _WAIT_MS / 1000  # how long a broker may be away while a job is awaited
_AWAY_PAUSE_S = 0.5


class Link(Protocol):
    """How tasks and handles reach their app's broker."""

    @property
    def store(self) -> JobStore:
        """The open broker, usable on the running event loop. Raises ConfigError if not open."""
        ...

    @property
    def hooks(self) -> Hooks:
        """The hooks of the program."""
        ...

    def patience_ms(self, queue: str) -> int:
        """How long an enqueue waits for room when the queue is full."""
        ...

    @property
    def untold(self) -> bool:
        """Whether tasks or queues were declared after the broker was opened."""
        ...

    async def tell_rules(self, store: JobStore) -> None:
        """Declare their limits and bounds in the open broker."""
        ...

    @property
    def offload(self) -> Offload | None:
        """Where big payloads and results are; None: in their records."""
        ...

    def run_sync(self, work: Coroutine[Any, Any, T], *, what: str) -> T:
        """Run `work` where the broker lives and wait for it. `what` names the call in errors."""
        ...


def any_type() -> Any:
    """The result type of a job whose task is not known here: plain JSON types."""
    return Any


class Handle(Generic[R_co]):
    """A job by its id, with the type of its result.

    `await handle` gives the result. A handle is cheap, holds nothing of the job but its id, and
    may be made again in another process with `task.handle(id)`.

    Attributes:
        ref: the id and the queue the job was enqueued in, or was found in after a move.
        created: False when the enqueue found an existing job in place of making one: the same
            id, or the holder of the unique key.
        dropped: True when the queue was full and its rule is to drop new jobs: there is none.
    """

    __slots__ = ("_link", "_returns", "created", "dropped", "ref")

    def __init__(
        self,
        ref: JobRef,
        link: Link,
        *,
        returns: Callable[[], Any] = any_type,
        created: bool = True,
        dropped: bool = False,
    ) -> None:
        self.ref: JobRef = ref
        self.created: bool = created
        self.dropped: bool = dropped
        self._link = link
        self._returns = returns

    @property
    def id(self) -> str:
        """The job's id."""
        return self.ref.id

    def __await__(self) -> Generator[Any, None, R_co]:
        return self.result().__await__()

    def __repr__(self) -> str:
        return f"<Handle {self.ref.id} in {self.ref.queue or 'any queue'}>"

    async def result(self, *, timeout: float | timedelta | None = None) -> R_co:
        """Wait for the end of the job and return its result, decoded into the annotated type.

        Args:
            timeout: seconds or a timedelta to wait at most; None waits as long as it takes.

        Raises:
            JobFailed: the job is dead; the handler's traceback is in the notes. `JobTimeout` if
                its last run took too long, `JobExpired` if it was not started in time.
            JobCancelled: the job was cancelled.
            ResultExpired: the record is gone (pruned or deleted).
            JobNotFound: the job was `dropped`.
            TimeoutError: the time is up; the job goes on.
            CodecError: the result does not fit the annotated return type. `BlobLost` if it was
                offloaded and cannot be found.
        """
        record = await self.wait(timeout=timeout)
        if self._link.offload is not None:
            record = await self._link.offload.with_result(record)
        return unfold(record, self._returns())

    async def wait(self, *, timeout: float | timedelta | None = None) -> JobRecord:
        """Wait for the end of the job, whatever it is, and return its final record as stored.

        Raises:
            ResultExpired: the record is gone (pruned or deleted).
            JobNotFound: the job was `dropped`.
            TimeoutError: the time is up and the job is not final.
            Disconnected: the broker was away for a minute; the job may go on.
        """
        limit_s = None if timeout is None else to_ms(timeout, name="timeout") / 1000
        limit = asyncio.timeout(limit_s)
        try:
            async with limit:
                while not self.dropped:
                    if (record := await self._wait_patiently()) is not None:
                        return record
                raise self._not_found()
        except TimeoutError:
            if not limit.expired():
                raise
            raise TimeoutError(
                f"job {self.id} did not end within {timeout} s; it goes on and can be awaited again"
            ) from None

    async def _wait_patiently(self) -> JobRecord | None:
        """`_wait_once`, over a broker that is away for a while: the job does not end with it."""
        give_up_at = time.monotonic() + _AWAY_MAX_S
        while True:
            try:
                return await self._wait_once()
            except Disconnected:
                if time.monotonic() >= give_up_at:
                    raise
            await asyncio.sleep(_AWAY_PAUSE_S)

    async def _wait_once(self) -> JobRecord | None:
        """One call of the store's `wait`; raises at once for a record that does not exist."""
        # The waiter is registered before the record is looked for, so that a job whose record
        # goes at its end (retention 0) cannot slip through between the two.
        waiter = asyncio.ensure_future(self._link.store.wait([self.ref], timeout_ms=_WAIT_MS))
        try:
            await asyncio.sleep(0)
            if not waiter.done() and await self._look() is not None:
                return (await waiter)[0]
            await asyncio.wait((waiter,), timeout=_GONE_GRACE_S)
            record = waiter.result()[0] if waiter.done() else None
            if record is None and await self._look() is None:
                raise ResultExpired(
                    f"the record of job {self.id} is gone (pruned after its retention, or "
                    "deleted), so its result cannot be read; keep it longer with retention="
                )
            return record
        finally:
            waiter.cancel()

    async def _look(self) -> JobRecord | None:
        """The record, wherever it was moved to."""
        store = self._link.store
        record = (await store.get([self.ref]))[0]
        if record is None and self.ref.queue is not None:
            record = (await store.get([JobRef(self.id)]))[0]
            if record is not None:
                self.ref = record.job.ref
        return record

    async def record(self) -> JobRecord:
        """The job and its status as they are now, with an offloaded payload and result.

        Raises:
            JobNotFound: there is no such job (any more).
            BlobLost: what was offloaded cannot be found.
        """
        record = await self.stored()
        return record if self._link.offload is None else await self._link.offload.record(record)

    async def stored(self) -> JobRecord:
        """`record` as the broker has it: what was offloaded is a reference. Raises JobNotFound."""
        record = await self._look()
        if record is None:
            raise self._not_found()
        return record

    async def state(self) -> State:
        """Where the job stands. Raises JobNotFound."""
        return (await self.stored()).status.state

    async def progress(self) -> Progress | None:
        """How far the job said it is; None if it said nothing. Raises JobNotFound."""
        return (await self.stored()).status.progress

    async def events(self, *, after: int = 0) -> AsyncIterator[JobEvent]:
        """Follow the job's stream (log lines, progress, partial results) until the job ends.

        Args:
            after: only entries with a greater `seq`, to go on where an earlier loop stopped.

        Entries arrive within half a second of reaching the store. The stream ends with the job,
        and at once when the record is gone. Of a very chatty job only the newest 1,000 entries
        (1 MB) are kept.
        """
        ended = False
        while True:
            store = self._link.store
            while batch := await store.events(self.ref, after=after):
                for event in batch:
                    after = event.seq
                    yield event
            if ended:
                return
            record = await self._look()
            ended = record is None or record.status.state in FINAL
            if not ended:
                await store.wait([self.ref], timeout_ms=_EVENTS_EVERY_MS)

    async def cancel(self, reason: str = "cancelled") -> Acted:
        """Cancel the job: at once while it waits, by a request to its worker while it runs.

        Returns:
            `Answer.DONE`, `REQUESTED`, or `REFUSED` for a job that has ended.

        Raises:
            JobNotFound: there is no such job (any more).
        """
        return await self._act(lambda ref: CancelJob(ref=ref, reason=reason))

    async def retry(self) -> Acted:
        """Run an ended or retryable job again, with all its attempts. Raises JobNotFound."""
        return await self._act(lambda ref: RetryJob(ref=ref))

    async def _act(self, make: Callable[[JobRef], Action]) -> Acted:
        acted = (await self._link.store.act([make(self.ref)]))[0]
        if acted.answer is Answer.NOT_FOUND and await self._look() is not None:
            acted = (await self._link.store.act([make(self.ref)]))[0]
        if acted.answer is Answer.NOT_FOUND:
            raise self._not_found()
        return acted

    def _not_found(self) -> JobNotFound:
        if self.dropped:
            return JobNotFound(
                f"job {self.id} was not stored: the queue {self.ref.queue!r} was full, and its "
                "rule is to drop new jobs; ask handle.dropped first"
            )
        return JobNotFound(f"job {self.id} is not in this store: pruned, deleted or never there")

    def result_sync(self, *, timeout: float | timedelta | None = None) -> R_co:
        """`result` for code without an event loop."""
        return self._link.run_sync(self.result(timeout=timeout), what="handle.result_sync()")

    def record_sync(self) -> JobRecord:
        """`record` for code without an event loop."""
        return self._link.run_sync(self.record(), what="handle.record_sync()")

    def cancel_sync(self, reason: str = "cancelled") -> Acted:
        """`cancel` for code without an event loop."""
        return self._link.run_sync(self.cancel(reason), what="handle.cancel_sync()")


def unfold(record: JobRecord, type_: Any) -> Any:
    """The result of a final record, or the exception that says how the job ended."""
    job, status = record.job, record.status
    if status.state is State.COMPLETED:
        if status.result is None:
            return None
        what = f"result of job {job.id} ({job.task})"
        return codec.decode(status.result, status.result_codec, type_, what=what)
    raise failure_of(record)


def failure_of(record: JobRecord) -> JobError:
    """The exception that a job's end means to whoever awaits it."""
    job, status = record.job, record.status
    who = f"job {job.id} ({job.task})"
    if status.state is State.CANCELLED:
        why = f": {status.reason}" if status.reason else ""
        return JobCancelled(f"{who} was cancelled{why}", job_id=job.id)
    last = status.errors[-1] if status.errors else None
    kind, what = _kind(status.reason, last, status.attempt)
    error = kind(
        f"{who} {what}",
        job_id=job.id,
        error_type=last.type if last else "",
        remote_traceback=last.traceback if last else "",
    )
    if last and last.traceback:
        error.add_note(f"Traceback of attempt {last.attempt}, in the worker:\n{last.traceback}")
    return error


_TOO_LONG = frozenset({"timeout", "deadline"})


def _kind(reason: str | None, last: Failure | None, attempt: int) -> tuple[type[JobFailed], str]:
    if reason == "expired" or (reason == "deadline" and attempt == 0):
        return JobExpired, f"was not started in time ({reason})"
    detail = f"{last.type}: {last.message}" if last and last.message else last and last.type
    text = f"failed: {detail or reason or 'no reason was recorded'}"
    if detail and reason:
        text += f" ({reason})"
    too_long = reason in _TOO_LONG or (last is not None and last.type in _TOO_LONG)
    return (JobTimeout if too_long else JobFailed), text
