"""Settles outcomes in batches, and keeps at it while the broker is away.

A lone outcome goes out at once. Under load, outcomes gather for a millisecond or until there are
100, or leave with the fetcher's next `exchange`, whichever comes first.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from ropeway import crash
from ropeway.broker import JobStore
from ropeway.errors import BrokerError
from ropeway.outcome import Ack, Bury, Outcome, Release, Retry, Settled
from ropeway.runtime import Runtime
from ropeway.worker.beater import send_reports
from ropeway.worker.handlers.ending import failure_of
from ropeway.worker.handlers.telling import Teller
from ropeway.worker.outage import Outage
from ropeway.worker.run import LeaseLost, Run

_log = logging.getLogger("ropeway.worker")

GATHER_MS: Final = 1
GATHER_MAX: Final = 100
BATCH_MAX: Final = 1_000


class Items:
    """Outcomes and the runs that they end, by position."""

    __slots__ = ("outcomes", "runs")

    def __init__(self, runs: list[Run], outcomes: list[Outcome]) -> None:
        self.runs: list[Run] = runs
        self.outcomes: list[Outcome] = outcomes

    def __len__(self) -> int:
        return len(self.runs)

    def __iter__(self) -> Iterator[tuple[Run, Outcome]]:
        return zip(self.runs, self.outcomes, strict=True)

    def __getitem__(self, part: slice) -> "Items":
        return Items(self.runs[part], self.outcomes[part])

    def add(self, run: Run, outcome: Outcome) -> None:
        """Add one."""
        self.runs.append(run)
        self.outcomes.append(outcome)

    def extend(self, other: "Items") -> None:
        """Add all of another one."""
        self.runs += other.runs
        self.outcomes += other.outcomes


class Settler:
    """Takes outcomes from the runner and gives them to the broker, each exactly once.

    A run stays in `held` until the broker has answered, so its lease is prolonged while an
    outcome waits for a broker that is away.
    """

    def __init__(
        self,
        broker: JobStore,
        held: set[Run],
        *,
        lease_ms: int,
        outage: Outage,
        runtime: Runtime,
        teller: Teller | None = None,
    ) -> None:
        self._broker = broker
        self._held = held
        self._lease_ms = lease_ms
        self._outage = outage
        self._runtime = runtime
        self._teller = teller
        self._clock = runtime.clock
        self._items = Items([], [])
        self._talkative = Items([], [])  # their reports go out first, so not by `exchange`
        self._answered: dict[Run, asyncio.Future[Settled]] = {}  # those who wait for the answer
        self._wake = asyncio.Event()
        self._sent_at_ms = 0
        self._in_flight = 0
        self.on_settled: Callable[[], None] | None = None
        self.processed: int = 0
        self.failed: int = 0

    @property
    def waiting(self) -> int:
        """Outcomes that the broker has not answered yet."""
        return len(self._items) + len(self._talkative) + self._in_flight

    def put(self, run: Run, outcome: Outcome) -> None:
        """Settle this soon."""
        (self._talkative if run.has_words else self._items).add(run, outcome)
        self._wake.set()

    def put_all(self, items: Items) -> None:
        """Settle these soon; none of the runs has words."""
        self._items.extend(items)
        self._wake.set()

    async def put_and_wait(self, run: Run, outcome: Outcome) -> Settled:
        """Settle this and return the broker's answer, however long that takes."""
        answered = self._answered[run] = asyncio.get_running_loop().create_future()
        self.put(run, outcome)
        try:
            return await answered
        finally:
            self._answered.pop(run, None)

    def drop(self, run: Run) -> None:
        """Let go of a run without a word: its lease is lost, or is to expire."""
        if self._teller is not None and isinstance(run.reason, LeaseLost) and run in self._held:
            self._teller.lost(run)
        self._held.discard(run)
        self._tell()

    def take(self) -> Items:
        """Outcomes for the fetcher's exchange; give them back by `answered` or `not_sent`."""
        items, self._items = self._items[:BATCH_MAX], self._items[BATCH_MAX:]
        self._in_flight += len(items)
        return items

    def answered(self, items: Items, answers: Sequence[Settled]) -> None:
        """Note what the broker said to outcomes that were taken."""
        self._in_flight -= len(items)
        self._sent_at_ms = self._clock.mono_ms()
        self._held.difference_update(items.runs)
        counted = items.outcomes
        if answers.count(Settled.LOST):
            for (run, outcome), answer in zip(items, answers, strict=True):
                if answer is Settled.LOST:
                    _warn_of_loss(run, outcome)
            pairs = zip(items.outcomes, answers, strict=True)
            counted = [outcome for outcome, answer in pairs if answer is not Settled.LOST]
        kinds = Counter(map(type, counted))
        failed = kinds[Retry] + kinds[Bury]
        self.processed += kinds[Ack] + failed
        self.failed += failed
        if self._answered:
            for run, answer in zip(items.runs, answers, strict=True):
                waiting = self._answered.get(run)
                if waiting is not None and not waiting.done():
                    waiting.set_result(answer)
        if self._teller is not None:
            for (run, outcome), answer in zip(items, answers, strict=True):
                self._teller.settled(run, outcome, answer)
        self._tell()

    def not_sent(self, items: Items) -> None:
        """Take back outcomes whose exchange failed: they are settled by the own loop."""
        self._in_flight -= len(items)
        items.extend(self._items)
        self._items = items
        self._wake.set()

    async def run(self) -> None:
        """Settle what comes, until cancelled."""
        failures = 0
        while True:
            await self._wake.wait()
            await self._gather()
            self._wake.clear()
            try:
                await self._flush()
            except BrokerError as error:
                self._outage.failed("settle", error)
                failures += 1
                self._wake.set()
                await asyncio.sleep(self._outage.backoff_s(failures))
            else:
                failures = 0

    async def _gather(self) -> None:
        """Under load, wait a moment for more to go in one call."""
        if self._clock.mono_ms() - self._sent_at_ms > GATHER_MS:
            return
        if len(self._items) + len(self._talkative) < GATHER_MAX:
            await asyncio.sleep(GATHER_MS / 1000)

    async def _flush(self) -> None:
        while self._talkative or self._items:
            if self._talkative:
                talkative, self._talkative = self._talkative, Items([], [])
                self._in_flight += len(talkative)
                try:
                    await send_reports(
                        self._broker, talkative.runs, lease_ms=self._lease_ms, clock=self._clock
                    )
                finally:  # only now: the fetcher's exchange would settle them before their reports
                    self._in_flight -= len(talkative)
                    self._items.extend(talkative)
            items = self.take()
            crash.point("worker.settling")
            try:
                answers = await self._broker.settle(items.outcomes)
            except BrokerError:
                self.not_sent(items)
                raise
            except Exception:  # noqa: BLE001 - a bug in a broker: find the outcome behind it
                self._in_flight -= len(items)
                _log.exception("the broker refused %d outcomes; settling one by one", len(items))
                await self._one_by_one(items)
            else:
                crash.point("worker.settled")
                self._outage.worked()
                self.answered(items, answers)

    async def _one_by_one(self, items: Items) -> None:
        """Find the outcome that the broker cannot take; the others must not suffer for it."""
        for place, (run, outcome) in enumerate(items):
            one = items[place : place + 1]
            self._in_flight += 1
            try:
                answers = await self._broker.settle(one.outcomes)
            except BrokerError:
                self.not_sent(one)
                self._items.extend(items[place + 1 :])
                raise
            except Exception as error:  # noqa: BLE001 - see above
                self._in_flight -= 1
                _log.exception("the broker refuses an outcome", extra=run.label)
                if isinstance(outcome, Bury | Release):
                    self.drop(run)  # nothing milder is left: its lease expires
                else:
                    failure = failure_of(run.lease, error, runtime=self._runtime)
                    self.put(run, Bury(lease=run.lease, failure=failure, reason="bad outcome"))
            else:
                self.answered(one, answers)

    def _tell(self) -> None:
        if self.on_settled is not None:
            self.on_settled()


def _warn_of_loss(run: Run, outcome: Outcome) -> None:
    _log.warning(
        "the lease was lost before the outcome (%s) was stored; the job runs again",
        type(outcome).__name__.lower(),
        extra=run.label,
    )
