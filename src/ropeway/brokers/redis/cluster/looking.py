"""Looking at jobs of several shards."""

import asyncio
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator, Sequence

import msgspec

from ropeway.broker import FIND_SCAN_MAX, Filter, Page
from ropeway.brokers.redis import looking as of_shard
from ropeway.brokers.redis.cluster.shards import Shards, by_queue
from ropeway.brokers.redis.enqueueing import id_conflict
from ropeway.errors import ConfigError
from ropeway.job import Job, JobRecord, JobRef
from ropeway.matching import matches

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, int]).decode


async def get(shards: Shards, refs: Sequence[JobRef]) -> list[JobRecord | None]:
    """See `JobStore.get`."""
    found: list[JobRecord | None] = [None] * len(refs)
    named = [place for place, ref in enumerate(refs) if ref.queue is not None]
    groups = by_queue((refs[place] for place in named), lambda ref: ref.queue)
    parts = await asyncio.gather(
        *(
            of_shard.get(shards.of(queue), [refs[named[place]] for place in places])
            for queue, places in groups.items()
        )
    )
    for places, part in zip(groups.values(), parts, strict=True):
        for place, record in zip(places, part, strict=True):
            found[named[place]] = record
    unnamed = [place for place, ref in enumerate(refs) if ref.queue is None]
    if unnamed:
        asked = [refs[place] for place in unnamed]
        for part in await shards.ask_every(lambda shard: of_shard.get(shard, asked)):
            for place, record in zip(unnamed, part, strict=True):
                known = found[place]
                if record and (known is None or _age(record) < _age(known)):
                    found[place] = record
    return found


def _age(record: JobRecord) -> tuple[int, int]:
    return record.job.created_at_ms, record.status.seq


async def refuse_conflicts(shards: Shards, jobs: Sequence[Job]) -> None:
    """Raise IdConflict before any shard is written to.

    A conflict that arises meanwhile refuses the part of the call that goes to its queue.
    """
    met: dict[JobRef, Job] = {}
    for job, record in zip(jobs, await get(shards, [job.ref for job in jobs]), strict=True):
        known = met.setdefault(job.ref, job) if record is None else record.job
        if known.task != job.task or known.payload != job.payload:
            raise id_conflict(job.id, job.queue, known.task)


async def locate(shards: Shards, refs: Sequence[JobRef]) -> list[JobRef]:
    """The refs with their queues, as far as there are records."""
    if all(ref.queue is not None for ref in refs):
        return list(refs)
    records = await get(shards, refs)
    return [
        ref if record is None else record.job.ref for ref, record in zip(refs, records, strict=True)
    ]


async def find(shards: Shards, where: Filter, after: str | None, limit: int) -> Page:
    """See `JobStore.find`. Newest first by the time of creation; a seq is of one queue only."""
    below = _parse(after)
    names = await shards.names() if where.queue is None else [where.queue]
    streams = {
        name: of_shard.scan(shards.of(name), [name], below.get(name), FIND_SCAN_MAX + 1)
        for name in names
    }
    heads = {name: await anext(stream, None) for name, stream in streams.items()}
    records: list[JobRecord] = []
    scanned = 0
    while True:
        newest: str | None = None
        for name, record in heads.items():
            best = heads[newest] if newest is not None else None
            if record is not None and (best is None or _age(record) > _age(best)):
                newest = name
        if newest is None:
            return Page(records, None)
        if len(records) >= limit or scanned >= FIND_SCAN_MAX:
            return Page(records, urlsafe_b64encode(_encode(below)).decode())
        record = heads[newest]
        assert record is not None, "the newest is one of those that are there"
        scanned += 1
        below[newest] = record.status.seq
        if matches(record, where):
            records.append(record)
        heads[newest] = await anext(streams[newest], None)


def _parse(cursor: str | None) -> dict[str, int]:
    """Per queue, the seq of the last record that was looked at."""
    if cursor is None:
        return {}
    try:
        return _decode(urlsafe_b64decode(cursor.encode()))
    except (ValueError, msgspec.MsgspecError):
        raise ConfigError(f"cursor {cursor!r} is not one that find() returned") from None


async def every(shards: Shards, queue: str | None) -> AsyncIterator[JobRecord]:
    """All records, or those of a queue."""
    for name in await shards.names() if queue is None else [queue]:
        async for record in of_shard.scan(shards.of(name), [name], None, 2**53):
            yield record
