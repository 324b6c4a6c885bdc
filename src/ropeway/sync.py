"""A portal: an event loop in a thread of its own, for callers that have none.

`enqueue_sync` and its like run their coroutines here, so that Flask views, scripts and handlers
in threads can use the same broker code. The thread is a daemon and ends with the process.
"""

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from ropeway.errors import ConfigError, Disconnected

T = TypeVar("T")

_LOOK_S = 1.0  # between two looks whether the loop is still there
_ENDED = (
    "the event loop that serves this app ended while a call from another thread waited for it; "
    "keep `async with app:` open as long as its threads need it"
)
_CLOSE_S = 5.0  # for each of the two steps of an end


class Portal:
    """An event loop that runs in a daemon thread from construction to `stop`."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=_run, args=(self.loop,), name="ropeway-sync")
        self._thread.daemon = True
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the portal's loop and wait for its result."""
        return run_on(self.loop, work)

    def stop(self, last: Coroutine[Any, Any, object] | None = None) -> None:
        """Run `last`, then end the thread; idempotent. What still runs there is cancelled.

        Takes a few seconds at most: the end of the process must not hang on a broker that does.
        """
        if last is not None:
            with contextlib.suppress(TimeoutError):
                asyncio.run_coroutine_threadsafe(last, self.loop).result(_CLOSE_S)
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(_CLOSE_S)


def run_on(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a loop that runs in another thread; an interrupted wait cancels it.

    Raises:
        Disconnected: the loop ended while the caller waited.
    """
    try:
        future = asyncio.run_coroutine_threadsafe(work, loop)
    except RuntimeError:  # the loop is closed
        work.close()
        raise Disconnected(_ENDED) from None
    try:
        while not concurrent.futures.wait((future,), _LOOK_S).done and not loop.is_closed():
            pass
        if not future.done():  # the loop ended before it took up this call
            work.close()
            future.cancel()
        return future.result()
    except concurrent.futures.CancelledError:
        raise Disconnected(_ENDED) from None
    except BaseException:
        future.cancel()
        raise


def refuse_in_loop(what: str) -> None:
    """Raise ConfigError when an event loop runs in this thread: waiting here would block it."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise ConfigError(
        f"{what} was called inside a running event loop, which it would block; "
        f"use `await` and the call without _sync"
    )


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()
