"""Settles outcomes in batches, and keeps at it while the broker is away.

A lone outcome goes out at once. Under load, outcomes gather for a millisecond or until there are
100, or leave with the fetcher's next `exchange`, whichever comes first.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from ropeway import crash
from ropeway.broker import JobStore
from ropeway.errors import BrokerError
from ropeway.outcome import Ack, Bury, Outcome, Release, Retry, Settled
from ropeway.runtime import Runtime
from ropeway.worker.beater import send_reports
from ropeway.worker.handlers.ending import failure_of
from ropeway.worker.outage import Outage
from ropeway.worker.run import Run

_log = logging.getLogger("ropeway.worker")

GATHER_MS: Final = 1
GATHER_MAX: Final = 100
BATCH_MAX: Final = 1_000

Item = tuple[Run, Outcome]


class Settler:
    """Takes outcomes from the runner and gives them to the broker, each exactly once.

    A run stays in `held` until the broker has answered, so its lease is prolonged while an
    outcome waits for a broker that is away.
    """

    def __init__(
        self, broker: JobStore, held: set[Run], *, lease_ms: int, outage: Outage, runtime: Runtime
    ) -> None:
        self._broker = broker
        self._held = held
        self._lease_ms = lease_ms
        self._outage = outage
        self._runtime = runtime
        self._clock = runtime.clock
        self._items: list[Item] = []
        self._talkative: list[Item] = []  # their reports go out first, so not by `exchange`
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
        is_talkative = run.pending_progress is not None or run.lines
        (self._talkative if is_talkative else self._items).append((run, outcome))
        self._wake.set()

    async def put_and_wait(self, run: Run, outcome: Outcome) -> Settled:
        """Settle this and return the broker's answer, however long that takes."""
        run.answered = asyncio.get_running_loop().create_future()
        self.put(run, outcome)
        return await run.answered

    def drop(self, run: Run) -> None:
        """Let go of a run without a word: its lease is lost, or is to expire."""
        self._held.discard(run)
        self._tell()

    def take(self) -> list[Item]:
        """Outcomes for the fetcher's exchange; give them back by `answered` or `not_sent`."""
        items, self._items = self._items[:BATCH_MAX], self._items[BATCH_MAX:]
        self._in_flight += len(items)
        return items

    def answered(self, items: Sequence[Item], answers: Sequence[Settled]) -> None:
        """Note what the broker said to outcomes that were taken."""
        self._in_flight -= len(items)
        self._sent_at_ms = self._clock.mono_ms()
        for (run, outcome), answer in zip(items, answers, strict=True):
            self._held.discard(run)
            if answer is Settled.LOST:
                _log.warning(
                    "the lease was lost before the outcome (%s) was stored; the job runs again",
                    type(outcome).__name__.lower(),
                    extra=run.label,
                )
            elif type(outcome) is Ack:
                self.processed += 1
            elif isinstance(outcome, Retry | Bury):
                self.processed += 1
                self.failed += 1
            if run.answered is not None and not run.answered.done():
                run.answered.set_result(answer)
        self._tell()

    def not_sent(self, items: Sequence[Item]) -> None:
        """Take back outcomes whose exchange failed: they are settled by the own loop."""
        self._in_flight -= len(items)
        self._items[:0] = items
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
                talkative, self._talkative = self._talkative, []
                self._in_flight += len(talkative)
                runs = [run for run, _ in talkative]
                try:
                    await send_reports(
                        self._broker, runs, lease_ms=self._lease_ms, clock=self._clock
                    )
                finally:  # only now: the fetcher's exchange would settle them before their reports
                    self._in_flight -= len(talkative)
                    self._items.extend(talkative)
            items = self.take()
            crash.point("worker.settling")
            try:
                answers = await self._broker.settle([outcome for _, outcome in items])
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

    async def _one_by_one(self, items: Sequence[Item]) -> None:
        """Find the outcome that the broker cannot take; the others must not suffer for it."""
        for place, (run, outcome) in enumerate(items):
            self._in_flight += 1
            try:
                answers = await self._broker.settle([outcome])
            except BrokerError:
                self.not_sent([(run, outcome)])
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
                self.answered([(run, outcome)], answers)

    def _tell(self) -> None:
        if self.on_settled is not None:
            self.on_settled()
