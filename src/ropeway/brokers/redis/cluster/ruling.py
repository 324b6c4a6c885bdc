"""Rules in a cluster: every shard has them all, and one that has no queue is asked for them."""

from collections.abc import Sequence

from ropeway.broker import KeyInfo
from ropeway.brokers.redis import looking, ruling
from ropeway.brokers.redis.cluster.shards import Shards
from ropeway.errors import Unsupported
from ropeway.flow.rules import QUEUE_PREFIX, LimitRule, Rule


async def declare(shards: Shards, rules: Sequence[Rule]) -> None:
    """See `JobStore.declare`."""
    _refuse(rules)
    await ruling.declare(shards.meta, rules)
    await shards.ask_every(lambda shard: ruling.declare(shard, rules))


async def override(shards: Shards, rules: Sequence[Rule], *, force: bool) -> None:
    """See `JobStore.override`; every shard is asked before one is changed."""
    _refuse(rules)
    if not force:
        for shard in (shards.meta, *(await shards.every()).values()):
            await ruling.check_override(shard, rules)
    await ruling.override(shards.meta, rules, force=force)
    await shards.ask_every(lambda shard: ruling.override(shard, rules, force=True))


async def reset(shards: Shards, rules: Sequence[Rule]) -> int:
    """See `JobStore.reset`."""
    count = await ruling.reset(shards.meta, rules)
    await shards.ask_every(lambda shard: ruling.reset(shard, rules))
    return count


async def keys(shards: Shards, name: str, key: str | None) -> list[KeyInfo]:
    """See `JobStore.keys`."""
    if name.startswith(QUEUE_PREFIX):
        queue = name.removeprefix(QUEUE_PREFIX)
        return await looking.keys(shards.of(queue), name, key, queue)
    parts = await shards.ask_every(lambda shard: looking.keys(shard, name, key, None))
    infos = [info for part in parts for info in part]
    return sorted(infos, key=lambda info: (-info.parked, info.queue, info.key))


def _refuse(rules: Sequence[Rule]) -> None:
    for rule in rules:
        if isinstance(rule, LimitRule) and rule.scope == "app":
            raise Unsupported(
                f"limit {rule.name!r}: in a Redis Cluster each queue is in a slot of its own, so "
                "nobody counts over all of them. Give it scope='queue', or use one Redis"
            )
