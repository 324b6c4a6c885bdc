"""Threads for handlers that block: our own, since an executor costs ten times as much a call.

A thread cannot be stopped. Its caller may stop waiting for it; the thread then ends after its
handler instead of taking another one, and a new thread takes its place.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

from ropeway.runtime import StartThread, start_daemon


@dataclass(eq=False, slots=True)
class Errand:
    """One call on its way through a thread.

    Attributes:
        call: what the thread runs.
        answer: done on the loop when the call has ended, or failed by whoever gave up on it.

    """

    call: Callable[[], Any]
    answer: "asyncio.Future[Any]"
    value: Any = None
    error: BaseException | None = field(default=None)
    abandoned: bool = False


class Threads:
    """Runs calls in daemon threads, one at a time each; there are as many as calls overlap.

    Without `start_thread` a call runs on the loop, in one of its next turns.
    """

    def __init__(
        self, start_thread: StartThread | None = start_daemon, *, name: str = "ropeway-job"
    ) -> None:
        self._start_thread = start_thread
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._errands: SimpleQueue[Errand | None] = SimpleQueue()
        self._done: deque[Errand] = deque()
        self._wake_pending = False
        self._threads = 0
        self._busy = 0
        self._started = 0

    @property
    def threads(self) -> int:
        """Threads that can take a call, busy ones included, abandoned ones not."""
        return self._threads

    def submit(self, call: Callable[[], Any]) -> Errand:
        """Run `call` in a thread; await the errand's `answer`. Call it on the loop."""
        errand = Errand(call, self._loop.create_future())
        if self._start_thread is None:
            self._loop.call_soon(self._run_here, errand)
            return errand
        self._busy += 1
        self._errands.put(errand)
        if self._busy > self._threads:
            self._start()
        return errand

    def abandon(self, errand: Errand) -> None:
        """Stop counting on the thread that runs this; it ends by itself, if ever."""
        if not errand.abandoned and not errand.answer.done():
            errand.abandoned = True
            self._threads -= 1
            self._busy -= 1

    def close(self) -> None:
        """Let idle threads end; busy ones end after their call."""
        for _ in range(self._threads):
            self._errands.put(None)
        self._threads = 0

    def _start(self) -> None:
        self._threads += 1
        self._started += 1
        name = f"{self._name}-{self._started}"
        assert self._start_thread is not None, "without threads a call runs on the loop"
        self._start_thread(self._work, name)

    def _run_here(self, errand: Errand) -> None:
        if not errand.answer.done():
            self._busy += 1
            _call(errand)
            self._done.append(errand)
            self._deliver()

    def _work(self) -> None:
        while (errand := self._errands.get()) is not None:
            _call(errand)
            self._done.append(errand)
            gone = errand.abandoned
            del errand
            if not self._wake_pending:
                self._wake_pending = True
                try:
                    self._loop.call_soon_threadsafe(self._deliver)
                except RuntimeError:  # the loop has ended before this handler did
                    return
            if gone:
                return

    def _deliver(self) -> None:
        self._wake_pending = False
        while self._done:
            errand = self._done.popleft()
            if not errand.abandoned:
                self._busy -= 1
            if errand.answer.done():
                continue
            if errand.error is not None:
                errand.answer.set_exception(_carried(errand.error))
            else:
                errand.answer.set_result(errand.value)


def _call(errand: Errand) -> None:
    try:
        errand.value = errand.call()
    except BaseException as error:  # noqa: BLE001 - a handler's SystemExit is its failure
        errand.error = error


class Carried(Exception):
    """An exception that a future cannot hold (StopIteration, or one that ends the process)."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


def _carried(error: BaseException) -> Exception:
    if isinstance(error, StopIteration) or not isinstance(error, Exception):
        return Carried(error)
    return error
