"""Gets jobs from the broker: in batches, no more than will be started soon.

It fetches for the free slots, and ahead of them what the worker finished in the last 100 ms: a
worker with slow jobs fetches nothing ahead, one with fast jobs never waits for the broker. Nothing
is fetched ahead while tenants take turns in one of the queues: who is next is then decided when a
slot is free, and not before.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from ropeway import crash
from ropeway.broker import JobStore, Queues
from ropeway.errors import BrokerError
from ropeway.job import Lease
from ropeway.worker.options import WorkerOptions
from ropeway.worker.outage import Outage
from ropeway.worker.run import Run, SaveQueue, Stop
from ropeway.worker.runner import Runner
from ropeway.worker.settler import Settler

_log = logging.getLogger("ropeway.worker")

RATE_WINDOW_MS: Final = 100
BATCH_MAX: Final = 500
BURST_PAUSE_S: Final = 0.005


class Fetcher:
    """Reserves jobs while there is room, and gives them to the runner.

    Attributes:
        queues: may change at any time.
        prefetch: jobs that may wait for a slot, at most; see `fetch_ahead`.
        quiet: set to fetch no more; what is running goes on.
        fair: queues in which tenants take turns, as far as it is known.
        on_jobs: called when jobs have come.
        take_batch: asked in a burst when no single job is left: whether there was a batch.

    """

    def __init__(
        self,
        broker: JobStore,
        runner: Runner,
        settler: Settler,
        *,
        held: set[Run],
        saves: SaveQueue,
        options: WorkerOptions,
        outage: Outage,
    ) -> None:
        self._broker = broker
        self._runner = runner
        self._settler = settler
        self._held = held
        self._saves = saves
        self._options = options
        self._outage = outage
        self._wait_ms = min(options.wait_ms, options.lease_ms // 3)
        self._suspects: deque[Run] = deque()
        self._suspect: Run | None = None
        self._changed = asyncio.Event()
        self._window_at_ms = 0
        self._window_ended = 0
        self._recent = 0
        self.fair: set[str] = set()
        self.queues: Queues = options.queues
        self.prefetch: int = 0
        self.fetch_ahead(options.prefetch)
        self.quiet: bool = False
        self.on_jobs: Callable[[], None] | None = None
        self.take_batch: Callable[[], Awaitable[bool]] | None = None
        settler.on_settled = self._on_settled

    def recheck(self) -> None:
        """Something has changed: queues, slots, quiet."""
        self._changed.set()

    def fetch_ahead(self, prefetch: int) -> None:
        """Let so many jobs wait for a slot, at most; half of them may come with one call."""
        self.prefetch = prefetch
        batch_max = max(BATCH_MAX, prefetch // 2)
        self._batch_max = min(batch_max, self._broker.capabilities.batch_max)

    def be_quiet(self) -> None:
        """Fetch no more, and hand back what has not been started."""
        self.quiet = True
        self.release_waiting(lambda _run: True)

    def release_waiting(self, unwanted: Callable[[Run], bool]) -> None:
        """Hand back, uncounted, what has not been started and is `unwanted`."""
        self._pass_on(unwanted)
        self._runner.release_waiting(unwanted)

    def stop(self, run: Run, reason: Stop) -> None:
        """Stop this run, or do not begin it."""
        self._pass_on(lambda waiting: waiting is run)
        self._runner.stop(run, reason)

    def _pass_on(self, chosen: Callable[[Run], bool]) -> None:
        """Suspects that wait here go to the runner, which knows how to hand them back."""
        passed = [run for run in self._suspects if chosen(run)]
        for run in passed:
            self._suspects.remove(run)
        if passed:
            self._runner.feed(passed)
            self._changed.set()

    async def run(self) -> None:
        """Fetch until cancelled, or in a burst until there is nothing left."""
        failures = 0
        while True:
            try:
                if await self._turn():
                    return
            except BrokerError as error:
                self._outage.failed("reserve", error)
                failures += 1
                await asyncio.sleep(self._outage.backoff_s(failures))
            except Exception:  # noqa: BLE001 - a bug in a broker must not end the worker
                _log.exception("fetching failed; trying again")
                failures += 1
                await asyncio.sleep(self._outage.backoff_s(failures))
            else:
                failures = 0

    async def _turn(self) -> bool:
        """Wait for room, fetch once; True when a burst is over."""
        if self.quiet:
            await self._wait()
            return False
        if self.is_occupied:
            self._start_suspect()
            await self._wait()
            return False
        wanted = self._wanted()
        if wanted <= 0:
            await self._wait_for_room()
            return False
        return await self._fetch(wanted)

    async def _fetch(self, limit: int) -> bool:
        options = self._options
        items = self._settler.take()
        began_ms = self._runner.now_ms()
        if items:
            crash.point("worker.settling")
            try:
                answers, leases = await self._broker.exchange(
                    items.outcomes,
                    self.queues,
                    worker=options.id,
                    limit=limit,
                    lease_ms=options.lease_ms,
                )
            except BaseException:
                self._settler.not_sent(items)
                raise
            crash.point("worker.settled")
            self._settler.answered(items, answers)
        else:
            leases = await self._broker.reserve(
                self.queues,
                worker=options.id,
                limit=limit,
                lease_ms=options.lease_ms,
                wait_ms=0 if options.burst else self._wait_ms,
            )
        self._outage.worked()
        if leases:
            crash.point("worker.reserved")
            self.accept(leases, began_ms)
        elif options.burst and not items:
            if self.take_batch is not None and await self.take_batch():
                return False
            if not self._held and not self._settler.waiting:
                return True
            await asyncio.sleep(BURST_PAUSE_S)
        return False

    def accept(self, leases: list[Lease], began_ms: int) -> None:
        """Start these leases, which a call that began at that time has brought."""
        runs = self.hold(leases, began_ms)
        if leases[0].suspect:  # then it is the only one
            self._suspects.extend(runs)
            runs = []
            self._changed.set()
        self.feed(runs)

    def hold(self, leases: list[Lease], began_ms: int) -> list[Run]:
        """The runs of these leases, which are prolonged from now on."""
        fence_at_ms = began_ms + self._options.lease_ms
        now_ms = self._runner.now_ms()
        saves = self._saves
        runs = [Run(lease, saves, now_ms, fence_at_ms) for lease in leases]
        self._held.update(runs)
        if self.on_jobs is not None:
            self.on_jobs()
        for lease in leases:
            if lease.job.fair_key is not None:
                self.fair.add(lease.job.queue)
        return runs

    def feed(self, runs: Sequence[Run]) -> None:
        """Give runs to the runner."""
        if self.quiet:  # the answer to a call that began before
            self._runner.feed(runs)
            self.be_quiet()
        elif runs:
            self._runner.feed(runs)

    def holds(self, run: Run) -> bool:
        """Whether any lease of this run is still held."""
        return any(part in self._held for part in run.parts)

    @property
    def is_occupied(self) -> bool:
        """Whether a job that may kill this worker runs, or is to run, alone."""
        return bool(self._suspects) or self._suspect is not None

    # -- suspects ----------------------------------------------------------------------------

    def _start_suspect(self) -> None:
        """Start a suspect when nothing else is held; meanwhile hand back what can be."""
        if self._suspect is not None:
            if self._suspect in self._held:
                return
            self._suspect = None
        if not self._suspects:
            self._changed.set()
            return
        self._runner.release_waiting(lambda _run: True)
        if len(self._held) > len(self._suspects):
            return
        while len(self._suspects) > 1:  # a broker gives one at a time; two cannot be told apart
            self._runner.feed([self._suspects.pop()])
            self._runner.release_waiting(lambda _run: True)
        if len(self._held) == 1:
            self._suspect = self._suspects.popleft()
            _log.info("two workers died with this job; running it alone", extra=self._suspect.label)
            self._runner.feed([self._suspect])

    # -- room --------------------------------------------------------------------------------

    def _wanted(self) -> int:
        """How many jobs to ask for now; 0 while enough are waiting."""
        runner = self._runner
        free = runner.concurrency - runner.busy - runner.buffered
        ahead = self._ahead()
        if free <= 0 and runner.buffered > ahead // 2:
            return 0
        if self._options.max_jobs:
            left = self._options.max_jobs - runner.ended - runner.busy - runner.buffered
            return min(free + ahead, self._batch_max, left)
        return min(free + ahead, self._batch_max)

    def _ahead(self) -> int:
        if self.fair and not self.fair.isdisjoint(self.queues):
            return 0
        now_ms = self._runner.now_ms()
        if now_ms - self._window_at_ms >= RATE_WINDOW_MS:
            is_old = now_ms - self._window_at_ms >= 2 * RATE_WINDOW_MS
            self._recent = 0 if is_old else self._runner.ended - self._window_ended
            self._window_at_ms, self._window_ended = now_ms, self._runner.ended
        recent = max(self._recent, self._runner.ended - self._window_ended)
        return min(self.prefetch, recent)

    async def _wait(self) -> None:
        await self._changed.wait()
        self._changed.clear()

    async def _wait_for_room(self) -> None:
        self._runner.room_at = max(self._ahead() // 2, self._runner.concurrency)
        self._runner.on_room = self._on_room
        try:
            await self._wait()
        finally:
            self._runner.on_room = None

    def _on_room(self) -> None:
        if self._wanted() > 0:
            self._runner.on_room = None
            self._changed.set()

    def _on_settled(self) -> None:
        if self.is_occupied:
            self._changed.set()
