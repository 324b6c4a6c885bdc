"""`RedisBroker`: the whole contract on one Redis, alone or under Sentinel."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, Self

from ropeway.action import Acted, Action, Answer, EditJob
from ropeway.broker import (
    FIND_SCAN_MAX,
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
from ropeway.brokers.redis import looking, operating, ruling, server, telling
from ropeway.brokers.redis.news import News
from ropeway.brokers.redis.options import parse_options
from ropeway.brokers.redis.shard import MAINTAINED, Asked, Served, Shard, until_served
from ropeway.brokers.redis.wire.address import parse
from ropeway.brokers.redis.wire.client import Client, connect
from ropeway.capabilities import Capabilities
from ropeway.clock import Clock
from ropeway.errors import Disconnected
from ropeway.flow.rules import QUEUE_PREFIX, Rule, RuleInfo
from ropeway.job import Job, JobRecord, JobRef, Lease, State
from ropeway.matching import matches, parse_cursor
from ropeway.outcome import Ack, Outcome, Settled
from ropeway.runtime import new_id
from ropeway.weighted import Shares

ALL_BUT_RUNNING: Final = frozenset(State) - {State.RUNNING}


class RedisBroker:
    """A `JobStore` in Redis 6.2 or newer, or Valkey.

    It serves the event loop that opened it. Every verb is one script, so one atomic step.

    Args:
        url: see `from_url`.
        clock: tests move it by hand; None: the time of the server.
    """

    def __init__(self, url: str, *, clock: Clock | None = None) -> None:
        self._address, given = parse(url)
        self._options = parse_options(given)
        self._clock = clock
        self._capabilities = server.capabilities(self._options)
        self._client: Client | None = None
        self._shard: Shard | None = None
        self._news: News | None = None
        self._turns: dict[tuple[tuple[str, int], ...], tuple[list[int] | None, str | None]] = {}

    @classmethod
    def from_url(cls, url: str) -> Self:
        """A broker from a URL; it connects at `open`.

        `redis://[user:password@]host[:6379][/db]`, `rediss://` with TLS, `redis+unix:///socket`,
        `redis+sentinel://host:port,host:port/master[/db]`. Options: `prefix` of all keys
        (ropeway), `durability` (server, fsync, replica), and those of TLS and Sentinel.

        Raises:
            ConfigError: the URL has another form or another option.
        """
        return cls(url)

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    # ------------------------------------------------------------------ open and close

    async def open(self) -> None:
        if self._client is not None:
            return
        client = connect(self._address)
        await client.open()
        try:
            tag = f"{{{self._options.prefix}}}"
            await server.check(client, tag, self._options)
        except BaseException:
            await client.close()
            raise
        self._client = client
        server.confirm_writes(client, self._options)
        self._shard = Shard(client, tag, clock=self._clock)
        self._news = News(self._shard, client, new_id())

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None and self._shard is not None and self._news is not None:
            await self._news.close()
            await self._shard.close()
            await client.close()
        self._shard = self._news = None

    def _open_shard(self) -> Shard:
        if self._shard is None:
            raise Disconnected(f"the broker of {self._address} is not open; call open() first")
        return self._shard

    # ------------------------------------------------------------------ the life of a job

    async def enqueue(self, jobs: Sequence[Job], *, call_id: str | None = None) -> list[Enqueued]:
        self._capabilities.refuse_all(jobs)
        if not jobs:
            return []
        return await self._open_shard().enqueue(jobs, call_id)

    async def reserve(
        self, queues: Queues, *, worker: str, limit: int, lease_ms: int, wait_ms: int = 0
    ) -> list[Lease]:
        self._capabilities.refuse_reserve(limit=limit, lease_ms=lease_ms)
        shard = self._open_shard()

        async def once() -> Served:
            served = await shard.reserve(self._asked(queues, worker, limit, lease_ms))
            self._note_turns(queues, served)
            return served

        names = list(queues)
        return await until_served(
            once, lambda seconds: shard.wait_for_jobs(names, seconds, batches=False), wait_ms
        )

    async def reserve_group(
        self, queues: Queues, *, worker: str, lease_ms: int, wait_ms: int = 0
    ) -> list[Lease]:
        self._capabilities.refuse_reserve(limit=1, lease_ms=lease_ms)
        shard, names = self._open_shard(), list(queues)
        return await until_served(
            lambda: shard.reserve_group(names, worker, lease_ms),
            lambda seconds: shard.wait_for_jobs(names, seconds, batches=True),
            wait_ms,
        )

    def _asked(self, queues: Queues, worker: str, limit: int, lease_ms: int) -> Asked:
        if not isinstance(queues, Mapping):
            return Asked(list(queues), worker, limit, lease_ms)
        turns = tuple(queues.items())
        if turns not in self._turns:
            Shares(queues)  # refuses weights that cannot be meant
            self._turns[turns] = None, None
        credits_, first = self._turns[turns]
        return Asked(
            list(queues),
            worker,
            limit,
            lease_ms,
            weights=list(queues.values()),
            credits=credits_ or [0] * len(queues),
            first=first,
        )

    def _note_turns(self, queues: Queues, served: Served) -> None:
        if isinstance(queues, Mapping):
            self._turns[tuple(queues.items())] = served.credits, served.first

    async def settle(self, outcomes: Sequence[Outcome]) -> list[Settled]:
        self._refuse_then(outcomes)
        return await self._open_shard().settle(outcomes)

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
        self._refuse_then(outcomes)
        asked = self._asked(queues, worker, limit, lease_ms)
        answers, served = await self._open_shard().exchange(outcomes, asked)
        self._note_turns(queues, served)
        return answers, served.leases

    def _refuse_then(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            if type(outcome) is Ack and outcome.then:
                self._capabilities.refuse_all(outcome.then)

    async def extend(self, beats: Sequence[Beat], *, lease_ms: int) -> list[Extended]:
        return await self._open_shard().extend(beats, lease_ms) if beats else []

    async def maintain(self, *, limit: int = 1000) -> Maintained:
        return await self._open_shard().maintain([limit] * len(MAINTAINED))

    # ------------------------------------------------------------------ rules

    async def declare(self, rules: Sequence[Rule]) -> None:
        await ruling.declare(self._open_shard(), rules)

    async def override(self, rules: Sequence[Rule], *, force: bool = False) -> None:
        await ruling.override(self._open_shard(), rules, force=force)

    async def reset(self, rules: Sequence[Rule]) -> int:
        return await ruling.reset(self._open_shard(), rules)

    async def rules(self) -> list[RuleInfo]:
        return await ruling.infos(self._open_shard())

    async def keys(self, name: str, *, key: str | None = None, limit: int = 100) -> list[KeyInfo]:
        queue = name.removeprefix(QUEUE_PREFIX) if name.startswith(QUEUE_PREFIX) else None
        return (await looking.keys(self._open_shard(), name, key, queue))[:limit]

    # ------------------------------------------------------------------ look

    async def get(self, refs: Sequence[JobRef]) -> list[JobRecord | None]:
        return await looking.get(self._open_shard(), refs)

    async def find(self, where: Filter, *, after: str | None = None, limit: int = 100) -> Page:
        below = parse_cursor(after)
        queues = None if where.queue is None else [where.queue]
        records: list[JobRecord] = []
        scanned = 0
        async for record in looking.scan(self._open_shard(), queues, below, FIND_SCAN_MAX + 1):
            if len(records) >= limit or scanned >= FIND_SCAN_MAX:
                return Page(records, str(below))
            scanned += 1
            below = record.status.seq
            if matches(record, where):
                records.append(record)
        return Page(records, None)

    async def count(self, where: Filter) -> int:
        if counted := looking.count_of(where, await self.queues()):
            return counted.n
        queues = None if where.queue is None else [where.queue]
        found = 0
        async for record in looking.scan(self._open_shard(), queues, None, 2**53):
            found += matches(record, where)
        return found

    async def peek(self, queue: str, *, limit: int = 10, offset: int = 0) -> list[JobRecord]:
        return await looking.peek(self._open_shard(), queue, limit, offset)

    async def queues(self) -> list[QueueInfo]:
        return await looking.queues(self._open_shard())

    async def events(self, ref: JobRef, *, after: int = 0, limit: int = 1000) -> list[JobEvent]:
        return await looking.events(self._open_shard(), ref, after, limit)

    # ------------------------------------------------------------------ operate

    async def act(self, actions: Sequence[Action]) -> list[Acted]:
        if not actions:
            return []
        for action in actions:
            if isinstance(action, EditJob):
                self._capabilities.refuse(action.job)
        answers: list[Acted] = []
        for acted, ref, worker in await operating.act(self._open_shard(), actions):
            if acted.answer is Answer.REQUESTED:
                await self.send(Signal(kind="cancel", ref=ref, worker=worker))
            answers.append(acted)
        return answers

    async def pause(self, queue: str) -> None:
        await operating.pause(self._open_shard(), queue)
        await self.send(Signal(kind="pause", queue=queue))

    async def resume(self, queue: str) -> None:
        await operating.resume(self._open_shard(), queue)
        await self.send(Signal(kind="resume", queue=queue))

    async def purge(self, queue: str, *, states: AbstractSet[State] | None = None) -> int:
        asked = ALL_BUT_RUNNING if states is None else states - {State.RUNNING}
        return await operating.purge(self._open_shard(), queue, asked)

    async def abandon(self, workers: Sequence[str]) -> int:
        return await self._open_shard().abandon(workers)

    # ------------------------------------------------------------------ watch and tell

    async def wait(self, refs: Sequence[JobRef], *, timeout_ms: int) -> list[JobRecord | None]:
        self._open_shard()
        assert self._news is not None, "it is open"
        return await self._news.wait(refs, timeout_ms / 1000)

    async def append(self, entries: Sequence[Entry]) -> list[ExtendAnswer]:
        return await self._open_shard().append(entries) if entries else []

    async def send(self, signal: Signal) -> None:
        await telling.send(self._open_shard(), signal)

    async def signals(self, *, after: int | None, wait_ms: int = 0) -> list[Signal]:
        return await telling.next_signals(self._open_shard(), after, wait_ms)

    async def heartbeat(self, worker: WorkerInfo) -> None:
        await telling.heartbeat(self._open_shard(), worker)

    async def workers(self) -> list[WorkerInfo]:
        return await telling.workers(self._open_shard())
