"""One shard of a store: the verbs of the contract as calls of scripts, all keys in one slot."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final, NamedTuple

import msgspec

from ropeway import lifecycle
from ropeway.action import (
    Acted,
    Action,
    Answer,
    BuryJob,
    CancelJob,
    DeleteJob,
    EditJob,
    MoveJob,
    RetryJob,
    RunNow,
)
from ropeway.broker import (
    EVENTS_BYTES_KEPT,
    EVENTS_KEPT,
    SIGNALS_KEPT_MS,
    WORKER_GONE_MS,
    Beat,
    Enqueued,
    Entry,
    ExtendAnswer,
    Extended,
    JobEvent,
    KeyInfo,
    Maintained,
    QueueInfo,
    Signal,
    WorkerInfo,
)
from ropeway.brokers.redis import scripts
from ropeway.brokers.redis.enqueueing import Desk
from ropeway.brokers.redis.outcomes import Packed
from ropeway.brokers.redis.records import (
    encode_progress,
    read,
    read_job,
    read_status,
    seq_of,
    write_traits,
)
from ropeway.brokers.redis.server import Confirm
from ropeway.brokers.redis.waiting import Doorbell
from ropeway.brokers.redis.wire.client import Client, Script, Word
from ropeway.clock import Clock
from ropeway.job import Job, JobRecord, JobRef, Lease, State
from ropeway.outcome import Outcome, Settled

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode
_EXTENDED: Final = (
    ExtendAnswer.OK,
    ExtendAnswer.LOST,
    ExtendAnswer.CANCEL_REQUESTED,
    ExtendAnswer.PAUSED,
)
ACTED: Final = (Answer.DONE, Answer.REQUESTED, Answer.NOT_FOUND, Answer.REFUSED)
_ACTIONS: Final = {
    CancelJob: "cancel",
    RetryJob: "retry",
    RunNow: "run",
    BuryJob: "bury",
    MoveJob: "move",
    DeleteJob: "delete",
    EditJob: "edit",
}
_encode_signal = msgspec.msgpack.Encoder().encode
_decode_signal = msgspec.msgpack.Decoder(Signal).decode
_decode_worker = msgspec.msgpack.Decoder(WorkerInfo).decode
PURGED_AT_ONCE: Final = 1_000
MAINTAINED: Final = ("promoted", "expired", "buried", "cascaded", "pruned")
HOLDERS_SHOWN: Final = 100


class Served(NamedTuple):
    """What a script that hands out jobs has said besides them."""

    leases: list[Lease]
    cut_short: bool = False  # it did not look at all jobs that it may hand out: ask again
    sleep_ms: int | None = None  # until time alone lets a job start
    credits: list[int] | None = None
    first: str | None = None  # the queue to be dealt a place first


class Told(NamedTuple):
    """The answer to an action; of a running job that is to be told: which, and whose it is."""

    acted: Acted
    ref: JobRef | None = None
    worker: str | None = None


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
        confirm: what a write waits for before it is acknowledged.
        in_cluster: whether each queue is a shard of its own.
    """

    def __init__(
        self,
        client: Client,
        tag: str,
        *,
        clock: Clock | None,
        confirm: Confirm | None = None,
        in_cluster: bool = False,
    ) -> None:
        self._client = client
        self.tag = tag
        self._clock = clock
        self._confirm = confirm
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
        return await self._client.run(script, self.tag, (now, head, *args))

    async def _write(self, script: Script, head: bytes, args: Sequence[Word]) -> Any:
        """Run a script whose effect must be as durable as the broker promises."""
        reply = await self._run(script, head, args)
        if self._confirm is not None:
            await self._confirm(self.tag)
        return reply

    def key(self, queue: str, name: str) -> str:
        """A key of a queue; see `lua/base.lua`."""
        return f"{self.tag}:{len(queue.encode())}:{queue}:{name}"

    # ------------------------------------------------------------------ the life of a job

    async def _store(self, head: bytes, args: Sequence[Word]) -> bytes:
        return await self._write(scripts.ENQUEUE, head, args)

    async def _store_plain(self, head: bytes, args: Sequence[Word]) -> int:
        return await self._write(scripts.ENQUEUE_PLAIN, head, args)

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
        reply = await self._write(scripts.SETTLE, _encode(packed.head), packed.args)
        return packed.answers(_decode(reply))

    async def exchange(
        self, outcomes: Sequence[Outcome], asked: Asked
    ) -> tuple[list[Settled], Served]:
        """Settle and hand out in one step."""
        packed = Packed(outcomes)
        head = _encode((packed.head, asked.head))
        reply = await self._write(scripts.EXCHANGE, head, packed.args)
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
        return [Extended(_EXTENDED[code], 0 if code == 1 else until_ms) for code in answers]

    async def append(self, entries: Sequence[Entry]) -> list[ExtendAnswer]:
        """See `JobStore.append`."""
        head: list[Any] = [EVENTS_KEPT, EVENTS_BYTES_KEPT]
        for entry in entries:
            lease = entry.lease
            head.append((lease.job.queue, lease.job.id, lease.token, entry.kind, entry.at_ms))
        reply = await self.run(scripts.APPEND, head, [entry.data.encode() for entry in entries])
        return [_EXTENDED[code] for code in _decode(reply)]

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
        return bool(await self._client.call(self.tag, "EXISTS", f"{self.tag}:ob"))

    async def has_waits(self) -> bool:
        """Whether some job waits for one that may be in another shard."""
        return bool(await self._client.call(self.tag, "EXISTS", f"{self.tag}:fw"))

    # ------------------------------------------------------------------ operate

    async def act(self, actions: Sequence[Action]) -> list[Told]:
        """See `JobStore.act`."""
        head: list[Any] = []
        args: list[Word] = []
        for action in actions:
            ref = action.ref
            kind = _ACTIONS[type(action)]
            revision = action.if_revision if isinstance(action, EditJob) else None
            head.append(
                (
                    kind,
                    ref.id,
                    ref.queue or False,
                    _detail_of(action),
                    False if revision is None else revision,
                )
            )
            if isinstance(action, EditJob):
                args += write_traits(action.job)
        found: list[Told] = []
        replies = _decode(await self._write(scripts.ACT, _encode(head), args))
        for action, reply in zip(actions, replies, strict=True):
            code, state, text, *told = reply
            acted = Acted(ACTED[code], State(state) if state else None, text)
            found.append(
                Told(acted, JobRef(action.ref.id, told[0]), told[1]) if told else Told(acted)
            )
        return found

    async def pause(self, queue: str) -> None:
        """See `JobStore.pause`."""
        await self.run(scripts.QUEUE, ("pause", queue))

    async def resume(self, queue: str) -> None:
        """See `JobStore.resume`."""
        await self.run(scripts.QUEUE, ("resume", queue))

    async def purge(self, queue: str, states: AbstractSet[State]) -> int:
        """See `JobStore.purge`."""
        removed = 0
        while True:
            asked = ("purge", queue, dict.fromkeys(states, True), PURGED_AT_ONCE)
            done = await self.run(scripts.QUEUE, asked)
            removed += done
            if done < PURGED_AT_ONCE:
                return removed

    # ------------------------------------------------------------------ look

    async def get(self, refs: Sequence[JobRef]) -> list[JobRecord | None]:
        """See `JobStore.get`."""
        head = [part for ref in refs for part in (ref.id, ref.queue or False)]
        reply = await self.run(scripts.GET, head)
        return [
            read(ref.id, reply[at].decode(), reply[at + 1], reply[at + 2])
            if reply[at + 1]
            else None
            for ref, at in zip(refs, range(0, len(reply), 3), strict=True)
        ]

    async def scan(
        self, queues: Sequence[str] | None, below: int | None, at_most: int
    ) -> AsyncIterator[JobRecord]:
        """Records, newest first, with a seq below the given one."""
        while at_most > 0:
            asked = (queues or False, False if below is None else below, min(at_most, 500))
            reply = await self.run(scripts.FIND, asked)
            for at in range(0, len(reply), 4):
                queue, id_, words, packed = reply[at : at + 4]
                below = seq_of(words)
                yield read(id_.decode(), queue.decode(), words, packed)
            at_most -= len(reply) // 4
            if len(reply) // 4 < asked[2]:
                return

    async def peek(self, queue: str, limit: int, offset: int) -> list[JobRecord]:
        """See `JobStore.peek`."""
        reply = await self.run(scripts.PEEK, (queue, limit + offset))
        return [
            read(reply[at].decode(), queue, reply[at + 1], reply[at + 2])
            for at in range(3 * offset, len(reply), 3)
        ]

    async def queues(self) -> list[QueueInfo]:
        """See `JobStore.queues`."""
        return [
            QueueInfo(
                name=name,
                paused=paused,
                counts={State(state): n for state, n in (counts or {}).items()},
                oldest_due_ms=None if oldest is False else int(oldest),
            )
            for name, paused, counts, oldest in _decode(await self.run(scripts.QUEUES))
        ]

    async def events(self, ref: JobRef, after: int, limit: int) -> list[JobEvent]:
        """See `JobStore.events`."""
        reply = await self.run(scripts.EVENTS, (ref.id, ref.queue or False, after, limit))
        return [
            JobEvent(seq=seq, at_ms=at_ms, kind=kind, data=data)
            for seq, at_ms, kind, data in _decode(reply)
        ]

    async def keys(self, name: str, key: str | None, queue: str | None) -> list[KeyInfo]:
        """See `JobStore.keys`; with a queue, of its own limits."""
        asked = (name, False if key is None else key, queue or False, HOLDERS_SHOWN)
        infos = [
            KeyInfo(
                name=name,
                queue=scope,
                key=of_key,
                running=tuple(
                    JobRef(id_, of) for of, id_ in zip(refs[::2], refs[1::2], strict=True)
                ),
                used=used,
                parked=parked,
                opens_at_ms=None if opens_at_ms is False else int(opens_at_ms),
            )
            for scope, of_key, refs, used, parked, opens_at_ms in _decode(
                await self.run(scripts.KEYS, asked)
            )
        ]
        return infos if queue else sorted(infos, key=lambda i: (-i.parked, i.queue, i.key))

    # ------------------------------------------------------------------ tell

    async def send(self, signal: Signal) -> None:
        """See `JobStore.send`."""
        await self.run(scripts.SEND, (SIGNALS_KEPT_MS,), [_encode_signal(signal)])

    async def signals(self, after: int | None) -> list[Signal]:
        """Those that are there now."""
        asked = (False if after is None else after, SIGNALS_KEPT_MS)
        reply = await self.run(scripts.SIGNALS, asked)
        return [
            msgspec.structs.replace(_decode_signal(reply[at + 1]), seq=reply[at])
            for at in range(0, len(reply), 2)
        ]

    async def next_signals(self, after: int | None, wait_ms: int) -> list[Signal]:
        """See `JobStore.signals`."""
        found = await self.signals(after)
        if found or after is None or wait_ms <= 0:
            return found
        await self._wait_for_signal(after, wait_ms / 1000)
        return await self.signals(after)

    async def _wait_for_signal(self, after: int, seconds: float) -> None:
        await self._client.block(
            self.tag,
            "XREAD",
            "BLOCK",
            str(max(1, int(seconds * 1000))),
            "STREAMS",
            f"{self.tag}:sg",
            f"{after}-0",
            timeout_s=seconds,
        )

    async def heartbeat(self, worker: WorkerInfo) -> None:
        """See `JobStore.heartbeat`."""
        await self.run(scripts.WORKERS, ("beat", worker.id), [_encode(worker)])

    async def workers(self) -> list[WorkerInfo]:
        """See `JobStore.workers`."""
        reply = await self.run(scripts.WORKERS, ("list", WORKER_GONE_MS))
        found = [
            msgspec.structs.replace(_decode_worker(reply[at + 1]), seen_at_ms=reply[at])
            for at in range(0, len(reply), 2)
        ]
        return sorted(found, key=lambda worker: (worker.started_at_ms, worker.id))


def _detail_of(action: Action) -> str:
    """The reason, or the other queue."""
    if isinstance(action, CancelJob | BuryJob):
        return action.reason
    return action.queue if isinstance(action, MoveJob) else ""


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
