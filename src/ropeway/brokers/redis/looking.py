"""Looking at the jobs and queues of a shard."""

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Final, NamedTuple

import msgspec

from ropeway.broker import Filter, JobEvent, KeyInfo, QueueInfo
from ropeway.brokers.redis import scripts
from ropeway.brokers.redis.encoding.records import read, seq_of
from ropeway.brokers.redis.shard import Shard
from ropeway.job import JobRecord, JobRef, State

_decode = msgspec.msgpack.Decoder().decode
_decode_queues = msgspec.msgpack.Decoder(
    list[tuple[str, bool, dict[str, int] | bool, float | bool]]
).decode
HOLDERS_SHOWN: Final = 100


async def get(shard: Shard, refs: Sequence[JobRef]) -> list[JobRecord | None]:
    """See `JobStore.get`."""
    head = [part for ref in refs for part in (ref.id, ref.queue or False)]
    reply = await shard.run(scripts.GET, head)
    return [
        read(ref.id, reply[at].decode(), reply[at + 1], reply[at + 2]) if reply[at + 1] else None
        for ref, at in zip(refs, range(0, len(reply), 3), strict=True)
    ]


async def scan(
    shard: Shard, queues: Sequence[str] | None, below: int | None, at_most: int
) -> AsyncIterator[JobRecord]:
    """Records, newest first, with a seq below the given one."""
    while at_most > 0:
        asked = (queues or False, False if below is None else below, min(at_most, 500))
        reply = await shard.run(scripts.FIND, asked)
        for at in range(0, len(reply), 4):
            queue, id_, words, packed = reply[at : at + 4]
            below = seq_of(words)
            yield read(id_.decode(), queue.decode(), words, packed)
        at_most -= len(reply) // 4
        if len(reply) // 4 < asked[2]:
            return


async def peek(shard: Shard, queue: str, limit: int, offset: int) -> list[JobRecord]:
    """See `JobStore.peek`."""
    reply = await shard.run(scripts.PEEK, (queue, limit + offset))
    return [
        read(reply[at].decode(), queue, reply[at + 1], reply[at + 2])
        for at in range(3 * offset, len(reply), 3)
    ]


async def queues(shard: Shard) -> list[QueueInfo]:
    """See `JobStore.queues`."""
    return [
        QueueInfo(
            name=name,
            paused=paused,
            counts={}
            if isinstance(counts, bool)
            else {State(state): n for state, n in counts.items()},
            oldest_due_ms=None if oldest is False else int(oldest),
        )
        for name, paused, counts, oldest in _decode_queues(await shard.run(scripts.QUEUES))
    ]


async def events(shard: Shard, ref: JobRef, after: int, limit: int) -> list[JobEvent]:
    """See `JobStore.events`."""
    reply = await shard.run(scripts.EVENTS, (ref.id, ref.queue or False, after, limit))
    return [
        JobEvent(seq=seq, at_ms=at_ms, kind=kind, data=data)
        for seq, at_ms, kind, data in _decode(reply)
    ]


async def keys(shard: Shard, name: str, key: str | None, queue: str | None) -> list[KeyInfo]:
    """See `JobStore.keys`; with a queue, of its own limits."""
    asked = (name, False if key is None else key, queue or False, HOLDERS_SHOWN)
    infos = [
        KeyInfo(
            name=name,
            queue=scope,
            key=of_key,
            running=tuple(JobRef(id_, of) for of, id_ in zip(refs[::2], refs[1::2], strict=True)),
            used=used,
            parked=parked,
            opens_at_ms=None if opens_at_ms is False else int(opens_at_ms),
        )
        for scope, of_key, refs, used, parked, opens_at_ms in _decode(
            await shard.run(scripts.KEYS, asked)
        )
    ]
    return infos if queue else sorted(infos, key=lambda i: (-i.parked, i.queue, i.key))


class Counted(NamedTuple):
    """A number that is known; unlike the number itself, never false."""

    n: int


def count_of(where: Filter, queues: Iterable[QueueInfo]) -> Counted | None:
    """What the counters of the queues say, where the filter asks for no more than they know."""
    if where != Filter(states=where.states, queue=where.queue):
        return None
    return Counted(
        sum(
            n
            for info in queues
            for state, n in info.counts.items()
            if where.queue in {None, info.name} and (where.states is None or state in where.states)
        )
    )
