"""Edges of workflows between shards, and jobs on their way from one to another.

A step that concerns another shard writes what is to be told to its own outbox, atomically. Whoever
finds it there delivers it, in order, and takes it out when it has arrived; to be told twice changes
nothing. A child asks for parents that are not in its shard: who has one keeps a link to the child
and tells it the end; a parent that nobody has yet is asked for again by `maintain`.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, Final

from ropeway.brokers.redis import scripts
from ropeway.brokers.redis.cluster.shards import Shards
from ropeway.brokers.redis.encoding.records import read_unblocks
from ropeway.brokers.redis.shard import Shard
from ropeway.job import FINAL, Job, JobRef

DELIVERED_AT_ONCE: Final = 100
_ENDS: Final = {b"completed": "completed", b"dead": "failed", b"cancelled": "failed"}


async def deliver(shards: Shards, shard: Shard, at_most: int = 2**53) -> int:
    """Empty the outbox of a shard; how many jobs elsewhere have changed, `at_most` or so."""
    changed = 0
    while changed < at_most:
        entries = await shard.run(scripts.OUTBOX, ("read", DELIVERED_AT_ONCE))
        if not entries:
            break
        for number, kind, queue, *words in entries:
            if changed >= at_most:
                break
            changed += await _deliver_one(shards, shard, kind, queue.decode(), words)
            await shard.run(scripts.OUTBOX, ("drop", number))
    return changed


async def _deliver_one(
    shards: Shards, source: Shard, kind: bytes, queue: str, words: list[Any]
) -> int:
    shard = await shards.made(queue)
    if kind == b"job":
        id_, *parts = words
        await shard.run(scripts.ENQUEUE_POSTED, (queue, id_.decode()), parts)
        await _connect_one(shards, queue, id_.decode(), read_unblocks(parts[0]), has_parents=True)
        return 0
    if kind == b"move":
        id_, *parts = words
        await shard.run(scripts.MOVE, ("in", queue, id_.decode()), parts)
        await connect_waiting(shards, queue)
        return 0
    child, parent = words
    if kind == b"asked":
        await _unlink_if_over(shards, source, queue, child.decode(), parent.decode())
        return 0
    # of a parent: completed, failed, reopened
    head = ("told", child.decode(), parent.decode(), kind.decode())
    changed: int = await shard.run(scripts.KIN, head)
    return changed + await deliver_if_any(shards, shard)


async def deliver_if_any(shards: Shards, shard: Shard, at_most: int = 2**53) -> int:
    """`deliver` where there is something."""
    return await deliver(shards, shard, at_most) if await shard.has_post() else 0


async def maintain(shards: Shards, at_most: int = 2**53) -> int:
    """Deliver what nobody has, and ask again for parents; how many jobs have changed."""
    changed = 0
    for queue, shard in (await shards.every()).items():
        if changed < at_most:
            changed += await deliver_if_any(shards, shard, at_most - changed)
        if changed < at_most and await shard.has_waits():
            changed += await connect_waiting(shards, queue, at_most - changed)
    return changed


async def connect_waiting(shards: Shards, queue: str, at_most: int = 2**53) -> int:
    """Connect the jobs of a queue to parents elsewhere; how many have changed."""
    shard = shards.of(queue)
    waits: list[bytes] = await shard.run(scripts.KIN, ("waits",))
    changed = 0
    for child, parent, state in zip(waits[::3], waits[1::3], waits[2::3], strict=True):
        edge = parent.decode(), queue, child.decode()
        if state == b"over":
            await shards.ask_every(lambda other, edge=edge: _unlink(other, edge))
        elif changed < at_most:
            changed += await _connect(shards, edge)
    return changed + await deliver_if_any(shards, shard) if changed else 0


_Edge = tuple[str, str, str]  # the parent's id, the child's queue and id


async def _unlink(shard: Shard, edge: _Edge) -> None:
    await shard.run(scripts.KIN, ("unlink", *edge))


async def _unlink_if_over(
    shards: Shards, source: Shard, queue: str, child: str, parent: str
) -> None:
    """The record of a parent is kept until its children have ended."""
    state = await shards.of(queue).run(scripts.KIN, ("state", child))
    if state == b"none" or state.decode() in FINAL:
        await _unlink(source, (parent, queue, child))


async def _connect(shards: Shards, edge: _Edge) -> int:
    """Find the shard that has the parent, and have it tell the child its end.

    Until there is one, every shard knows that the parent is waited for.
    """
    parent, queue, child = edge
    every = {name: shard for name, shard in (await shards.every()).items() if name != queue}
    states = await asyncio.gather(
        *(shard.run(scripts.KIN, ("link", *edge)) for shard in every.values())
    )
    found = {name: state for name, state in zip(every, states, strict=True) if state != b"none"}
    if not found:
        return 0
    where, state = next(iter(found.items()))
    await asyncio.gather(*(_unlink(shard, edge) for name, shard in every.items() if name != where))
    head = ("told", child, parent, _ENDS.get(state, "linked"))
    return await shards.of(queue).run(scripts.KIN, head)


async def connect(shards: Shards, jobs: Iterable[Job]) -> None:
    """Connect new jobs to parents and to waiting jobs in other shards."""
    for job in jobs:
        if job.parents or job.unblocks:
            has_parents = bool(job.parents)
            await _connect_one(shards, job.queue, job.id, job.unblocks, has_parents=has_parents)


async def _connect_one(
    shards: Shards, queue: str, id_: str, unblocks: Sequence[JobRef], *, has_parents: bool
) -> None:
    waiting = {queue} if has_parents else set[str]()
    for child in unblocks:
        for name in [child.queue] if child.queue else await shards.names():
            if name != queue and await _await(shards.of(name), child.id, id_):
                waiting.add(name)
    await asyncio.gather(*(connect_waiting(shards, name) for name in waiting))


async def _await(shard: Shard, child: str, parent: str) -> bool:
    return bool(await shard.run(scripts.KIN, ("await", child, parent)))
