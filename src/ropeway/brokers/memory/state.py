"""What all verbs of the memory broker share: the table, clocks, counters and sleepers."""

import asyncio
from collections import OrderedDict, deque

import msgspec

from ropeway.broker import SIGNALS_KEPT_MS, Enqueued, Signal, WorkerInfo
from ropeway.brokers.memory.table import Table
from ropeway.capabilities import Capabilities
from ropeway.clock import Clock, ForwardClock
from ropeway.weighted import Shares

CAPABILITIES = Capabilities(
    name="memory",
    durable=False,
    shared=False,
    limits=True,
    fair=True,
    groups=True,
    durability="kept in this process's memory; gone when it ends",
)


class State:
    """The whole state of one memory broker."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.wall: ForwardClock = ForwardClock(clock)
        self.table: Table = Table()
        self.seq = 0
        self.token = 0
        self.cut_short = False  # the last reserve did not look at all jobs that it may hand out
        self.event_seq = 0
        # When a call came, and its answers unless every job of it was stored.
        self.calls: OrderedDict[str, tuple[int, list[Enqueued] | None]] = OrderedDict()
        self.paused: set[str] = set()
        self.shares: dict[tuple[tuple[str, int], ...], Shares] = {}
        self.workers: dict[str, WorkerInfo] = {}
        self.signals: deque[tuple[int, Signal]] = deque()
        self._signal_seq = 0
        self._sleepers: dict[asyncio.Future[None], None] = {}  # in the order of coming

    def signal(self, signal: Signal) -> None:
        """Number a signal, keep it for a minute and wake those who listen."""
        self._signal_seq += 1
        numbered = msgspec.structs.replace(signal, seq=self._signal_seq)
        self.signals.append((self.clock.mono_ms(), numbered))
        self.wake()

    def recent_signals(self) -> list[Signal]:
        """The signals of the last minute, oldest first."""
        oldest_ms = self.clock.mono_ms() - SIGNALS_KEPT_MS
        while self.signals and self.signals[0][0] < oldest_ms:
            self.signals.popleft()
        return [signal for _, signal in self.signals]

    def wake(self) -> None:
        """Let every sleeper look again."""
        for sleeper in self._sleepers:
            if not sleeper.done():
                sleeper.set_result(None)
        self._sleepers.clear()

    async def sleep(self, seconds: float) -> None:
        """Sleep until something changed that a waiter may care for, at most `seconds`."""
        sleeper: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers[sleeper] = None
        try:
            await asyncio.wait([sleeper], timeout=seconds)
        finally:
            self._sleepers.pop(sleeper, None)
