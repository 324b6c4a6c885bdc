"""Calls the fallback of a task: what is to be done when a job has failed for good."""

import asyncio
import contextvars
import inspect
from collections.abc import Awaitable
from functools import partial
from typing import Any

from ropeway.context import CURRENT, BatchContext, Context
from ropeway.definition import Definition
from ropeway.worker.handlers import drive
from ropeway.worker.handlers.threads import Carried, Threads
from ropeway.worker.run import HardTimeout, Run


class Fallbacks:
    """Calls fallbacks on the loop or in threads.

    Args:
        base: the context variables that each call begins with.
    """

    def __init__(self, threads: Threads, base: contextvars.Context) -> None:
        self._threads = threads
        self._base = base

    async def call(
        self,
        run: Run,
        definition: Definition,
        context: Context[Any] | BatchContext[Any],
        arguments: tuple[tuple[Any, ...], dict[str, Any]],
        slot: "asyncio.Task[None]",
    ) -> BaseException | None:
        """Call it, within the task's timeout; what it raised, or by what it was stopped."""
        fallback, timeout_ms = definition.fallback, definition.timeout_ms
        assert fallback is not None, "asked for only where there is one"
        for each in (run, *run.parts):
            if isinstance(each.reason, HardTimeout):
                each.reason = None  # that of the run before; this one has a time of its own
        args, kwargs = arguments
        if fallback.wants_ctx:
            args = (context, *args)
        scope = self._base.copy()
        work: Awaitable[Any]
        if inspect.iscoroutinefunction(fallback.func):
            work = drive.call(fallback.func, scope, context, args, kwargs)
        else:
            scope.run(CURRENT.set, context)
            call = partial(scope.run, partial(fallback.func, *args, **kwargs))
            work = self._threads.submit(call).answer
        run.slot = slot
        try:
            async with asyncio.timeout(None if timeout_ms is None else timeout_ms / 1000):
                await work
        except Carried as carried:
            return carried.error
        except BaseException as error:  # noqa: BLE001 - it may raise anything
            return error
        finally:
            run.slot = None
            while slot.cancelling():
                slot.uncancel()  # it was meant for this call, or is told by what is returned
        return None
