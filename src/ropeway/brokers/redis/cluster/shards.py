"""The shards of a store in a cluster: one for each queue, and one for what belongs to no queue."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeVar

from ropeway.brokers.redis import scripts
from ropeway.brokers.redis.options import Options
from ropeway.brokers.redis.shard import Shard
from ropeway.brokers.redis.wire.client import Client
from ropeway.clock import Clock

T = TypeVar("T")


class Shards:
    """Makes shards, and knows which queues there are."""

    def __init__(self, client: Client, options: Options, *, clock: Clock | None) -> None:
        self._client = client
        self._prefix = options.prefix
        self._clock = clock
        self._of: dict[str, Shard] = {}
        self._ruled: set[str] = set()  # queues that are listed and know the rules
        self.has_new: bool = False  # some queue was listed that was not there before
        self.meta: Shard = self._make(f"{{{self._prefix}}}")

    def _make(self, tag: str) -> Shard:
        return Shard(self._client, tag, clock=self._clock, in_cluster=True)

    @property
    def _names_key(self) -> str:
        return f"{self.meta.tag}:names"

    async def close(self) -> None:
        """End what waits."""
        await asyncio.gather(self.meta.close(), *(shard.close() for shard in self._of.values()))

    def of(self, queue: str) -> Shard:
        """The shard of a queue that may not be there yet."""
        shard = self._of.get(queue)
        if shard is None:
            shard = self._of[queue] = self._make(f"{{{self._prefix}:{queue}}}")
        return shard

    async def made(self, queue: str) -> Shard:
        """The shard of a queue that is to be written to.

        It is listed first and then given the rules; `declare` writes the rules first and then reads
        the list. So whichever comes later sees the other.
        """
        shard = self.of(queue)
        if queue not in self._ruled:
            added = await self._client.call(self.meta.tag, "SADD", self._names_key, queue)
            self.has_new = self.has_new or bool(added)
            rules = await self.meta.run(scripts.RULES, ["list", False])
            if rules:
                await shard.run(scripts.RULES, ["adopt", False], rules)
            self._ruled.add(queue)
        return shard

    async def names(self) -> list[str]:
        """All queues, by name."""
        found = await self._client.call(self.meta.tag, "SMEMBERS", self._names_key)
        return sorted(name.decode() for name in found)

    async def every(self) -> dict[str, Shard]:
        """The shards of all queues, by name."""
        return {name: self.of(name) for name in await self.names()}

    async def ask_every(self, ask: Callable[[Shard], Awaitable[T]]) -> list[T]:
        """The answers of all queues' shards, asked at the same time."""
        return list(await asyncio.gather(*(ask(shard) for shard in (await self.every()).values())))


def by_queue(items: Iterable[Any], queue_of: Callable[[Any], str]) -> dict[str, list[int]]:
    """Places of items by their queues, in the order of coming."""
    places: dict[str, list[int]] = {}
    for place, item in enumerate(items):
        places.setdefault(queue_of(item), []).append(place)
    return places


async def ask_by_queue(
    items: Sequence[Any],
    queue_of: Callable[[Any], str],
    ask: Callable[[str, list[Any]], Awaitable[Sequence[Any]]],
) -> list[Any]:
    """Ask for the items of each queue at the same time; answers by position."""
    places = by_queue(items, queue_of)
    if len(places) == 1:
        (queue,) = places
        return list(await ask(queue, list(items)))
    found: list[Any] = [None] * len(items)
    answers = await asyncio.gather(
        *(ask(queue, [items[place] for place in of]) for queue, of in places.items())
    )
    for of, part in zip(places.values(), answers, strict=True):
        for place, answer in zip(of, part, strict=True):
            found[place] = answer
    return found
