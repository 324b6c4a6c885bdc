"""Runs handlers: a fixed number of slots, each a task that takes one run after the other.

Slots stay, since a task per job costs 20 times as much, and only as many are woken as handlers
wait for something: one slot runs any number of handlers that never wait.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, cast

from ropeway.definition import Definition
from ropeway.job import JobRef
from ropeway.outcome import Outcome, Release
from ropeway.runtime import Runtime
from ropeway.worker.handlers import ending
from ropeway.worker.handlers.batches import Batch
from ropeway.worker.handlers.calls import Calls, Rest
from ropeway.worker.handlers.offloading import Begin, Offloading
from ropeway.worker.handlers.telling import Teller
from ropeway.worker.options import WorkerOptions
from ropeway.worker.run import Run, ShuttingDown, Stop
from ropeway.worker.settler import Items, Settler

_log = logging.getLogger("ropeway.worker")

SLOT_NAME: Final = "ropeway-slot"
CLOSE_S: Final = 1.0
TURN_MS: Final = 5
"""How long handlers that never wait are run before the rest of the loop has its turn."""


class Runner:
    """Feeds runs to handlers and their outcomes to the settler.

    Attributes:
        concurrency: how many runs may be in progress; may change at any time.
        busy: how many are.
        on_room: called when a run has ended and at most `room_at` are waiting for a slot.
        on_turn: called when runs have begun or ended.

    """

    def __init__(
        self,
        tasks: Mapping[str, Definition],
        settler: Settler,
        *,
        options: WorkerOptions,
        state: Any,
        runtime: Runtime,
        teller: Teller | None = None,
    ) -> None:
        self._settler = settler
        self._calls = calls = Calls(tasks, settler, state=state, runtime=runtime)
        self._begin = calls.begin
        if options.offload is not None:
            offloading = Offloading(calls.begin, options.offload, tasks=tasks, runtime=runtime)
            self._begin = offloading.begin
        if teller is not None:
            self._begin = partial(_begin_and_tell, teller, calls, self._begin)
        self.now_ms: Callable[[], int] = runtime.clock.mono_ms
        self._buffer: deque[Run] = deque()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._slots: dict[asyncio.Task[None], None] = {}  # this and the next: in order
        self._running: dict[Run, None] = {}
        self._turn_until_ms = 0
        self._turn_is_over = False
        self.concurrency: int = options.slots
        self.ended: int = 0
        self.on_room: Callable[[], None] | None = None
        self.on_turn: Callable[[], None] | None = None
        self.room_at = 0

    # -- what the other roles ask for --------------------------------------------------------

    @property
    def busy(self) -> int:
        """Runs in progress."""
        return len(self._running)

    @property
    def buffered(self) -> int:
        """Runs that wait for a slot."""
        return len(self._buffer)

    @property
    def running(self) -> list[Run]:
        """The runs in progress; those of a batch each by itself."""
        return [part for run in self._running for part in run.parts]

    def feed(self, runs: Sequence[Run]) -> None:
        """Take runs to be started as soon as there is a free slot."""
        self._buffer.extend(runs)
        if not self._turn_is_over:
            self._begin_turn()
        self._wake(1)

    def tune(self, concurrency: int) -> None:
        """Change the number of slots; running jobs are not disturbed."""
        self.concurrency = concurrency
        while self._idle:  # so that those in excess can end
            _finish(self._idle.popleft())
        self._wake(len(self._buffer))

    def release_waiting(self, unwanted: Callable[[Run], bool]) -> None:
        """Hand back, uncounted, the runs that wait here and are `unwanted`."""
        kept: deque[Run] = deque()
        for run in self._buffer:
            if any(map(unwanted, run.parts)):
                for part in run.parts:
                    self._settler.put(part, Release(lease=part.lease))
            else:
                kept.append(run)
        self._buffer = kept

    def named(self, ref: JobRef) -> list[Run]:
        """The runs of this job: in progress or waiting for a slot."""
        return [
            part
            for run in (*self._running, *self._buffer)
            for part in run.parts
            if part.is_named(ref)
        ]

    def stop(self, run: Run, reason: Stop) -> None:
        """Stop this run, or do not begin it."""
        if run in self._buffer:
            self._buffer.remove(run)
            self._settle(run, ending.of_stop(run.lease, reason))
        else:  # in progress, or a part of a batch
            run.stop(reason)

    def stop_all(self) -> None:
        """Stop every run because the worker ends; threads are left behind."""
        for run in self._running:
            run.stop(ShuttingDown("the worker stops"))

    async def close(self) -> None:
        """End slots, threads and processes. What still runs is cancelled and not waited for."""
        self._calls.closing()
        for slot in self._slots:
            slot.cancel()
        if self._slots:
            await asyncio.wait(self._slots, timeout=CLOSE_S)
        self._calls.close()

    # -- slots -------------------------------------------------------------------------------

    def _wake(self, wanted: int) -> None:
        """Let up to `wanted` more slots look at the buffer."""
        while wanted > 0 and self._idle:
            wanted -= _finish(self._idle.popleft())
        for _ in range(min(wanted, self.concurrency - len(self._slots))):
            slot = asyncio.create_task(self._slot(), name=SLOT_NAME)
            self._slots[slot] = None

    async def _slot(self) -> None:
        me = cast("asyncio.Task[None]", asyncio.current_task())
        try:
            while len(self._slots) <= self.concurrency:
                if not self._buffer:
                    idle = asyncio.get_running_loop().create_future()
                    self._idle.append(idle)
                    await idle
                elif self.now_ms() >= self._turn_until_ms:
                    self._end_turn()
                    await asyncio.sleep(0)
                else:
                    waiting = self._begin_some(self._turn_until_ms)
                    if waiting is not None:
                        await self._go_on(*waiting, me)
        finally:
            self._slots.pop(me, None)

    def _end_turn(self) -> None:
        """Begin another one when the rest of the loop has run: slots share it, however many."""
        if not self._turn_is_over:
            self._turn_is_over = True
            asyncio.get_running_loop().call_soon(self._begin_turn)

    def _begin_turn(self) -> None:
        self._turn_is_over = False
        self._turn_until_ms = self.now_ms() + TURN_MS

    def _begin_some(self, until_ms: int) -> tuple[Run, Rest] | None:
        """Begin runs until one has to wait for something: it, and what is left of it.

        None when no run is left or the time is over. Those that end at once, which is most of
        them, are settled together.
        """
        buffer, begin, now = self._buffer, self._begin, self.now_ms
        runs: list[Run] = []
        outcomes: list[Outcome] = []
        waiting: tuple[Run, Rest] | None = None
        while buffer and (now_ms := now()) < until_ms:
            run = buffer.popleft()
            if run.fence_at_ms <= now_ms:  # this process stood still: somebody else may run it
                self._settler.put(run, Release(lease=run.lease))
                continue
            try:
                outcome = begin(run)
            except Exception:  # noqa: BLE001 - nor may a bug of our own end the worker
                outcome = self._of_own_fault(run)
            if callable(outcome):
                waiting = run, outcome
                self._running[run] = None
                break
            if outcome is None or run.pending_progress is not None or run.lines:
                self._settle(run, outcome)
                self.ended += 1
            else:
                runs.append(run)
                outcomes.append(outcome)
        self.ended += len(runs)
        self._tell_of_room()  # first: the outcomes can go with the call that fetches more
        if runs:
            self._settler.put_all(Items(runs, outcomes))
        return waiting

    async def _go_on(self, run: Run, rest: Rest, slot: "asyncio.Task[None]") -> None:
        """Wait for the rest of a run, and let others begin meanwhile."""
        if self._buffer:
            self._wake(len(self._buffer))
        try:
            outcome = await rest(slot)
        except Exception:  # noqa: BLE001 - see `_begin_some`
            outcome = self._of_own_fault(run)
        finally:
            self._running.pop(run, None)
        self.ended += 1
        self._tell_of_room()
        self._settle(run, outcome)

    def _tell_of_room(self) -> None:
        if self.on_room is not None and len(self._buffer) <= self.room_at:
            self.on_room()
        if self.on_turn is not None:
            self.on_turn()

    def _of_own_fault(self, run: Run) -> Outcome | None:
        _log.exception("the worker itself failed", extra=run.label)
        if not isinstance(run, Batch):
            return ending.of_own_fault(run.lease)
        for part in run.parts:
            run.leave(part, ending.of_own_fault(part.lease))
        return None

    def _settle(self, run: Run, outcome: Outcome | None) -> None:
        if isinstance(run, Batch):
            for part, end in run.ended:
                part.interrupt = None
                self._settle(part, end)
        elif outcome is None:
            self._settler.drop(run)
        else:
            self._settler.put(run, outcome)


def _begin_and_tell(teller: Teller, calls: Calls, begin: Begin, run: Run) -> Outcome | Rest | None:
    """`Calls.begin` where somebody wants to know when handlers begin and end."""
    if calls.knows(run):
        teller.began(run)
    begun = begin(run)
    if callable(begun):
        return partial(_go_on_and_tell, teller, run, begun)
    teller.ended(run)
    return begun


async def _go_on_and_tell(
    teller: Teller, run: Run, rest: Rest, slot: "asyncio.Task[None]"
) -> Outcome | None:
    try:
        return await rest(slot)
    finally:
        teller.ended(run)


def _finish(idle: "asyncio.Future[None]") -> bool:
    """Wake the slot behind this future; False when it was cancelled."""
    if idle.done():
        return False
    idle.set_result(None)
    return True
