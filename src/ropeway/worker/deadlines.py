"""Time limits of runs: one timer for all of them.

A timer per run costs 7 to 29 us; keeping the running ones in a set and looking through it when the
earliest limit is due costs under 1 us, and nothing for runs without a limit.
"""

import asyncio
import logging
from typing import Final

from ropeway.clock import Clock
from ropeway.errors import SoftTimeout
from ropeway.worker.run import HardTimeout, Run

_log = logging.getLogger("ropeway.worker")

REMIND_MS: Final = 1_000
_NEVER: Final = 2**62


class Deadlines:
    """Stops runs at their soft and hard limits; a run that goes on is stopped again each second."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._runs: dict[Run, None] = {}  # in the order of their starts
        self._next_ms = _NEVER
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, run: Run) -> None:
        """Begin to watch a run that has `soft_at_ms` or `hard_at_ms`."""
        self._runs[run] = None
        self._arm(_next_limit_ms(run))

    def forget(self, run: Run) -> None:
        """Stop watching; a run that is not watched is fine."""
        self._runs.pop(run, None)

    def close(self) -> None:
        """Forget everything."""
        self._runs.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self, at_ms: int) -> None:
        if at_ms >= self._next_ms:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._next_ms = at_ms
        delay_s = max(0, at_ms - self._clock.mono_ms()) / 1000
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._look)

    def _look(self) -> None:
        now_ms = self._clock.mono_ms()
        self._timer, self._next_ms = None, _NEVER
        earliest_ms = _NEVER
        for run in tuple(self._runs):
            if run.soft_at_ms is not None and run.soft_at_ms <= now_ms:
                run.soft_at_ms = None
                run.stop(SoftTimeout("the task's soft time limit has passed"))
            if run.hard_at_ms is not None and run.hard_at_ms <= now_ms:
                _stop_hard(run, now_ms)
            earliest_ms = min(earliest_ms, _next_limit_ms(run))
        if earliest_ms < _NEVER:
            self._arm(max(earliest_ms, now_ms + 1))


def _stop_hard(run: Run, now_ms: int) -> None:
    if isinstance(run.reason, HardTimeout):
        _log.warning("the handler goes on after its time limit", extra=run.label)
    run.hard_at_ms = now_ms + REMIND_MS
    what = "timeout" if run.hard_limit == "timeout" else "deadline"
    run.stop(HardTimeout(f"the run went past its {what} and was stopped", limit=run.hard_limit))


def _next_limit_ms(run: Run) -> int:
    soft_ms = _NEVER if run.soft_at_ms is None else run.soft_at_ms
    return soft_ms if run.hard_at_ms is None else min(soft_ms, run.hard_at_ms)
