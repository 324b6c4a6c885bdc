"""Notices that the event loop is blocked, and shows by what.

A coroutine of the loop notes the time; a thread looks at how old the note is.
"""

import asyncio
import logging
import sys
import threading
import time
import traceback
from typing import Final

from ropeway.runtime import SYSTEM, Runtime

_log = logging.getLogger("ropeway.worker")

TICK_S: Final = 0.1
WARN_MS: Final = 500


class Watchdog:
    """Watches the loop that `run` runs on.

    Args:
        stall_ms: how late the loop may be before it counts as stuck; 0: nothing is watched.
    """

    def __init__(self, *, stall_ms: int, runtime: Runtime = SYSTEM) -> None:
        self._stall_ms = stall_ms
        self._clock = runtime.clock
        self._start_thread = runtime.start_thread
        self._seen_ms = self._clock.mono_ms()
        self._ended = threading.Event()
        self._thread_id = threading.get_ident()

    @property
    def late_ms(self) -> int:
        """How long the loop has not moved."""
        return self._clock.mono_ms() - self._seen_ms

    def is_stuck(self) -> bool:
        """Whether the loop has not moved for `stall_ms`."""
        return self._stall_ms > 0 and self.late_ms > self._stall_ms

    async def run(self) -> None:
        """Note the time until cancelled."""
        if self._stall_ms == 0:
            return
        self._thread_id = threading.get_ident()
        self._seen_ms = self._clock.mono_ms()
        if self._start_thread is not None:
            self._start_thread(self._watch, "ropeway-watchdog")
        try:
            while True:
                self._seen_ms = self._clock.mono_ms()
                await asyncio.sleep(TICK_S)
        finally:
            self._ended.set()

    def _watch(self) -> None:
        warned = stuck = False
        looked_at, used_s = time.monotonic(), time.process_time()
        while not self._ended.wait(TICK_S):
            late_ms = self.late_ms
            waited_s, worked_s = time.monotonic() - looked_at, time.process_time() - used_s
            looked_at, used_s = looked_at + waited_s, used_s + worked_s
            if waited_s > 3 * TICK_S and worked_s < waited_s / 2:
                continue  # the whole process got no time: nobody here is to blame
            if late_ms < WARN_MS:
                warned = stuck = False
            elif not warned:
                warned = True
                self._warn(
                    "the event loop is blocked: use `await`, or make the task synchronous", late_ms
                )
            elif self.is_stuck() and not stuck:
                stuck = True
                self._warn("the event loop is stuck; leases are not prolonged any more", late_ms)

    def _warn(self, message: str, late_ms: int) -> None:
        frame = sys._current_frames().get(self._thread_id)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        stack = "".join(traceback.format_stack(frame)) if frame is not None else ""
        _log.warning("%s (%d ms)\n%s", message, late_ms, stack)
