"""Gets batches from the broker: jobs that have gathered, for one call of a batch task each."""

import asyncio
import contextlib
import logging
from collections.abc import Mapping

from ropeway import crash
from ropeway.broker import JobStore
from ropeway.definition import Definition
from ropeway.errors import BrokerError
from ropeway.job import Lease
from ropeway.worker.fetcher import Fetcher
from ropeway.worker.handlers.batches import Batch
from ropeway.worker.options import WorkerOptions
from ropeway.worker.outage import Outage
from ropeway.worker.runner import Runner

_log = logging.getLogger("ropeway.worker")


class Aggregator:
    """Reserves one batch after the other while there is a slot for it.

    The fetcher works beside it and may take that slot first. Then the batch is the next to begin,
    and no other one is asked for meanwhile.
    """

    def __init__(
        self,
        broker: JobStore,
        tasks: Mapping[str, Definition],
        runner: Runner,
        fetcher: Fetcher,
        *,
        options: WorkerOptions,
        outage: Outage,
    ) -> None:
        self._broker = broker
        self._tasks = tasks
        self._runner = runner
        self._fetcher = fetcher
        self._options = options
        self._outage = outage
        self._wait_ms = min(options.wait_ms, options.lease_ms // 3)
        self._last: Batch | None = None  # the one that may wait for its slot
        self._changed = asyncio.Event()
        has_batches = any(task.batch is not None for task in tasks.values())
        self._expects_any = has_batches and broker.capabilities.groups
        if self._expects_any and options.burst:
            fetcher.take_batch = self.take  # who finds the end of the burst

    async def run(self) -> None:
        """Take batches until cancelled; return where none can come, and in a burst."""
        if self._options.burst or not self._expects_any:
            return
        self._runner.on_turn = self._changed.set
        failures = 0
        while True:
            self._changed.clear()
            if not self._may_take:
                with contextlib.suppress(TimeoutError):  # not everything that matters is told here
                    await asyncio.wait_for(self._changed.wait(), self._wait_ms / 1000)
                continue
            try:
                await self.take(wait_ms=self._wait_ms)
            except BrokerError as error:
                self._outage.failed("reserve_group", error)
                failures += 1
                await asyncio.sleep(self._outage.backoff_s(failures))
            except Exception:  # noqa: BLE001 - a bug in a broker must not end the worker
                _log.exception("taking a batch failed; trying again")
                failures += 1
                await asyncio.sleep(self._outage.backoff_s(failures))
            else:
                failures = 0

    async def take(self, *, wait_ms: int = 0) -> bool:
        """Take a batch that is ready, if there is a slot for it; whether there was one.

        Raises:
            BrokerError: the broker failed.
        """
        if not self._may_take:
            return False
        began_ms = self._runner.now_ms()
        leases = await self._broker.reserve_group(
            self._fetcher.queues,
            worker=self._options.id,
            lease_ms=self._options.lease_ms,
            wait_ms=wait_ms,
        )
        self._outage.worked()
        if leases:
            crash.point("worker.reserved")
            self._accept(leases, began_ms)
        return bool(leases)

    @property
    def _may_take(self) -> bool:
        """Whether there is a slot, and no batch here waits for one."""
        if self._fetcher.quiet or self._fetcher.is_occupied:
            return False
        if self._last is not None and self._last.definition is None:
            if self._fetcher.holds(self._last):
                return False
            self._last = None
        return self._runner.busy < self._runner.concurrency

    def _accept(self, leases: list[Lease], began_ms: int) -> None:
        """Start a batch. What may kill its worker runs alone, what is no batch here one by one."""
        alone = [lease for lease in leases if lease.suspect]
        for lease in alone:
            self._fetcher.accept([lease], began_ms)
        together = [lease for lease in leases if not lease.suspect]
        if not together:
            return
        task = self._tasks.get(together[0].job.task)
        if task is None or task.batch is None:
            self._fetcher.accept(together, began_ms)
            return
        batch = Batch.of(self._fetcher.hold(together, began_ms))
        self._last = batch
        self._fetcher.feed([batch])
