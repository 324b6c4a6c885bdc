"""Runs handlers: a fixed number of slots, each a task that takes one run after the other.

A run passes these steps: look up the task, decode the payload, settle first where the task wants
it (`ack="before"`), set the limits, call the handler where it belongs, turn its end into an
outcome. Slots stay, since a task per job costs 20 times as much; only as many are woken as
handlers wait for something.
"""

import asyncio
import contextvars
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any, Final, cast

from ropeway.clock import Clock
from ropeway.context import CURRENT, Context
from ropeway.definition import Definition
from ropeway.errors import CodecError, ConfigError
from ropeway.job import JobRef
from ropeway.outcome import Ack, Cancel, Outcome, Release, Settled
from ropeway.verdict import Verdict
from ropeway.worker.deadlines import Deadlines
from ropeway.worker.handlers import drive, ending
from ropeway.worker.handlers.processes import Crashed, Processes
from ropeway.worker.handlers.threads import Carried, Threads
from ropeway.worker.run import (
    CancelRequested,
    HardTimeout,
    LeaseLost,
    Run,
    ShuttingDown,
    Stop,
)
from ropeway.worker.settler import Settler

_log = logging.getLogger("ropeway.worker")

SLOT_NAME: Final = "ropeway-slot"
CLOSE_S: Final = 1.0
TURN_MS: Final = 5
"""How long a slot runs handlers that never wait before it lets the rest of the loop run."""


class Runner:
    """Feeds runs to handlers and their outcomes to the settler.

    Attributes:
        concurrency: how many runs may be in progress; may change at any time.
        busy: how many are.
        on_room: called when a run has ended, while somebody waits for room.

    """

    def __init__(
        self,
        tasks: Mapping[str, Definition],
        settler: Settler,
        *,
        concurrency: int,
        state: Any,
        clock: Clock,
    ) -> None:
        self._tasks = tasks
        self._settler = settler
        self._state = state
        self._clock = clock
        self.now_ms = clock.mono_ms
        self._base = contextvars.copy_context()
        self._threads = Threads()
        self._processes = Processes()
        self._deadlines = Deadlines(clock)
        self._buffer: deque[Run] = deque()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._slots: set[asyncio.Task[None]] = set()
        self._running: set[Run] = set()
        self._closing = False
        self.concurrency = concurrency
        self.ended = 0
        self.on_room: Callable[[], None] | None = None

    # -- what the other roles ask for --------------------------------------------------------

    @property
    def busy(self) -> int:
        """Runs in progress."""
        return len(self._running)

    @property
    def buffered(self) -> int:
        """Runs that wait for a slot."""
        return len(self._buffer)

    @property
    def running(self) -> list[Run]:
        """The runs in progress."""
        return list(self._running)

    def feed(self, runs: list[Run]) -> None:
        """Take runs to be started as soon as there is a free slot."""
        self._buffer.extend(runs)
        self._wake(1)

    def tune(self, concurrency: int) -> None:
        """Change the number of slots; running jobs are not disturbed."""
        self.concurrency = concurrency
        while self._idle:  # so that those in excess can end
            _finish(self._idle.popleft())
        self._wake(len(self._buffer))

    def release_waiting(self, unwanted: Callable[[Run], bool]) -> None:
        """Hand back, uncounted, the runs that wait here and are `unwanted`."""
        kept: deque[Run] = deque()
        for run in self._buffer:
            if unwanted(run):
                self._settler.put(run, Release(lease=run.lease))
            else:
                kept.append(run)
        self._buffer = kept

    def cancel(self, ref: JobRef) -> None:
        """Stop the runs of this job: those in progress, and those not yet started."""
        for run in self._running:
            if run.is_named(ref):
                run.stop(CancelRequested("the job was cancelled"))
        for run in [run for run in self._buffer if run.is_named(ref)]:
            self._buffer.remove(run)
            self._settler.put(run, Cancel(lease=run.lease))

    def lost(self, run: Run, reason: Stop) -> None:
        """The lease of this run is gone or unsure: stop it, or do not begin it."""
        if run in self._running:
            run.stop(reason)
        elif run in self._buffer:
            self._buffer.remove(run)
            self._settle(run, ending.of_stop(run.lease, reason))

    def stop_all(self) -> None:
        """Stop every run because the worker ends; threads are left behind."""
        for run in self._running:
            run.stop(ShuttingDown("the worker stops"))

    async def close(self) -> None:
        """End slots, threads and processes. What still runs is cancelled and not waited for."""
        self._closing = True
        for slot in self._slots:
            slot.cancel()
        if self._slots:
            await asyncio.wait(self._slots, timeout=CLOSE_S)
        self._deadlines.close()
        self._threads.close()
        self._processes.close()

    # -- slots -------------------------------------------------------------------------------

    def _wake(self, wanted: int) -> None:
        """Let up to `wanted` more slots look at the buffer."""
        while wanted > 0 and self._idle:
            wanted -= _finish(self._idle.popleft())
        for _ in range(min(wanted, self.concurrency - len(self._slots))):
            slot = asyncio.create_task(self._slot(), name=SLOT_NAME)
            self._slots.add(slot)

    async def _slot(self) -> None:
        me = cast("asyncio.Task[None]", asyncio.current_task())
        mono_ms = self._clock.mono_ms
        turn_until_ms = mono_ms() + TURN_MS
        try:
            while len(self._slots) <= self.concurrency:
                if not self._buffer:
                    idle = asyncio.get_running_loop().create_future()
                    self._idle.append(idle)
                    await idle
                    turn_until_ms = mono_ms() + TURN_MS
                    continue
                run = self._buffer.popleft()
                self._running.add(run)
                try:
                    outcome = await self._serve(run, me)
                except Exception:  # noqa: BLE001 - nor may a bug of our own
                    _log.exception("the worker itself failed", extra=run.label)
                    outcome = ending.of_own_fault(run.lease)
                finally:
                    self._running.discard(run)
                self.ended += 1
                self._settle(run, outcome)
                if self.on_room is not None:
                    self.on_room()
                if mono_ms() >= turn_until_ms:
                    await asyncio.sleep(0)
                    turn_until_ms = mono_ms() + TURN_MS
        finally:
            self._slots.discard(me)

    def _settle(self, run: Run, outcome: Outcome | None) -> None:
        if outcome is None:
            self._settler.drop(run)
        else:
            self._settler.put(run, outcome)

    # -- the steps of one run ----------------------------------------------------------------

    async def _serve(self, run: Run, slot: "asyncio.Task[None]") -> Outcome | None:
        """Run one job; None when there is nothing to settle (any more)."""
        lease = run.lease
        job = lease.job
        definition = self._tasks.get(job.task)
        if definition is None:
            _log.warning("no task of this name is registered here", extra=run.label)
            return ending.of_unknown_task(lease)
        run.definition = definition
        args: tuple[Any, ...] = ()
        kwargs: dict[str, Any] = {}
        if definition.kind != "process":  # a child decodes for itself
            try:
                args, kwargs = definition.parameters.decode(job.payload, job.codec)
            except (CodecError, ConfigError) as error:
                _log.error("the payload does not fit: %s", error, extra=run.label)
                return ending.of_bad_payload(lease, error)
        if definition.ack == "before" and not await self._settle_first(run):
            return None
        run.started = True
        limited = self._set_limits(run, definition)
        try:
            outcome = await self._call(run, definition, (args, kwargs), slot)
        finally:
            if limited:
                self._deadlines.forget(run)
        return None if definition.ack == "before" else outcome

    async def _settle_first(self, run: Run) -> bool:
        """`ack="before"`: the job is completed before it runs, so it never runs twice."""
        self._wake(len(self._buffer))
        answer = await self._settler.put_and_wait(run, Ack(lease=run.lease))
        return answer is not Settled.LOST  # ALREADY: an answer to this very run got lost

    def _set_limits(self, run: Run, definition: Definition) -> bool:
        job = run.lease.job
        limits = [ms for ms in (job.timeout_ms, definition.timeout_ms) if ms is not None]
        if not limits and job.deadline_at_ms is None and definition.soft_timeout_ms is None:
            return False
        now_ms = self._clock.mono_ms()
        if limits:
            run.hard_at_ms = now_ms + min(limits)
        if job.deadline_at_ms is not None:
            at_ms = now_ms + job.deadline_at_ms - self._clock.wall_ms()
            if run.hard_at_ms is None or at_ms < run.hard_at_ms:
                run.hard_at_ms, run.hard_limit = at_ms, "deadline"
        if definition.soft_timeout_ms is not None:
            run.soft_at_ms = now_ms + definition.soft_timeout_ms
        self._deadlines.watch(run)
        return True

    async def _call(
        self,
        run: Run,
        definition: Definition,
        arguments: tuple[tuple[Any, ...], dict[str, Any]],
        slot: "asyncio.Task[None]",
    ) -> Outcome | None:
        context = Context(run.lease, state=self._state, reporter=run)
        context.watch(run.stop_reason)
        run.context = context
        if run.hard_at_ms is not None:
            context.stop_at = run.hard_at_ms / 1000
        scope = self._base.copy()
        scope.run(CURRENT.set, context)
        args, kwargs = arguments
        if definition.wants_ctx:
            args = (context, *args)
        try:
            if definition.kind == "async":
                coroutine = definition.func(*args, **kwargs)
                value = await self._on_loop(run, coroutine, scope, slot)
            elif definition.kind == "thread":
                call = partial(scope.run, partial(definition.func, *args, **kwargs))
                value = await self._elsewhere(run, call)
            else:
                return await self._elsewhere(run, partial(self._processes.run, run))
        except BaseException as error:
            if self._closing and isinstance(error, asyncio.CancelledError):
                raise
            return self._outcome_of_error(run, definition, error)
        finally:
            run.slot = None
            while slot.cancelling() and not self._closing:
                slot.uncancel()  # it was meant for this run, not for the slot
        if isinstance(run.reason, LeaseLost):
            return None
        return ending.of_result(run.lease, definition, value)

    async def _on_loop(
        self,
        run: Run,
        coroutine: Coroutine[Any, Any, Any],
        scope: contextvars.Context,
        slot: "asyncio.Task[None]",
    ) -> Any:
        try:
            awaited = drive.begin(coroutine, scope)
        except StopIteration as done:
            return done.value
        if self._buffer:
            self._wake(len(self._buffer))
        run.slot = slot
        return await drive.finish(coroutine, scope, awaited)

    async def _elsewhere(self, run: Run, call: Callable[[], Any]) -> Any:
        """Run `call` in a thread; stop waiting for it at a hard limit and at the worker's end."""
        errand = self._threads.submit(call)

        def give_up(reason: Stop) -> None:
            if isinstance(reason, HardTimeout | ShuttingDown) and not errand.answer.done():
                self._threads.abandon(errand)
                errand.answer.set_exception(reason)

        is_process = run.definition is not None and run.definition.kind == "process"
        if not is_process:  # a process is killed instead, which ends its thread
            run.interrupt = give_up
        self._wake(len(self._buffer))
        try:
            return await errand.answer
        except Carried as carried:
            raise carried.error from None
        finally:
            if not is_process:
                run.interrupt = None

    def _outcome_of_error(
        self, run: Run, definition: Definition, error: BaseException
    ) -> Outcome | None:
        lease, reason = run.lease, run.reason
        if reason is not None and run.is_stopping:
            stopped = error is reason or isinstance(error, asyncio.CancelledError | Stop | Crashed)
            if stopped or isinstance(reason, LeaseLost):
                _log.info("stopped: %s", reason, extra=run.label)
                return ending.of_stop(lease, reason, definition)
        if isinstance(error, Crashed):
            _log.error("%s; its lease expires and counts as a crash", error, extra=run.label)
            return None
        _log.log(
            logging.DEBUG if isinstance(error, Verdict) else logging.WARNING,
            "failed: %s",
            ending.brief(error),
            extra=run.label,
        )
        return ending.of_error(lease, definition, error)


def _finish(idle: "asyncio.Future[None]") -> bool:
    """Wake the slot behind this future; False when it was cancelled."""
    if idle.done():
        return False
    idle.set_result(None)
    return True
