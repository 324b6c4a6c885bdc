"""Tells hooks what becomes of the runs of a worker."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from typing import Final

from ropeway.clock import Clock
from ropeway.hooks import Event, EventKind, Hooks
from ropeway.job import Failure
from ropeway.outcome import (
    Ack,
    Bury,
    Cancel,
    Crashed,
    Outcome,
    Release,
    Retry,
    Settled,
    Snooze,
)
from ropeway.worker.run import CancelRequested, Run

_log = logging.getLogger("ropeway.hooks")

WAITING_MAX: Final = 10_000
"""Events that wait for slow hooks; the oldest are dropped then, and the log says so once."""

LAST_S: Final = 5.0
"""How long the end of a worker waits for its hooks."""

_KINDS: Final[Mapping[type[Outcome], EventKind]] = {
    Ack: "completed",
    Retry: "retried",
    Bury: "dead",
    Cancel: "cancelled",
    Snooze: "snoozed",
    Release: "released",
    Crashed: "crashed",
}


class Teller:
    """Events of one worker on their way to its hooks: telling never waits, `run` calls them.

    Args:
        worker: the worker's id.
    """

    def __init__(self, hooks: Hooks, *, worker: str, clock: Clock) -> None:
        self._hooks = hooks
        self._worker = worker
        self._clock = clock
        self._events: deque[Event] = deque()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._dropping = False

    @classmethod
    def of(cls, hooks: Hooks, *, worker: str, clock: Clock) -> "Teller | None":
        """A teller, if there is any hook to tell."""
        return cls(hooks, worker=worker, clock=clock) if hooks else None

    def began(self, run: Run) -> None:
        """The handler of this run is about to be called."""
        now_ms = self._clock.mono_ms()
        for part in run.parts:
            part.began_ms = now_ms
            self._tell_of("started", part)

    def ended(self, run: Run) -> None:
        """It has ended, and nobody knows yet how."""
        now_ms = self._clock.mono_ms()
        for part in run.parts:
            part.ended_ms = now_ms

    def settled(self, run: Run, outcome: Outcome, answer: Settled) -> None:
        """The broker has answered to the end of a run."""
        kind = "lost" if answer is Settled.LOST else _KINDS[type(outcome)]
        if kind in {"retried", "snoozed", "released"} and isinstance(run.reason, CancelRequested):
            kind = "cancelled"  # a store does not let a job go on that was cancelled meanwhile
        failure: Failure | None = getattr(outcome, "failure", None)
        reason: str | None = getattr(outcome, "reason", None)
        self._tell_of(kind, run, failure, reason)

    def lost(self, run: Run) -> None:
        """The lease is gone, and nothing is to be settled."""
        self._tell_of("lost", run)

    async def run(self) -> None:
        """Call the hooks, in the order of the events, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._events:
                await self._hooks.call(self._events[0])
                self._events.popleft()
            self._idle.set()
            self._dropping = False

    @contextlib.asynccontextmanager
    async def telling(self) -> AsyncGenerator[None]:
        """Tell of this worker and its runs until the block ends, and a little longer."""
        calling = asyncio.create_task(self.run(), name="ropeway-hooks")
        self._tell("worker_started")
        try:
            yield
        finally:
            self._tell("worker_stopped")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_S):
                    await self._idle.wait()
            calling.cancel()
            await asyncio.gather(calling, return_exceptions=True)

    def _tell(self, kind: EventKind) -> None:
        if self._hooks.want(kind):
            self._add(Event(kind=kind, at_ms=self._clock.wall_ms(), worker=self._worker))

    def _tell_of(
        self,
        kind: EventKind,
        run: Run,
        failure: Failure | None = None,
        reason: str | None = None,
    ) -> None:
        if not self._hooks.want(kind):
            return
        job, duration = run.lease.job, None
        if run.began_ms is not None and run.ended_ms is not None:
            duration = (run.ended_ms - run.began_ms) / 1000
        self._add(
            Event(
                kind=kind,
                at_ms=self._clock.wall_ms(),
                worker=self._worker,
                job=job.ref,
                task=job.task,
                queue=job.queue,
                tags=job.tags,
                attempt=run.lease.attempt,
                duration=duration,
                error=None if failure is None else failure.type,
                message="" if failure is None else failure.message,
                reason=reason,
            )
        )

    def _add(self, event: Event) -> None:
        if len(self._events) >= WAITING_MAX:
            del self._events[1]  # the first one is being told
            if not self._dropping:
                self._dropping = True
                _log.warning("hooks are too slow: %d events wait, older ones are lost", WAITING_MAX)
        self._events.append(event)
        self._idle.clear()
        self._wake.set()
