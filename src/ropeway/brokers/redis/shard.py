"""One shard of a store: the verbs of the contract as calls of scripts, all keys in one slot."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from ropeway import lifecycle
from ropeway.broker import (
    EVENTS_BYTES_KEPT,
    EVENTS_KEPT,
    Beat,
    Enqueued,
    Entry,
    ExtendAnswer,
    Extended,
    Maintained,
)
from ropeway.brokers.redis import scripts
from ropeway.brokers.redis.encoding.outcomes import Packed
from ropeway.brokers.redis.encoding.records import (
    encode_progress,
    read_job,
    read_status,
)
from ropeway.brokers.redis.enqueueing import Desk
from ropeway.brokers.redis.waiting import Doorbell
from ropeway.brokers.redis.wire.client import Client, Script, Word
from ropeway.clock import Clock
from ropeway.job import Job, Lease
from ropeway.outcome import Outcome, Settled

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode
_EXTENDED: Final[tuple[ExtendAnswer, ...]] = (
    ExtendAnswer.OK,
    ExtendAnswer.LOST,
    ExtendAnswer.CANCEL_REQUESTED,
    ExtendAnswer.PAUSED,
)
MAINTAINED: Final = ("promoted", "expired", "buried", "cascaded", "pruned")


class Served(NamedTuple):
    """What a script that hands out jobs has said besides them."""

    leases: list[Lease]
    cut_short: bool = False  # it did not look at all jobs that it may hand out: ask again
    sleep_ms: int | None = None  # until time alone lets a job start
    credits: list[int] | None = None
    first: str | None = None  # the queue to be dealt a place first


class Asked(NamedTuple):
    """A call of reserve; with weights, whose turn it is."""

    queues: Sequence[str]
    worker: str
    limit: int
    lease_ms: int
    weights: Sequence[int] | None = None
    credits: Sequence[int] | None = None
    first: str | None = None
    beside: bool = False  # jobs of another shard: a suspect does not come with them

    @property
    def head(self) -> tuple[Any, ...]:
        """As the script reads it."""
        return (
            self.worker,
            self.limit,
            self.lease_ms,
            self.queues,
            self.weights or False,
            self.credits or False,
            self.first or False,
            self.beside,
        )


class Shard:
    """The part of a store whose keys share a hash tag.

    Args:
        client: a connected client.
        tag: the prefix of every key, with the hash tag in braces.
        clock: tests move it by hand; None: the server's own.
        in_cluster: whether each queue is a shard of its own.
    """

    def __init__(
        self,
        client: Client,
        tag: str,
        *,
        clock: Clock | None,
        in_cluster: bool = False,
    ) -> None:
        self.client = client
        self.tag = tag
        self._clock = clock
        self._mode = "c" if in_cluster else ""
        self._desk = Desk(self._store, self._store_plain)
        self._bell = Doorbell(client, tag)

    async def close(self) -> None:
        """End what waits."""
        await self._bell.close()

    async def run(self, script: Script, head: Any = None, args: Sequence[Word] = ()) -> Any:
        """Run a script with its head and arguments."""
        return await self._run(script, b"" if head is None else _encode(head), args)

    async def _run(self, script: Script, head: bytes, args: Sequence[Word]) -> Any:
        now = f"{lifecycle.COMPLETED_KEPT}{self._mode}"
        if self._clock is not None:
            now = f"{now} {self._clock.wall_ms()} {self._clock.mono_ms()}"
        return await self.client.run(script, self.tag, (now, head, *args))

    def key(self, queue: str, name: str) -> str:
        """A key of a queue; see `lua/base.lua`."""
        return f"{self.tag}:{len(queue.encode())}:{queue}:{name}"

    # ------------------------------------------------------------------ the life of a job

    async def _store(self, head: bytes, args: Sequence[Word]) -> bytes:
        return await self._run(scripts.ENQUEUE, head, args)

    async def _store_plain(self, head: bytes, args: Sequence[Word]) -> int:
        return await self._run(scripts.ENQUEUE_PLAIN, head, args)

    async def enqueue(self, jobs: Sequence[Job], call_id: str | None) -> list[Enqueued]:
        """See `Broker.enqueue`."""
        return await self._desk.enqueue(jobs, call_id)

    async def reserve(self, asked: Asked) -> Served:
        """Hand out what is there now."""
        return _served(await self.run(scripts.RESERVE, asked.head))

    async def reserve_group(self, queues: Sequence[str], worker: str, lease_ms: int) -> Served:
        """Hand out a batch that is ready now."""
        return _served(await self.run(scripts.RESERVE_GROUP, (worker, lease_ms, queues)))

    async def wait_for_jobs(self, queues: Sequence[str], seconds: float, *, batches: bool) -> None:
        """Return when there may be something for `reserve`, or after so many seconds."""
        bell = "bbell" if batches else "bell"
        if queues:
            await self._bell.wait(tuple(self.key(queue, bell) for queue in queues), seconds)
        else:
            await asyncio.sleep(seconds)

    async def settle(self, outcomes: Sequence[Outcome]) -> list[Settled]:
        """See `Broker.settle`."""
        if not outcomes:
            return []
        packed = Packed(outcomes)
        reply = await self._run(scripts.SETTLE, _encode(packed.head), packed.args)
        return packed.answers(_decode(reply))

    async def exchange(
        self, outcomes: Sequence[Outcome], asked: Asked
    ) -> tuple[list[Settled], Served]:
        """Settle and hand out in one step."""
        packed = Packed(outcomes)
        head = _encode((packed.head, asked.head))
        reply = await self._run(scripts.EXCHANGE, head, packed.args)
        return packed.answers(_decode(reply[0])), _served(reply[1:])

    async def extend(self, beats: Sequence[Beat], lease_ms: int) -> list[Extended]:
        """See `Broker.extend`."""
        head: list[Any] = [lease_ms]
        args: list[Word] = []
        for beat in beats:
            job, progress, saved = beat.lease.job, beat.progress, beat.saved
            head.append(
                (job.queue, job.id, beat.lease.token, progress is not None, saved is not None)
            )
            if progress is not None:
                args.append(encode_progress(progress))
            if saved is not None:
                args.append(saved)
        until_ms, *answers = _decode(await self.run(scripts.EXTEND, head, args))
        return [Extended(_EXTENDED[int(code)], 0 if code == 1 else until_ms) for code in answers]

    async def append(self, entries: Sequence[Entry]) -> list[ExtendAnswer]:
        """See `JobStore.append`."""
        head: list[Any] = [EVENTS_KEPT, EVENTS_BYTES_KEPT]
        for entry in entries:
            lease = entry.lease
            head.append((lease.job.queue, lease.job.id, lease.token, entry.kind, entry.at_ms))
        reply = await self.run(scripts.APPEND, head, [entry.data.encode() for entry in entries])
        return [_EXTENDED[int(code)] for code in _decode(reply)]

    async def maintain(self, limits: Sequence[int]) -> Maintained:
        """See `Broker.maintain`; at most so many of each kind, in the order of `MAINTAINED`."""
        *done, next_ms = _decode(await self.run(scripts.MAINTAIN, (False, *limits)))
        return Maintained(
            **dict(zip(MAINTAINED, done, strict=True)),
            more=any(n >= limit for n, limit in zip(done, limits, strict=True)),
            next_ms=None if next_ms is False else int(next_ms),
        )

    async def maintain_idle(self) -> Maintained | None:
        """As `maintain` where there is nothing to do; else None, and nothing is done."""
        reply = _decode(await self.run(scripts.MAINTAIN, (True, 0, 0, 0, 0, 0)))
        if not reply:
            return None
        return Maintained(next_ms=None if reply[-1] is False else int(reply[-1]))

    async def abandon(self, workers: Sequence[str]) -> int:
        """See `JobStore.abandon`."""
        return await self.run(scripts.WORKERS, ("abandon", *workers))

    async def has_post(self) -> bool:
        """Whether there is something for other shards."""
        return bool(await self.client.call(self.tag, "EXISTS", f"{self.tag}:ob"))

    async def has_waits(self) -> bool:
        """Whether some job waits for one that may be in another shard."""
        return bool(await self.client.call(self.tag, "EXISTS", f"{self.tag}:fw"))


async def until_served(
    once: Callable[[], Awaitable[Served]], wait: Callable[[float], Awaitable[None]], wait_ms: int
) -> list[Lease]:
    """Ask until there are jobs or the time is over; sleep until there may be some."""
    now = asyncio.get_running_loop().time
    until = now() + wait_ms / 1000
    while True:
        served = await once()
        left = until - now()
        if served.leases or left <= 0:
            return served.leases
        if served.cut_short:
            continue
        if served.sleep_ms is not None:
            left = min(left, max(served.sleep_ms, 1) / 1000)
        await wait(left)


def _served(reply: Sequence[Any]) -> Served:
    """Read the reply of a script that hands out jobs."""
    token, until_ms, cut_short, sleep_ms, credits_, first, runs = _decode(reply[0])
    leases: list[Lease] = []
    at = 1
    for queue, n, is_first in zip(runs[::3], runs[1::3], runs[2::3], strict=True):
        if is_first:
            for place in range(at, at + 2 * n, 2):
                job = read_job(reply[place].decode(), queue, reply[place + 1])
                leases.append(Lease(job=job, attempt=1, token=token, expires_at_ms=until_ms))
            at += 2 * n
        else:
            for place in range(at, at + 3 * n, 3):
                id_, words, packed = reply[place : place + 3]
                job = read_job(id_.decode(), queue, words)
                leases.append(lifecycle.lease(job, read_status(job, words, packed)))
            at += 3 * n
    return Served(
        leases,
        cut_short,
        None if sleep_ms is False else int(sleep_ms),
        credits_ or None,
        first or None,
    )
