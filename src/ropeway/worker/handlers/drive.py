"""Run a handler's coroutine inside the current task, but in a context of its own.

A task per job costs 4 to 6 us, a coroutine in a task that stays 0.2 us. What such a coroutine sets
in context variables must not reach the next job, so each of its steps is made inside the job's
own `contextvars.Context`. The first step is separate: a handler that never waits ends there, and
the caller learns when one is about to wait.
"""

import types
from collections.abc import Callable, Coroutine, Generator, Mapping
from contextvars import Context as Scope
from typing import Any, Final

from ropeway.context import CURRENT, BatchContext, Context

_set_current: Final = CURRENT.set


def begin(
    func: Callable[..., Coroutine[Any, Any, Any]],
    context: Context[Any] | BatchContext[Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> tuple[Coroutine[Any, Any, Any] | None, Any]:
    """Call the handler and make its first step; run it inside the job's scope.

    Returns:
        The coroutine and what it waits for, both for `finish`; None and its result when it has
        returned already.

    Raises:
        BaseException: whatever the handler raised.

    """
    _set_current(context)
    coroutine = func(*args, **kwargs)
    try:
        return coroutine, coroutine.send(None)
    except StopIteration as done:
        return None, done.value


@types.coroutine
def finish(
    coroutine: Coroutine[Any, Any, Any], scope: Scope, awaited: Any
) -> Generator[Any, Any, Any]:
    """Make the other steps, waiting as the coroutine does; returns its result."""
    while True:
        try:
            sent = yield awaited
        except GeneratorExit:
            scope.run(coroutine.close)
            raise
        except BaseException as error:  # noqa: BLE001 - it belongs to the coroutine
            try:
                awaited = scope.run(coroutine.throw, error)
            except StopIteration as done:
                return done.value
        else:
            try:
                awaited = scope.run(coroutine.send, sent)
            except StopIteration as done:
                return done.value


async def call(
    func: Callable[..., Coroutine[Any, Any, Any]],
    scope: Scope,
    context: Context[Any] | BatchContext[Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> Any:
    """All steps, for a call that happens once in many jobs; returns the handler's result."""
    coroutine, found = scope.run(begin, func, context, args, kwargs)
    return found if coroutine is None else await finish(coroutine, scope, found)
