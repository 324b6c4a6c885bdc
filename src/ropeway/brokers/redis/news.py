"""News of ends: who waits for jobs is told by the step that ends them."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence

from ropeway.brokers.redis import scripts
from ropeway.brokers.redis.records import read
from ropeway.brokers.redis.shard import Shard
from ropeway.brokers.redis.waiting import Doorbell
from ropeway.brokers.redis.wire.client import Client
from ropeway.job import JobRecord, JobRef

LOOK_AGAIN_S = 5.0
"""A server that lost its latest writes may have forgotten who waits."""

_Future = asyncio.Future[JobRecord | None]


class News:
    """Waits for the ends of jobs of one shard."""

    def __init__(self, shard: Shard, client: Client, waiter: str) -> None:
        self._shard = shard
        self._waiter = waiter
        self._bell = Doorbell(client, shard.tag)
        self._list = (f"{shard.tag}:wl{waiter}:bell",)
        self._futures: defaultdict[tuple[str, str], set[_Future]] = defaultdict(set)

    async def close(self) -> None:
        """End what waits."""
        await self._bell.close()

    async def wait(self, refs: Sequence[JobRef], seconds: float) -> list[JobRecord | None]:
        """See `JobStore.wait`."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        found: list[JobRecord | None] = [None] * len(refs)
        futures: dict[int, _Future] = {}
        open_refs = dict(enumerate(refs))
        try:
            while True:
                await self._look(open_refs, found, futures)
                left = until - loop.time()
                if not open_refs or left <= 0:
                    return found
                await self._listen(futures, min(left, LOOK_AGAIN_S))
                for place in [place for place, future in futures.items() if future.done()]:
                    found[place] = futures.pop(place).result()
                    del open_refs[place]
                if not open_refs:
                    return found
        finally:
            self._forget(futures)
            if open_refs:
                await self._watch(list(open_refs.values()), is_new=False)

    async def _watch(self, refs: Sequence[JobRef], *, is_new: bool) -> list[bytes]:
        head = [part for ref in refs for part in (ref.id, ref.queue or False)]
        return await self._shard.run(scripts.WATCH, (self._waiter, is_new, *head))

    async def _look(
        self,
        open_refs: dict[int, JobRef],
        found: list[JobRecord | None],
        futures: dict[int, _Future],
    ) -> None:
        """See which have ended already, and be told of the others."""
        reply = await self._watch(list(open_refs.values()), is_new=True)
        for at, place in zip(range(0, len(reply), 5), list(open_refs), strict=True):
            kind, queue, id_, words, packed = reply[at : at + 5]
            if kind == b"waits":
                if place not in futures:
                    name = queue.decode(), id_.decode()
                    future = futures[place] = asyncio.get_running_loop().create_future()
                    self._futures[name].add(future)
                continue
            if kind == b"final":
                found[place] = read(id_.decode(), queue.decode(), words, packed)
            del open_refs[place]

    async def _listen(self, futures: dict[int, _Future], seconds: float) -> None:
        """Until there are news of one of these, or the time is over."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while (left := until - loop.time()) > 0 and not any(f.done() for f in futures.values()):
            await self._bell.wait(self._list, left)
            self._tell(await self._shard.run(scripts.HEARD, (self._waiter,)))

    def _tell(self, news: Sequence[bytes]) -> None:
        for at in range(0, len(news), 4):
            queue, id_, words, packed = news[at : at + 4]
            name = queue.decode(), id_.decode()
            record = read(name[1], name[0], words, packed) if words else None
            for future in self._futures.pop(name, ()):
                if not future.done():
                    future.set_result(record)

    def _forget(self, futures: dict[int, _Future]) -> None:
        for name, waiting in list(self._futures.items()):
            waiting.difference_update(futures.values())
            if not waiting:
                del self._futures[name]
