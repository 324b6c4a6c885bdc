"""What time asks for, in all shards: those that have something to do, one after the other."""

from ropeway.broker import Maintained
from ropeway.brokers.redis.cluster import kin
from ropeway.brokers.redis.cluster.shards import Shards
from ropeway.brokers.redis.shard import MAINTAINED


async def maintain(shards: Shards, limit: int) -> Maintained:
    """See `Broker.maintain`."""
    every = await shards.every()
    seen = await shards.ask_every(lambda shard: shard.maintain_idle())
    waits = [part.next_ms for part in seen if part is not None and part.next_ms is not None]
    left = dict.fromkeys(MAINTAINED, limit)
    for shard, idle in zip(every.values(), seen, strict=False):
        if idle is not None:
            continue
        part = await shard.maintain(list(left.values()))
        for kind in MAINTAINED:
            left[kind] -= getattr(part, kind)
        if part.next_ms is not None:
            waits.append(part.next_ms)
    left["cascaded"] -= await kin.maintain(shards, left["cascaded"])
    return Maintained(
        **{kind: limit - n for kind, n in left.items()},
        more=min(left.values()) <= 0,
        next_ms=min(waits, default=None),
    )
