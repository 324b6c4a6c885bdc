"""The steps of one run: from a lease to an outcome.

Look up the task, decode the payload, settle first where the task wants it (`ack="before"`), set
the limits, call the handler where it belongs, turn its end into an outcome.

`begin` makes as many of them as need no waiting. That is all of them for a handler that never
waits, and such a job costs no coroutine but its own.
"""

import asyncio
import contextvars
import logging
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any

import msgspec

from ropeway.codec import REFERENCE
from ropeway.context import CURRENT, BatchContext, Context
from ropeway.definition import Definition
from ropeway.errors import CodecError, ConfigError
from ropeway.outcome import Ack, Bury, Outcome, Settled
from ropeway.runtime import Runtime
from ropeway.worker.deadlines import Deadlines
from ropeway.worker.handlers import batches, drive, ending, judging
from ropeway.worker.handlers.batches import Batch
from ropeway.worker.handlers.fallbacks import Fallbacks
from ropeway.worker.handlers.processes import Processes
from ropeway.worker.handlers.threads import Carried, Threads
from ropeway.worker.run import (
    HardTimeout,
    LeaseLost,
    LeaseUnsure,
    Run,
    ShuttingDown,
    Stop,
)
from ropeway.worker.settler import Settler

_log = logging.getLogger("ropeway.worker")

Slot = asyncio.Task[None]
Arguments = tuple[tuple[Any, ...], dict[str, Any]]
Rest = Callable[[Slot], Coroutine[Any, Any, Outcome | None]]
"""What is left of a run that has to wait: to be awaited in the slot's own task."""

_NOTHING: Arguments = ((), {})


class Calls:
    """Calls handlers on the loop, in threads and in processes.

    Args:
        state: what the lifespan yielded; `Context.state`.
    """

    def __init__(
        self, tasks: Mapping[str, Definition], settler: Settler, *, state: Any, runtime: Runtime
    ) -> None:
        self._tasks = tasks
        self._settler = settler
        self._state = state
        self._runtime = runtime
        self._clock = clock = runtime.clock
        self._base = contextvars.copy_context()
        self._threads = Threads(runtime.start_thread)
        self._fallbacks = Fallbacks(self._threads, self._base)
        self._processes = Processes(runtime)
        self._deadlines = Deadlines(clock)
        self._closing = False

    def closing(self) -> None:
        """From now on a cancelled slot is meant to end."""
        self._closing = True

    def close(self) -> None:
        """Let go of limits, threads and processes."""
        self._deadlines.close()
        self._threads.close()
        self._processes.close()

    def knows(self, run: Run) -> bool:
        """Whether the task of this run is registered here."""
        return run.lease.job.task in self._tasks

    def begin(self, run: Run) -> Outcome | Rest | None:
        """Begin a run: its outcome, what is left to await, or None when nothing is to settle."""
        lease = run.lease
        definition = run.definition = self._tasks.get(lease.job.task)
        if definition is None:
            _log.warning("no task of this name is registered here", extra=run.label)
            return ending.of_unable_worker(lease, "unknown_task")
        if lease.job.codec == REFERENCE:
            _log.warning(
                "its payload is offloaded, and this worker's app has none", extra=run.label
            )
            return ending.of_unable_worker(lease, "no_offload")
        if definition.batch is not None:
            return partial(self._batch, run, definition)
        arguments = _NOTHING
        if definition.kind != "process":  # a child decodes for itself
            try:
                arguments = definition.parameters.decode(lease.job.payload, lease.job.codec)
            except (CodecError, ConfigError) as error:
                _log.error("the payload does not fit: %s", error, extra=run.label)
                return ending.of_bad_payload(lease, error, runtime=self._runtime)
        if definition.ack == "before":
            return partial(self._after_ack, run, definition, arguments)
        called = self._call(run, definition, arguments)
        if definition.fallback is not None:
            return partial(self._or_fall_back, run, definition, called)
        return called

    # -- the steps ---------------------------------------------------------------------------

    async def _after_ack(
        self, run: Run, definition: Definition, arguments: Arguments, slot: Slot
    ) -> None:
        """`ack="before"`: the job is completed before it runs, so it never runs twice."""
        answer = await self._settler.put_and_wait(run, Ack(lease=run.lease))
        if answer is Settled.LOST:  # ALREADY: the answer to this very run got lost
            return
        rest = self._call(run, definition, arguments)
        if callable(rest):
            await rest(slot)

    def _call(
        self, run: Run, definition: Definition, arguments: Arguments
    ) -> Outcome | Rest | None:
        lease = run.lease
        context: Context[Any] = Context(lease, self._state, run)
        limited = self._set_limits(run, context, definition)
        args, kwargs = arguments
        if definition.wants_ctx:
            args = (context, *args)
        scope = self._base.copy()
        if definition.kind != "async":
            scope.run(CURRENT.set, context)
            return partial(self._elsewhere, run, definition, scope, (args, kwargs))
        try:
            coroutine, found = scope.run(drive.begin, definition.func, context, args, kwargs)
        except BaseException as error:  # noqa: BLE001 - a handler may raise anything
            outcome = judging.of_error(run, definition, error, runtime=self._runtime)
        else:
            if coroutine is not None:
                rest = drive.finish(coroutine, scope, found)
                return partial(self._on_loop, run, definition, rest)
            outcome = ending.of_result(lease, definition, found, runtime=self._runtime)
        if limited:
            self._deadlines.forget(run)
        return outcome

    # -- batches and fallbacks ---------------------------------------------------------------

    async def _batch(self, run: Run, definition: Definition, slot: Slot) -> Outcome | None:
        """Call a batch task for the jobs of a batch, or for one that was not handed out in one."""
        batch = run if isinstance(run, Batch) else Batch.of([run])
        batch.definition = definition
        items = batches.read(batch, definition, runtime=self._runtime)
        if items:
            leases = [member.lease for member in batch.parts]
            context: BatchContext[Any] = BatchContext(leases, self._state, batch)
            self._set_limits(batch, context, definition)
            scope = self._base.copy()
            args = (context, items) if definition.wants_ctx else (items,)
            if definition.kind == "async":
                rest = drive.call(definition.func, scope, context, args, {})
                await self._on_loop(batch, definition, rest, slot)
            else:
                scope.run(CURRENT.set, context)
                await self._elsewhere(batch, definition, scope, (args, {}), slot)
            if definition.fallback is not None:
                await self._batch_falls_back(batch, definition, items, slot)
        return None if batch is run else batch.ended[0][1]

    async def _batch_falls_back(
        self, batch: Batch, definition: Definition, items: list[Any], slot: Slot
    ) -> None:
        """Call the fallback with the items that have failed for good."""
        buried = {run: outcome for run, outcome in batch.ended if isinstance(outcome, Bury)}
        pairs = zip(batch.parts, items, strict=True)
        failed = [(run, item) for run, item in pairs if run in buried]
        if not failed:
            return
        leases = [run.lease for run, _ in failed]
        failures = [buried[run].failure for run, _ in failed]
        context: BatchContext[Any] = BatchContext(leases, self._state, batch, failures=failures)
        arguments: Arguments = ([item for _, item in failed],), {}
        error = await self._fallbacks.call(batch, definition, context, arguments, slot)
        if error is not None:
            for at, (run, _) in enumerate(batch.ended):
                if run in buried:
                    end = self._after_fallback(run, batch.reason, buried[run], error)
                    batch.ended[at] = run, end

    async def _or_fall_back(
        self, run: Run, definition: Definition, called: "Outcome | Rest | None", slot: Slot
    ) -> Outcome | None:
        """The end of a run, after the fallback if the job has failed for good."""
        outcome = await called(slot) if callable(called) else called
        if not isinstance(outcome, Bury):
            return outcome
        job = run.lease.job
        try:
            given = definition.parameters.decode(job.payload, job.codec)
        except CodecError:  # a child has told so before
            return outcome
        context: Context[Any] = Context(run.lease, self._state, run, failure=outcome.failure)
        arguments = definition.parameters.filled(*given)
        error = await self._fallbacks.call(run, definition, context, arguments, slot)
        if error is None:
            return outcome
        return self._after_fallback(run, run.reason, outcome, error)

    def _after_fallback(
        self, run: Run, reason: Stop | None, outcome: Bury, error: BaseException
    ) -> Outcome | None:
        """The end of a job whose fallback failed: the same, unless the worker cannot go on."""
        if self._closing and isinstance(error, asyncio.CancelledError):
            raise error
        if isinstance(reason, ShuttingDown | LeaseUnsure | LeaseLost):
            return ending.of_stop(run.lease, reason)
        _log.error("the fallback failed: %s", ending.brief(error), extra=run.label)
        failure = ending.failure_of(run.lease, error, runtime=self._runtime)
        return msgspec.structs.replace(outcome, of_fallback=failure)

    # -- limits and places -------------------------------------------------------------------

    def _set_limits(
        self, run: Run, context: "Context[Any] | BatchContext[Any]", definition: Definition
    ) -> bool:

        job = run.lease.job
        own_ms, task_ms, deadline_ms = job.timeout_ms, definition.timeout_ms, job.deadline_at_ms
        soft_ms = definition.soft_timeout_ms
        if own_ms is task_ms is deadline_ms is soft_ms is None:
            return False
        now_ms = self._clock.mono_ms()
        limits = [ms for ms in (own_ms, task_ms) if ms is not None]
        if limits:
            run.hard_at_ms = now_ms + min(limits)
        if deadline_ms is not None:
            at_ms = now_ms + deadline_ms - self._clock.wall_ms()
            if run.hard_at_ms is None or at_ms < run.hard_at_ms:
                run.hard_at_ms, run.hard_limit = at_ms, "deadline"
        if soft_ms is not None:
            run.soft_at_ms = now_ms + soft_ms
        if run.hard_at_ms is not None:
            context.stop_at = run.hard_at_ms / 1000
        self._deadlines.watch(run)
        return True

    async def _on_loop(
        self, run: Run, definition: Definition, rest: Any, slot: Slot
    ) -> Outcome | None:
        run.slot = slot
        try:
            value = await rest
        except BaseException as error:
            if self._closing and isinstance(error, asyncio.CancelledError):
                raise
            return judging.of_error(run, definition, error, runtime=self._runtime)
        finally:
            run.slot = None
            self._deadlines.forget(run)
            while slot.cancelling() and not self._closing:
                slot.uncancel()  # it was meant for this run, not for the slot
        return judging.of_value(run, definition, value, runtime=self._runtime)

    async def _elsewhere(
        self,
        run: Run,
        definition: Definition,
        scope: contextvars.Context,
        arguments: Arguments,
        _slot: Slot,
    ) -> Outcome | None:
        """Run it in a thread, which for a process task talks with the process."""
        try:
            if definition.kind == "process":
                return await self._threads.submit(partial(self._processes.run, run)).answer
            args, kwargs = arguments
            call = partial(scope.run, partial(definition.func, *args, **kwargs))
            value = await self._in_thread(run, call)
        except BaseException as error:
            if self._closing and isinstance(error, asyncio.CancelledError):
                raise
            error = error.error if isinstance(error, Carried) else error
            return judging.of_error(run, definition, error, runtime=self._runtime)
        finally:
            run.interrupt = None
            self._deadlines.forget(run)
        return judging.of_value(run, definition, value, runtime=self._runtime)

    async def _in_thread(self, run: Run, call: Callable[[], Any]) -> Any:
        """Stop waiting for the thread at a hard limit and at the worker's end."""
        errand = self._threads.submit(call)

        def give_up(reason: Stop) -> None:
            if isinstance(reason, HardTimeout | ShuttingDown) and not errand.answer.done():
                self._threads.abandon(errand)
                errand.answer.set_exception(reason)

        run.interrupt = give_up
        return await errand.answer
