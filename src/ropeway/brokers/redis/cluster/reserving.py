"""Handing out jobs of several shards, one after the other: first the first, or by weights."""

import asyncio
from collections.abc import Mapping, Sequence

from ropeway.broker import Queues
from ropeway.brokers.redis.cluster.shards import Shards
from ropeway.brokers.redis.shard import Asked, Served
from ropeway.job import Lease
from ropeway.weighted import Shares


class Reserving:
    """The calls of one broker; it keeps whose turn it is among weighted queues."""

    def __init__(self, shards: Shards) -> None:
        self._shards = shards
        self._shares: dict[tuple[tuple[str, int], ...], Shares] = {}

    async def once(self, queues: Queues, *, worker: str, limit: int, lease_ms: int) -> Served:
        """What is there now."""
        call = _Call(self._shards, worker, limit, lease_ms)
        if not isinstance(queues, Mapping):
            for queue in queues:
                if call.left:
                    await call.take(queue, call.left)
            return call.served
        shares = self._shares.setdefault(tuple(queues.items()), Shares(queues))
        exhausted: set[str] = set()
        before = shares.credits()
        while call.left and len(exhausted) < len(queues):
            dealt = shares.deal(call.left, exhausted=frozenset(exhausted))
            for queue, places in dealt.items():
                if 0 < places <= call.left and await call.take(queue, places) < places:
                    exhausted.add(queue)
        if not call.leases:
            shares.restore(before)
        if call.passed_over is not None or call.has_suspect:
            shares.favour(call.passed_over)
        return call.served

    async def batch_once(self, queues: Sequence[str], *, worker: str, lease_ms: int) -> Served:
        """A batch that is ready now, of the first queue that has one."""
        sleeps: list[int] = []
        for queue in queues:
            served = await self._shards.of(queue).reserve_group([queue], worker, lease_ms)
            if served.leases:
                return served
            if served.sleep_ms is not None:
                sleeps.append(served.sleep_ms)
        return Served([], sleep_ms=min(sleeps, default=None))

    async def wait(self, queues: Sequence[str], seconds: float, *, batches: bool) -> None:
        """Return when there may be something in one of the queues, or after so many seconds."""
        waits = [
            asyncio.create_task(
                self._shards.of(queue).wait_for_jobs([queue], seconds, batches=batches)
            )
            for queue in queues
        ]
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        for task in done:
            task.result()


class _Call:
    def __init__(self, shards: Shards, worker: str, limit: int, lease_ms: int) -> None:
        self._shards = shards
        self._worker = worker
        self._limit = limit
        self._lease_ms = lease_ms
        self._sleeps: list[int] = []
        self._cut_short = False
        self.leases: list[Lease] = []
        self.passed_over: str | None = None

    @property
    def has_suspect(self) -> bool:
        return bool(self.leases) and self.leases[0].suspect

    @property
    def left(self) -> int:
        """How many more fit; none beside a suspect."""
        return 0 if self.has_suspect else self._limit - len(self.leases)

    async def take(self, queue: str, places: int) -> int:
        """Take up to so many jobs of a queue; how many."""
        asked = Asked([queue], self._worker, places, self._lease_ms, beside=bool(self.leases))
        served = await self._shards.of(queue).reserve(asked)
        self.leases += served.leases
        self.passed_over = self.passed_over or served.first
        self._cut_short = self._cut_short or served.cut_short
        if served.sleep_ms is not None:
            self._sleeps.append(served.sleep_ms)
        return len(served.leases)

    @property
    def served(self) -> Served:
        return Served(self.leases, self._cut_short, min(self._sleeps, default=None))
