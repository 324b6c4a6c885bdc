"""News of ends: who waits for jobs is told by the step that ends them."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence

from ropeway.brokers.redis import scripts
from ropeway.brokers.redis.encoding.records import read
from ropeway.brokers.redis.shard import Shard
from ropeway.brokers.redis.waiting import Doorbell
from ropeway.brokers.redis.wire.client import Client
from ropeway.job import JobRecord, JobRef

LOOK_AGAIN_S = 5.0
"""A server that lost its latest writes may have forgotten who waits."""


class _Waiter:
    """One of those who wait here for a job, by the name that it has now."""

    __slots__ = ("future", "ref")

    def __init__(self, ref: JobRef) -> None:
        self.ref = ref
        self.future: asyncio.Future[JobRecord | None] = asyncio.get_running_loop().create_future()


class News:
    """Waits for the ends of jobs of one shard."""

    def __init__(self, shard: Shard, client: Client, waiter: str) -> None:
        self._shard = shard
        self._waiter = waiter
        self._bell = Doorbell(client, shard.tag)
        self._list = (f"{shard.tag}:wl{waiter}:bell",)
        self._waiters: defaultdict[JobRef, set[_Waiter]] = defaultdict(set)

    async def close(self) -> None:
        """End what waits."""
        await self._bell.close()

    async def wait(self, refs: Sequence[JobRef], seconds: float) -> list[JobRecord | None]:
        """See `JobStore.wait`."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        found: list[JobRecord | None] = [None] * len(refs)
        waiting: dict[int, _Waiter] = {}
        open_refs = dict(enumerate(refs))
        try:
            while True:
                await self._look(open_refs, found, waiting)
                left = until - loop.time()
                if not open_refs or left <= 0:
                    return found
                await self._listen(waiting, min(left, LOOK_AGAIN_S))
                for place in [place for place, one in waiting.items() if one.future.done()]:
                    found[place] = waiting.pop(place).future.result()
                    del open_refs[place]
                if not open_refs:
                    return found
        finally:
            await self._forget(open_refs, waiting)

    async def _watch(self, refs: Iterable[JobRef], *, is_new: bool) -> list[bytes]:
        head = [part for ref in refs for part in (ref.id, ref.queue or False)]
        return await self._shard.run(scripts.WATCH, (self._waiter, is_new, *head))

    async def _look(
        self,
        open_refs: dict[int, JobRef],
        found: list[JobRecord | None],
        waiting: dict[int, _Waiter],
    ) -> None:
        """See which have ended already, and be told of the others."""
        for place, one in waiting.items():
            open_refs[place] = one.ref
        reply = await self._watch(open_refs.values(), is_new=True)
        ended: dict[int, JobRecord | None] = {}
        for at, place in zip(range(0, len(reply), 5), open_refs, strict=True):
            kind, queue, id_, words, packed = reply[at : at + 5]
            ref = JobRef(id_.decode(), queue.decode())
            if kind != b"waits":
                ended[place] = read(ref.id, queue.decode(), words, packed) if words else None
            elif place not in waiting:
                waiting[place] = one = _Waiter(ref)
                self._waiters[ref].add(one)
        if any(record is None and place in waiting for place, record in ended.items()):
            await self._hear()  # its record went with its end, and is on the way to us
        for place, record in ended.items():
            one = waiting.pop(place, None)
            found[place] = one.future.result() if one and one.future.done() else record
            self._leave(one)
            del open_refs[place]

    async def _listen(self, waiting: dict[int, _Waiter], seconds: float) -> None:
        """Until there are news of one of these, or the time is over."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while (left := until - loop.time()) > 0 and not any(
            one.future.done() for one in waiting.values()
        ):
            await self._bell.wait(self._list, left)
            await self._hear()

    async def _hear(self) -> None:
        """Take the news that have come, and tell them to all who wait here."""
        news = await self._shard.run(scripts.HEARD, (self._waiter,))
        for at in range(0, len(news), 4):
            queue, id_, words, packed = news[at : at + 4]
            ref = JobRef(id_.decode(), queue.decode())
            waiters = self._waiters.pop(ref, set())
            if packed and not words:
                moved = JobRef(ref.id, packed.decode())
                for one in waiters:
                    one.ref = moved
                self._waiters[moved] |= waiters
                continue
            record = read(ref.id, queue.decode(), words, packed) if words else None
            for one in waiters:
                if not one.future.done():
                    one.future.set_result(record)

    async def _forget(self, open_refs: dict[int, JobRef], waiting: dict[int, _Waiter]) -> None:
        """Wait no more; the server need not tell of what nobody here waits for."""
        for one in waiting.values():
            self._leave(one)
        refs = [waiting[place].ref if place in waiting else ref for place, ref in open_refs.items()]
        if left := [ref for ref in refs if ref not in self._waiters]:
            await self._watch(left, is_new=False)

    def _leave(self, one: _Waiter | None) -> None:
        if one is not None and one.ref in self._waiters:
            self._waiters[one.ref].discard(one)
            if not self._waiters[one.ref]:
                del self._waiters[one.ref]
