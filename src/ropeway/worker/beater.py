"""Prolongs every held lease in one batch, three times per lease, and carries what handlers say.

With a broker of its own it runs in a thread of its own, so that a handler which blocks the
worker's loop costs no lease. It does not prolong a run that is past its time limit, nor anything
while the worker's loop has been stuck for too long.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Future
from typing import Any, Final, cast

from ropeway import crash
from ropeway.broker import Beat, Entry, ExtendAnswer, JobStore
from ropeway.clock import Clock
from ropeway.errors import BrokerError
from ropeway.runtime import Runtime
from ropeway.worker.outage import Outage, open_patiently
from ropeway.worker.run import Run, in_order

_log = logging.getLogger("ropeway.worker")

OVERRUN_MS: Final = 2_000
"""How far past its limit a run is still prolonged: the time to stop it and settle."""

Answers = list[tuple[Run, ExtendAnswer]]


class Beater:
    """Keeps leases alive.

    Args:
        broker: used by `run`; in the thread of `start` it is one made by `broker_factory`.
        held: every run whose lease this worker holds; read from any thread.
        deliver: gets the answers that are not OK, in the thread that beats.
        is_stuck: whether the worker's loop has not moved for too long.
    """

    def __init__(
        self,
        broker: JobStore,
        held: set[Run],
        *,
        lease_ms: int,
        runtime: Runtime,
        outage: Outage,
        deliver: Callable[[Answers], None],
        is_stuck: Callable[[], bool],
    ) -> None:
        self._broker = broker
        self._held = held
        self._lease_ms = lease_ms
        self._clock = runtime.clock
        self._start_thread = runtime.start_thread
        self._outage = outage
        self._deliver = deliver
        self._is_stuck = is_stuck
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._urgent: set[Run] = set()
        self._closed = False

    def save(self, run: Run, data: bytes) -> Future[None]:
        """Store a cursor with a beat of its own, now; see `SaveQueue`. From any thread."""
        done: Future[None] = Future()
        before = run.pending_save
        if before is not None:  # overtaken: what is stored is newer than what it asked for
            done.add_done_callback(lambda _done: _end(before[1], saved=not done.cancelled()))
        run.pending_save = (data, done)
        if not self.ask(run):
            done.cancel()
        return done

    def ask(self, run: Run) -> bool:
        """Send a beat for this run now, from any thread; False when there are no more beats."""
        self._urgent.add(run)
        if self._closed or self._loop is None:
            return False
        try:
            self._loop.call_soon_threadsafe(self._wake.set)
        except RuntimeError:  # the thread of the beater has just ended
            return False
        return True

    @contextlib.asynccontextmanager
    async def beating(self, broker_factory: Callable[[], JobStore] | None) -> AsyncGenerator[None]:
        """Beat until the block ends: in a thread of its own where a second broker can be made."""
        if (
            broker_factory is not None
            and self._broker.capabilities.shared
            and self._start_thread is not None
        ):
            async with self.in_thread(broker_factory):
                yield
            return
        beating = asyncio.create_task(self.run(), name="ropeway-beater")
        try:
            yield
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def in_thread(self, broker_factory: Callable[[], JobStore]) -> AsyncGenerator[None]:
        """Beat in a thread of its own, with a broker of its own, until the block ends."""
        started = threading.Event()
        assert self._start_thread is not None, "without threads, `run` beats on the worker's loop"
        thread = self._start_thread(
            lambda: asyncio.run(self._main(broker_factory, started)), "ropeway-beater"
        )
        await asyncio.to_thread(started.wait)
        try:
            yield
        finally:
            if self._loop is not None and self._task is not None:
                with contextlib.suppress(RuntimeError):  # its loop has ended by itself
                    self._loop.call_soon_threadsafe(self._task.cancel)
            await asyncio.to_thread(thread.join, self._lease_ms / 1000)

    async def _main(self, broker_factory: Callable[[], JobStore], started: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._wake = asyncio.Event()
        started.set()
        with contextlib.suppress(asyncio.CancelledError):
            self._broker = broker_factory()
            await open_patiently(self._broker, self._outage)
            try:
                await self.run()
            finally:
                await self._broker.close()

    async def run(self) -> None:
        """Beat until cancelled."""
        self._loop = asyncio.get_running_loop()
        failures = 0
        wait_s = self._lease_ms / 3000
        next_at_s = self._loop.time() + wait_s
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(next_at_s):
                        await self._wake.wait()
                self._wake.clear()
                whole = self._loop.time() >= next_at_s
                try:
                    await self._beat(in_order(self._held if whole else self._take_urgent()))
                except BrokerError as error:
                    self._outage.failed("extend", error)
                    failures += 1
                    next_at_s = self._loop.time() + min(wait_s, self._outage.backoff_s(failures))
                except Exception:  # noqa: BLE001 - a bug in a broker must not end the worker
                    _log.exception("a beat failed")
                    next_at_s = self._loop.time() + wait_s
                else:
                    failures = 0
                    if whole:
                        next_at_s = self._loop.time() + wait_s
        finally:
            self._closed = True
            for run in self._take_urgent():
                _end_save(run, saved=False)

    def _take_urgent(self) -> set[Run]:
        runs = self._urgent.copy()
        self._urgent -= runs
        return runs

    async def _beat(self, runs: list[Run]) -> None:
        if not runs or self._is_stuck():
            return
        now_ms = self._clock.mono_ms()
        late_ms = now_ms - OVERRUN_MS
        alive = [run for run in runs if run.hard_at_ms is None or run.hard_at_ms > late_ms]
        batch_max = self._broker.capabilities.batch_max
        for first in range(0, len(alive), batch_max):
            batch = alive[first : first + batch_max]
            answers = await send_reports(
                self._broker, batch, lease_ms=self._lease_ms, clock=self._clock
            )
            self._outage.worked()
            noteworthy = [pair for pair in answers if pair[1] is not ExtendAnswer.OK]
            if noteworthy:
                self._deliver(noteworthy)


async def send_reports(
    broker: JobStore, runs: Sequence[Run], *, lease_ms: int, clock: Clock
) -> Answers:
    """Prolong the leases of `runs`, with their progress, cursors and lines.

    What could not be sent is kept for the next time. Raises BrokerError as the broker does.
    """
    began_ms = clock.mono_ms()
    carried = [(run, run.pending_progress, run.pending_save) for run in runs]
    beats = [
        Beat(lease=run.lease, progress=progress, saved=save[0] if save else None)
        for run, progress, save in carried
    ]
    extended = await broker.extend(beats, lease_ms=lease_ms)
    crash.point("worker.beaten")
    answers: Answers = []
    for (run, progress, save), answer in zip(carried, extended, strict=True):
        is_lost = answer.answer is ExtendAnswer.LOST
        if not is_lost:
            run.fence_at_ms = began_ms + lease_ms
        if run.pending_progress is progress:
            run.pending_progress = None
        if save is not None and run.pending_save is save:
            _end_save(run, saved=not is_lost)
        answers.append((run, answer.answer))
    await _send_lines(broker, runs, clock)
    return answers


async def _send_lines(broker: JobStore, runs: Sequence[Run], clock: Clock) -> None:
    taken: list[tuple[Run, tuple[str, str]]] = []
    for run in runs:
        while run.lines:
            taken.append((run, run.lines.popleft()))
    if not taken:
        return
    at_ms = clock.wall_ms()
    entries = [
        Entry(lease=run.lease, kind=cast(Any, kind), at_ms=at_ms, data=data)
        for run, (kind, data) in taken
    ]
    try:
        await broker.append(entries)
    except BrokerError:
        for run, line in reversed(taken):
            if run.lines is not None:
                run.lines.appendleft(line)
        raise


def _end_save(run: Run, *, saved: bool) -> None:
    pending, run.pending_save = run.pending_save, None
    if pending is not None:
        _end(pending[1], saved=saved)


def _end(done: Future[None], *, saved: bool) -> None:
    if not saved:
        done.cancel()
    elif done.set_running_or_notify_cancel():
        done.set_result(None)
