"""Run a handler's coroutine inside the current task, but in a context of its own.

A task per job costs 4 to 6 us, a coroutine in a task that stays 0.2 us. What such a coroutine sets
in context variables must not reach the next job, so each of its steps is made inside the job's
own `contextvars.Context`. The first step is separate: a handler that never waits ends there, and
the caller learns when one is about to wait.
"""

import types
from collections.abc import Coroutine, Generator
from contextvars import Context
from typing import Any


def begin(coroutine: Coroutine[Any, Any, Any], context: Context) -> object:
    """Make the first step. Returns what the coroutine waits for; hand it to `finish`.

    Raises:
        StopIteration: the coroutine has returned already; `value` is its result.
        BaseException: whatever the coroutine raised.
    """
    return context.run(coroutine.send, None)


@types.coroutine
def finish(
    coroutine: Coroutine[Any, Any, Any], context: Context, awaited: object
) -> Generator[Any, Any, Any]:
    """Make the other steps, waiting as the coroutine does; returns its result."""
    while True:
        try:
            sent = yield awaited
        except GeneratorExit:
            context.run(coroutine.close)
            raise
        except BaseException as error:  # noqa: BLE001 - it belongs to the coroutine
            try:
                awaited = context.run(coroutine.throw, error)
            except StopIteration as done:
                return done.value
        else:
            try:
                awaited = context.run(coroutine.send, sent)
            except StopIteration as done:
                return done.value
