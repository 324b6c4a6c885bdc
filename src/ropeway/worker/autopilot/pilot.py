"""The thin part of adaptive concurrency: reads the worker's counters, applies what is decided."""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable
from typing import Final

from ropeway.worker.autopilot.climber import Change, Climber
from ropeway.worker.autopilot.window import Look
from ropeway.worker.fetcher import Fetcher
from ropeway.worker.maintainer import memory_bytes
from ropeway.worker.options import AUTO_START, WorkerOptions
from ropeway.worker.runner import Runner

_log = logging.getLogger("ropeway.worker")

AUTO: Final = 0
"""In the place of a number of slots, also in a signal: the worker shall find it."""
TELL_EVERY_S: Final = 3.0
TELL_AFTER_S: Final = 0.5
"""How long changes are gathered for a line."""
MEMORY_EVERY_S: Final = 0.25


class Pilot:
    """Steers the number of slots, until an operator sets it.

    Args:
        make_climber: a new one for each time that the number is to be found.
        cpu_s: CPU time of this process since its start.
    """

    def __init__(
        self,
        runner: Runner,
        fetcher: Fetcher,
        *,
        make_climber: Callable[[], Climber],
        cpu_s: Callable[[], float] = time.process_time,
    ) -> None:
        self._runner = runner
        self._fetcher = fetcher
        self._make_climber = make_climber
        self._cpu_s = cpu_s
        self._climber: Climber | None = None
        self._engaged = asyncio.Event()
        self._prefetch = fetcher.prefetch
        self._told = 0  # the number of slots of the last line
        self._untold: tuple[float, Change] | None = None  # since when, and the newest
        self._told_at_s = 0.0
        self._memory = 0
        self._memory_at_s = 0.0

    def tune(self, concurrency: int) -> None:
        """Keep to this number of slots; `AUTO`: find it from now on, beginning anew."""
        if concurrency == AUTO:
            climber = self._climber = self._make_climber()
            self._told, self._untold = climber.limit, None
            self._runner.tune(climber.limit)
            self._engaged.set()
        else:
            self._let_go()
            self._runner.tune(concurrency)

    def _let_go(self) -> None:
        self._engaged.clear()
        self._climber = None
        self._fetcher.fetch_ahead(self._prefetch)

    async def run(self) -> None:
        """Steer until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                await self._engaged.wait()
                climber = self._climber
                assert climber is not None, "there is one while this steers"
                due_s = loop.time() + climber.next_look_s
                if climber.is_resting:
                    await self._until_jobs_come(climber.next_look_s)
                else:
                    await asyncio.sleep(climber.next_look_s)
                if climber is not self._climber:  # somebody has meddled meanwhile
                    continue
                now_s = loop.time()
                try:
                    self._steer(climber, now_s, lag_s=max(0.0, now_s - due_s))
                except Exception:  # noqa: BLE001 - a bug here must not end the worker
                    _log.exception("the concurrency stays as it is: finding it has failed")
                    self._let_go()
        finally:
            self._tell()

    async def _until_jobs_come(self, most_s: float) -> None:
        """An idle worker costs next to nothing, and is looked at as soon as it has work."""
        coming = asyncio.Event()
        self._fetcher.on_jobs = coming.set
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(coming.wait(), most_s)
        self._fetcher.on_jobs = None

    def _steer(self, climber: Climber, now_s: float, *, lag_s: float) -> None:
        runner, fetcher = self._runner, self._fetcher
        if now_s - self._memory_at_s > MEMORY_EVERY_S:
            self._memory, self._memory_at_s = memory_bytes(), now_s
        change = climber.look(
            Look(
                at_s=now_s,
                ended=runner.ended,
                busy=runner.busy,
                waiting=runner.buffered,
                cpu_s=self._cpu_s(),
                lag_s=lag_s,
                memory_bytes=self._memory,
            )
        )
        prefetch = self._prefetch if climber.may_fetch_ahead else 0
        if prefetch != fetcher.prefetch:
            fetcher.fetch_ahead(prefetch)
        if change is not None:
            runner.tune(change.limit)
            fetcher.recheck()
            _log.debug("concurrency %d: %s", change.limit, change.why)
            self._note(change, now_s)
        if self._untold is not None and now_s - self._untold[0] > TELL_AFTER_S:
            self._tell_at(now_s)

    def _note(self, change: Change, now_s: float) -> None:
        """Keep a change for the next line, unless it is a trial or undoes all others."""
        if change.settled == self._told:
            self._untold = None
        elif self._untold is None:
            self._untold = now_s, change
        elif change.settled != self._untold[1].settled:
            self._untold = self._untold[0], change

    def _tell_at(self, now_s: float) -> None:
        if now_s - self._told_at_s > TELL_EVERY_S:
            self._told_at_s = now_s
            self._tell()

    def _tell(self) -> None:
        if self._untold is None:
            return
        change = self._untold[1]
        seen = f" ({change.seen})" if change.seen is not None else ""
        _log.info("concurrency %d -> %d: %s%s", self._told, change.settled, change.why, seen)
        self._told, self._untold = change.settled, None


def make_climber(options: WorkerOptions, *, has_processes: bool) -> Climber:
    """A climber as the options say; where slots are processes, it begins with one for each core."""
    return Climber(
        start=min(AUTO_START, os.cpu_count() or 1) if has_processes else AUTO_START,
        most=options.concurrency_max,
        memory_max_bytes=options.max_memory_bytes,
        bold=not has_processes,
    )
