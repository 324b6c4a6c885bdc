"""`ClusterBroker`: the contract on a Redis Cluster, each queue in a slot of its own."""

import asyncio
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Self

from ropeway.action import Acted, Action, Answer, EditJob
from ropeway.broker import (
    Beat,
    Enqueued,
    Entry,
    ExtendAnswer,
    Extended,
    Filter,
    JobEvent,
    KeyInfo,
    Maintained,
    Page,
    QueueInfo,
    Queues,
    Signal,
    WorkerInfo,
)
from ropeway.brokers.redis import looking as of_shard
from ropeway.brokers.redis import operating, server, telling
from ropeway.brokers.redis.cluster import kin, looking, maintaining, moving, ruling
from ropeway.brokers.redis.cluster.reserving import Reserving
from ropeway.brokers.redis.cluster.shards import Shards, ask_by_queue, by_queue
from ropeway.brokers.redis.news import News
from ropeway.brokers.redis.options import parse_options
from ropeway.brokers.redis.ruling import infos
from ropeway.brokers.redis.shard import Asked, until_served
from ropeway.brokers.redis.wire.address import parse
from ropeway.brokers.redis.wire.client import Client, connect
from ropeway.capabilities import Capabilities
from ropeway.clock import Clock
from ropeway.errors import Disconnected
from ropeway.flow.rules import Rule, RuleInfo
from ropeway.job import Job, JobRecord, JobRef, Lease, State
from ropeway.matching import matches
from ropeway.outcome import Ack, Outcome, Settled
from ropeway.runtime import new_id

ALL_BUT_RUNNING = frozenset(State) - {State.RUNNING}


class ClusterBroker:
    """A `JobStore` on a Redis Cluster.

    Verbs of one queue are one script, so one atomic step. A call that concerns several queues is
    one step in each: checks come first, and what is repeated changes nothing. Limits over the whole
    app are refused, since nobody counts over all queues.

    Args:
        url: see `from_url`.
        clock: tests move it by hand; None: the time of the servers.
    """

    def __init__(self, url: str, *, clock: Clock | None = None) -> None:
        self._address, given = parse(url)
        self._options = parse_options(given)
        self._clock = clock
        self._capabilities = server.capabilities(self._options, app_limits=False)
        self._opened: _Opened | None = None

    @classmethod
    def from_url(cls, url: str) -> Self:
        """A broker from `redis+cluster://[user:password@]host:port,...` or `rediss+cluster://`.

        Options: `prefix` of all keys (ropeway), `durability` (server, fsync, replica), TLS's.

        Raises:
            ConfigError: the URL has another form or another option.
        """
        return cls(url)

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    # ------------------------------------------------------------------ open and close

    async def open(self) -> None:
        if self._opened is not None:
            return
        client = connect(self._address)
        await client.open()
        try:
            await server.check(client, f"{{{self._options.prefix}}}", self._options)
        except BaseException:
            await client.close()
            raise
        server.confirm_writes(client, self._options)
        shards = Shards(client, self._options, clock=self._clock)
        self._opened = _Opened(client, shards)

    async def close(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            await opened.close()

    def _open(self) -> "_Opened":
        if self._opened is None:
            raise Disconnected(f"the broker of {self._address} is not open; call open() first")
        return self._opened

    @property
    def _shards(self) -> Shards:
        return self._open().shards

    # ------------------------------------------------------------------ the life of a job

    async def enqueue(self, jobs: Sequence[Job], *, call_id: str | None = None) -> list[Enqueued]:
        self._capabilities.refuse_all(jobs)
        shards = self._shards
        if not jobs:
            return []
        if len({job.queue for job in jobs}) > 1:
            await looking.refuse_conflicts(shards, jobs)

        async def ask(queue: str, part: list[Job]) -> list[Enqueued]:
            return await (await shards.made(queue)).enqueue(part, call_id)

        answers = await ask_by_queue(jobs, _queue_of, ask)
        await kin.connect(shards, jobs)
        if shards.has_new:  # jobs that wait for an unknown parent may find it there
            shards.has_new = False
            await kin.maintain(shards)
        return answers

    async def reserve(
        self, queues: Queues, *, worker: str, limit: int, lease_ms: int, wait_ms: int = 0
    ) -> list[Lease]:
        self._capabilities.refuse_reserve(limit=limit, lease_ms=lease_ms)
        reserving = self._open().reserving
        return await until_served(
            lambda: reserving.once(queues, worker=worker, limit=limit, lease_ms=lease_ms),
            lambda seconds: reserving.wait(list(queues), seconds, batches=False),
            wait_ms,
        )

    async def reserve_group(
        self, queues: Queues, *, worker: str, lease_ms: int, wait_ms: int = 0
    ) -> list[Lease]:
        self._capabilities.refuse_reserve(limit=1, lease_ms=lease_ms)
        reserving, names = self._open().reserving, list(queues)
        return await until_served(
            lambda: reserving.batch_once(names, worker=worker, lease_ms=lease_ms),
            lambda seconds: reserving.wait(names, seconds, batches=True),
            wait_ms,
        )

    async def settle(self, outcomes: Sequence[Outcome]) -> list[Settled]:
        for outcome in outcomes:
            if type(outcome) is Ack and outcome.then:
                self._capabilities.refuse_all(outcome.then)
        shards = self._shards

        async def ask(queue: str, part: list[Outcome]) -> list[Settled]:
            shard = shards.of(queue)
            answers = await shard.settle(part)
            await kin.connect(
                shards,
                (job for o in part if type(o) is Ack for job in o.then if job.queue == queue),
            )
            await kin.deliver_if_any(shards, shard)
            return answers

        return await ask_by_queue(outcomes, _queue_of_outcome, ask) if outcomes else []

    async def exchange(
        self,
        outcomes: Sequence[Outcome],
        queues: Queues,
        *,
        worker: str,
        limit: int,
        lease_ms: int,
    ) -> tuple[list[Settled], list[Lease]]:
        self._capabilities.refuse_reserve(limit=limit, lease_ms=lease_ms)
        names = list(queues)
        if len(names) == 1 and all(_is_local(outcome, names[0]) for outcome in outcomes):
            shard = self._shards.of(names[0])
            answers, served = await shard.exchange(outcomes, Asked(names, worker, limit, lease_ms))
            await kin.deliver_if_any(self._shards, shard)
            return answers, served.leases
        answers = await self.settle(outcomes)
        served = await self._open().reserving.once(
            queues, worker=worker, limit=limit, lease_ms=lease_ms
        )
        return answers, served.leases

    async def extend(self, beats: Sequence[Beat], *, lease_ms: int) -> list[Extended]:
        shards = self._shards

        async def ask(queue: str, part: list[Beat]) -> list[Extended]:
            return await shards.of(queue).extend(part, lease_ms)

        return await ask_by_queue(beats, _queue_of_leased, ask) if beats else []

    async def maintain(self, *, limit: int = 1000) -> Maintained:
        return await maintaining.maintain(self._shards, limit)

    # ------------------------------------------------------------------ rules

    async def declare(self, rules: Sequence[Rule]) -> None:
        await ruling.declare(self._shards, rules)

    async def override(self, rules: Sequence[Rule], *, force: bool = False) -> None:
        await ruling.override(self._shards, rules, force=force)

    async def reset(self, rules: Sequence[Rule]) -> int:
        return await ruling.reset(self._shards, rules)

    async def rules(self) -> list[RuleInfo]:
        return await infos(self._shards.meta)

    async def keys(self, name: str, *, key: str | None = None, limit: int = 100) -> list[KeyInfo]:
        return (await ruling.keys(self._shards, name, key))[:limit]

    # ------------------------------------------------------------------ look

    async def get(self, refs: Sequence[JobRef]) -> list[JobRecord | None]:
        return await looking.get(self._shards, refs)

    async def find(self, where: Filter, *, after: str | None = None, limit: int = 100) -> Page:
        return await looking.find(self._shards, where, after, limit)

    async def count(self, where: Filter) -> int:
        if counted := of_shard.count_of(where, await self.queues()):
            return counted.n
        found = 0
        async for record in looking.every(self._shards, where.queue):
            found += matches(record, where)
        return found

    async def peek(self, queue: str, *, limit: int = 10, offset: int = 0) -> list[JobRecord]:
        return await of_shard.peek(self._shards.of(queue), queue, limit, offset)

    async def queues(self) -> list[QueueInfo]:
        parts = await self._shards.ask_every(of_shard.queues)
        return [info for part in parts for info in part]

    async def events(self, ref: JobRef, *, after: int = 0, limit: int = 1000) -> list[JobEvent]:
        (ref,) = await looking.locate(self._shards, [ref])
        if ref.queue is None:
            return []
        return await of_shard.events(self._shards.of(ref.queue), ref, after, limit)

    # ------------------------------------------------------------------ operate

    async def act(self, actions: Sequence[Action]) -> list[Acted]:
        for action in actions:
            if isinstance(action, EditJob):
                self._capabilities.refuse(action.job)
        answers: list[Acted] = []
        for acted, ref, worker in await moving.act(self._shards, actions):
            if acted.answer is Answer.REQUESTED:
                await self.send(Signal(kind="cancel", ref=ref, worker=worker))
            answers.append(acted)
        return answers

    async def pause(self, queue: str) -> None:
        await operating.pause(await self._shards.made(queue), queue)
        await self.send(Signal(kind="pause", queue=queue))

    async def resume(self, queue: str) -> None:
        await operating.resume(self._shards.of(queue), queue)
        await self.send(Signal(kind="resume", queue=queue))

    async def purge(self, queue: str, *, states: AbstractSet[State] | None = None) -> int:
        shard = self._shards.of(queue)
        removed = await operating.purge(shard, queue, ALL_BUT_RUNNING if states is None else states)
        await kin.deliver_if_any(self._shards, shard)
        return removed

    async def abandon(self, workers: Sequence[str]) -> int:
        ended = sum(await self._shards.ask_every(lambda shard: shard.abandon(workers)))
        return ended + await self._shards.meta.abandon(workers)

    # ------------------------------------------------------------------ watch and tell

    async def wait(self, refs: Sequence[JobRef], *, timeout_ms: int) -> list[JobRecord | None]:
        opened = self._open()
        located = await looking.locate(opened.shards, refs)
        found: list[JobRecord | None] = [None] * len(refs)
        groups = by_queue(located, lambda ref: ref.queue or "")
        parts = await asyncio.gather(
            *(
                opened.news_of(queue).wait([located[at] for at in places], timeout_ms / 1000)
                for queue, places in groups.items()
                if queue
            )
        )
        named = [places for queue, places in groups.items() if queue]
        for places, part in zip(named, parts, strict=True):
            for place, record in zip(places, part, strict=True):
                found[place] = record
        return found

    async def append(self, entries: Sequence[Entry]) -> list[ExtendAnswer]:
        shards = self._shards

        async def ask(queue: str, part: list[Entry]) -> list[ExtendAnswer]:
            return await shards.of(queue).append(part)

        return await ask_by_queue(entries, _queue_of_leased, ask) if entries else []

    async def send(self, signal: Signal) -> None:
        await telling.send(self._shards.meta, signal)

    async def signals(self, *, after: int | None, wait_ms: int = 0) -> list[Signal]:
        return await telling.next_signals(self._shards.meta, after, wait_ms)

    async def heartbeat(self, worker: WorkerInfo) -> None:
        await telling.heartbeat(self._shards.meta, worker)

    async def workers(self) -> list[WorkerInfo]:
        return await telling.workers(self._shards.meta)


class _Opened:
    """What there is between `open` and `close`."""

    def __init__(self, client: Client, shards: Shards) -> None:
        self.client = client
        self.shards = shards
        self.reserving = Reserving(shards)
        self._waiter = new_id()
        self._news: dict[str, News] = {}

    def news_of(self, queue: str) -> News:
        """News of the jobs of a queue."""
        news = self._news.get(queue)
        if news is None:
            shard = self.shards.of(queue)
            news = self._news[queue] = News(shard, self.client, self._waiter)
        return news

    async def close(self) -> None:
        """Let go of everything."""
        await asyncio.gather(*(news.close() for news in self._news.values()))
        await self.shards.close()
        await self.client.close()


def _queue_of(job: Job) -> str:
    return job.queue


def _queue_of_outcome(outcome: Outcome) -> str:
    return outcome.lease.job.queue


def _queue_of_leased(item: Beat | Entry) -> str:
    return item.lease.job.queue


def _is_local(outcome: Outcome, queue: str) -> bool:
    """Whether one script can write all that the outcome means."""
    return outcome.lease.job.queue == queue and not (type(outcome) is Ack and outcome.then)
