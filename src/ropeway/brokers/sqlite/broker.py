"""`SQLiteBroker`: the whole contract in one database file, for many processes on one host."""

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from ropeway import crash
from ropeway.action import Acted, Action
from ropeway.broker import (
    WORKER_GONE_MS,
    Beat,
    Enqueued,
    Entry,
    ExtendAnswer,
    Extended,
    Filter,
    JobEvent,
    Maintained,
    Page,
    QueueInfo,
    Queues,
    Signal,
    WorkerInfo,
)
from ropeway.brokers.sqlite import enqueue as enqueueing
from ropeway.brokers.sqlite import inspect, operate, schema
from ropeway.brokers.sqlite import maintain as maintaining
from ropeway.brokers.sqlite import reserve as reserving
from ropeway.brokers.sqlite import settle as settling
from ropeway.brokers.sqlite.connection import Connection, Gate, Identity, Tidier, named
from ropeway.brokers.sqlite.engine import (
    HEAVY,
    Bell,
    Call,
    Desk,
    Lane,
    Verb,
    Writer,
    serve_reads,
)
from ropeway.brokers.sqlite.flow import batches, verbs
from ropeway.brokers.sqlite.flow.rules import FlowCache
from ropeway.brokers.sqlite.flow.verbs import FlowVerbs
from ropeway.capabilities import Capabilities
from ropeway.clock import SYSTEM_CLOCK, Clock
from ropeway.errors import BrokerError, ConfigError, Disconnected
from ropeway.job import FINAL, Job, JobRecord, JobRef, Lease, State
from ropeway.outcome import Ack, Outcome, Release, Settled
from ropeway.runtime import StartThread, start_daemon
from ropeway.weighted import Shares

T = TypeVar("T")
Durability = Literal["full", "fast"]

_PROMISE: dict[str, str] = {
    "full": "on disk (fsync) before the answer",
    "fast": "survives the process, not a power cut of the host (no fsync)",
}
_SYNCHRONOUS: dict[str, str] = {"full": "FULL", "fast": "NORMAL"}
_PURGE_BITE = 5_000  # rows deleted while other writers wait


class _Opened:
    """What an open broker holds, so that it is open entirely or not at all."""

    def __init__(
        self, path: Path, durability: Durability, clock: Clock, start_thread: StartThread | None
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.pid = os.getpid()
        self._path = path
        self._rules = FlowCache()
        schema.create_file(path)
        gate = Gate(path.with_name(path.name + "-gate"))
        connections: list[Connection] = []
        synchronous = _SYNCHRONOUS[durability]
        try:
            with named(path), gate.held_soon():
                connections.append(Connection(path, synchronous=synchronous))
                schema.migrate(connections[0], path)
                floor_ms = schema.begin(connections[0], clock.mono_ms())
                connections.append(Connection(path, synchronous=synchronous))
                for _ in range(2):
                    connections.append(  # noqa: PERF401 - those opened so far must be closed
                        Connection(path, synchronous=synchronous, readonly=True)
                    )
        except BaseException:
            for connection in connections:
                connection.close()
            gate.close()
            raise
        writer, tidier, reader, looker = connections
        self.tidier = Tidier(tidier, start=start_thread)
        writer.on_commit(self.tidier.note)
        self.writer = Writer(path, gate, writer, clock, floor_ms=floor_ms)
        self.bell = Bell(self.loop, looker)
        self._is_lost = Identity(path).is_lost
        writing = Desk(
            serve=self.writer.serve,
            ring=self.bell.ring,
            is_lost=self._is_lost,
            close=self._close_writing,
            is_stuck=lambda: gate.is_stuck(self.loop.time()),
        )
        if durability == "fast":
            writing = replace(writing, serve_now=self.writer.serve_now)
        reading = Desk(
            serve=partial(serve_reads, path=path, connection=reader, reader=self._reader),
            ring=self.bell.ring,
            is_lost=self._is_lost,
            close=reader.close,
        )
        self.writes = Lane("ropeway-sqlite-write", self.loop, writing, start=start_thread)
        self.reads = Lane("ropeway-sqlite-read", self.loop, reading, start=start_thread)

    def _reader(self, sql: Connection) -> inspect.Reader:
        return inspect.Reader(sql, self.writer.now_ms())

    def next_chance_ms(self, queues: Iterable[str]) -> int | None:
        """Milliseconds until a reserve may find a job: 0 is now, None is unknown."""
        rules = self._rules.read
        return self.look(lambda reader: inspect.next_chance_ms(reader, queues, rules(reader.sql)))

    def look(self, verb: Callable[[inspect.Reader], T]) -> T:
        """A cheap look, by an index only, on the loop's own thread."""
        with named(self._path):
            return verb(self._reader(self.bell.sql))

    def refuse_if_lost(self) -> None:
        """Raise what a lane would answer, for looks that go past the lanes."""
        if lost := self._is_lost():
            raise lost

    def _close_writing(self) -> None:
        self.tidier.close()
        self.writer.close()

    async def close(self) -> None:
        self.bell.close()
        await self.reads.close()
        await self.writes.close()


class SQLiteBroker(FlowVerbs):
    """A `JobStore` in one SQLite file, shared by any number of processes of one host.

    `durability` is what an answer means: "full" (the default) is on disk, "fast" survives a
    crash of any process but may lose the last moments when the host loses power. One instance
    serves the event loop that opened it; more loops and processes open their own. Leases and
    delays are measured by `clock`; without `start_thread` the loop itself waits for the file.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        durability: Durability = "full",
        clock: Clock = SYSTEM_CLOCK,
        start_thread: StartThread | None = start_daemon,
    ) -> None:
        _refuse(path, durability)
        self._path = Path(path).absolute()
        self._durability: Durability = durability
        self._clock = clock
        self._start_thread = start_thread
        self._opened: _Opened | None = None
        self._shares: dict[tuple[tuple[str, int], ...], Shares] = {}
        self._capabilities = Capabilities(
            name="sqlite",
            durable=True,
            shared=True,
            durability=_PROMISE[durability],
            limits=True,
            fair=True,
            groups=True,
            wakeup="poll",
        )

    @classmethod
    def from_url(cls, url: str) -> Self:
        """A broker from `sqlite:///relative.db` or `sqlite:////absolute.db`.

        The only option is `?durability=full|fast`.

        Raises:
            ConfigError: the URL has another form or another option.
        """
        path, durability = _parsed(url)
        return cls(path, durability=durability)

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    # ------------------------------------------------------------------ open and close

    @property
    def path(self) -> Path:
        """The database file."""
        return self._path

    def schema_versions(self) -> tuple[int, int]:
        """The schema's version in the file (0: no file yet), and the one of this release."""
        return schema.versions(self._path)

    async def open(self) -> None:
        if self._opened is None:
            self._opened = _Opened(self._path, self._durability, self._clock, self._start_thread)
        else:
            self._mine()

    async def close(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None and opened.pid == os.getpid():
            await opened.close()

    def _mine(self) -> _Opened:
        """What is open, for the loop and process that opened it."""
        opened = self._opened
        if opened is None:
            raise Disconnected(f"the broker of {self._path} is not open; call open() first")
        if opened.pid != os.getpid():
            raise BrokerError(
                f"the broker of {self._path} was opened before this process was forked; make "
                "and open a new one in the child"
            )
        if opened.loop is not asyncio.get_running_loop():
            raise BrokerError(
                f"the broker of {self._path} is open on another event loop; make and open "
                "another one here: they share the file"
            )
        return opened

    async def _write(
        self, verb: Verb, argument: Any, *, together: Verb | None = None, weight: int = HEAVY
    ) -> Any:
        opened = self._mine()
        call = Call(verb, argument, opened.loop.create_future())
        call.together, call.weight = together, weight
        opened.writes.submit(call)
        return await call.future

    async def _read(self, verb: Verb, argument: Any) -> Any:
        opened = self._mine()
        call = Call(verb, argument, opened.loop.create_future())
        opened.reads.submit(call)
        return await call.future

    # ------------------------------------------------------------------ the job path

    async def enqueue(self, jobs: Sequence[Job], *, call_id: str | None = None) -> list[Enqueued]:
        self._capabilities.refuse_all(jobs)
        call = enqueueing.Call(jobs, call_id)
        answers = await self._write(
            enqueueing.enqueue, call, together=enqueueing.enqueue_many, weight=len(jobs)
        )
        crash.point("enqueue.committed")
        return answers

    async def reserve(
        self, queues: Queues, *, worker: str, limit: int, lease_ms: int, wait_ms: int = 0
    ) -> list[Lease]:
        self._capabilities.refuse_reserve(limit=limit, lease_ms=lease_ms)
        opened = self._mine()
        request = self._request(queues, worker, limit, lease_ms)
        until = opened.loop.time() + wait_ms / 1000
        while True:
            ticket = opened.bell.ticket
            chance_ms = opened.next_chance_ms(queues)
            if chance_ms == 0:
                leases = await self._reserve_now(opened, reserving.reserve, request, weight=limit)
                if leases:
                    return leases
                chance_ms = opened.next_chance_ms(queues)
            left = until - opened.loop.time()
            if left <= 0:
                opened.refuse_if_lost()
                return []
            pause_s = left if chance_ms is None else min(left, max(chance_ms, 1) / 1000)
            await opened.bell.sleep(ticket, pause_s)

    def _request(self, queues: Queues, worker: str, limit: int, lease_ms: int) -> reserving.Request:
        shares = None
        if isinstance(queues, Mapping):
            shares = self._shares.get(tuple(queues.items())) or Shares(queues)
            self._shares[tuple(queues.items())] = shares
        return reserving.Request(queues, worker, limit, lease_ms, shares)

    async def _reserve_now(
        self, opened: _Opened, verb: Verb, request: Any, *, weight: int = HEAVY
    ) -> list[Lease]:
        call = Call(verb, request, opened.loop.create_future())

        def hand_back(leases: list[Lease]) -> None:
            """The caller was cancelled while its leases were being written."""
            outcomes = [Release(lease=lease) for lease in leases]
            opened.writes.submit(Call(settling.settle, outcomes, opened.loop.create_future()))

        call.orphaned, call.weight = hand_back, weight
        opened.writes.submit(call)
        leases = await call.future
        if leases:
            crash.point("reserve.committed")
        return leases

    async def settle(self, outcomes: Sequence[Outcome]) -> list[Settled]:
        _refuse_then(self._capabilities, outcomes)
        answers = await self._write(
            settling.settle, outcomes, together=settling.settle_many, weight=len(outcomes)
        )
        crash.point("settle.committed")
        return answers

    async def extend(self, beats: Sequence[Beat], *, lease_ms: int) -> list[Extended]:
        return await self._write(
            settling.extend, settling.Beats(beats, lease_ms), weight=len(beats)
        )

    async def exchange(
        self,
        outcomes: Sequence[Outcome],
        queues: Queues,
        *,
        worker: str,
        limit: int,
        lease_ms: int,
    ) -> tuple[list[Settled], list[Lease]]:
        _refuse_then(self._capabilities, outcomes)
        request = self._request(queues, worker, limit, lease_ms)
        answers = await self._write(
            _exchange, (outcomes, request), weight=len(outcomes) + request.limit
        )
        crash.point("settle.committed")
        crash.point("reserve.committed")
        return answers

    async def maintain(self, *, limit: int = 1000) -> Maintained:
        return await self._write(maintaining.maintain, limit)

    async def reserve_group(
        self, queues: Queues, *, worker: str, lease_ms: int, wait_ms: int = 0
    ) -> list[Lease]:
        self._capabilities.refuse_reserve(limit=1, lease_ms=lease_ms)
        opened = self._mine()
        request = batches.GroupRequest(list(queues), worker, lease_ms)
        until = opened.loop.time() + wait_ms / 1000
        while True:
            ticket = opened.bell.ticket
            leases = await self._reserve_now(opened, batches.reserve_group, request)
            left = until - opened.loop.time()
            if leases or left <= 0:
                return leases
            ready_ms = opened.look(lambda reader: verbs.next_group_ms(reader, queues))
            pause_s = left if ready_ms is None else min(left, max(ready_ms, 1) / 1000)
            await opened.bell.sleep(ticket, pause_s)

    # ------------------------------------------------------------------ look

    async def get(self, refs: Sequence[JobRef]) -> list[JobRecord | None]:
        return await self._read(inspect.get, refs)

    async def find(self, where: Filter, *, after: str | None = None, limit: int = 100) -> Page:
        return await self._read(inspect.find, inspect.Find(where, after, limit))

    async def count(self, where: Filter) -> int:
        return await self._read(inspect.count, where)

    async def peek(self, queue: str, *, limit: int = 10, offset: int = 0) -> list[JobRecord]:
        return await self._read(inspect.peek, inspect.Peek(queue, limit, offset))

    async def queues(self) -> list[QueueInfo]:
        return await self._read(inspect.queues, None)

    # ------------------------------------------------------------------ act

    async def act(self, actions: Sequence[Action]) -> list[Acted]:
        return await self._write(operate.act, actions)

    async def pause(self, queue: str) -> None:
        await self._write(operate.pause, queue)

    async def resume(self, queue: str) -> None:
        await self._write(operate.resume, queue)

    async def purge(self, queue: str, *, states: AbstractSet[State] | None = None) -> int:
        newest = await self._write(operate.newest_seq, None)
        removed = 0
        for state in State:
            if state is State.RUNNING or (states is not None and state not in states):
                continue
            bite = operate.Purge(queue, state, _PURGE_BITE, newest)
            while taken := await self._write(operate.purge, bite):
                removed += taken
        return removed

    # ------------------------------------------------------------------ watch

    async def wait(self, refs: Sequence[JobRef], *, timeout_ms: int) -> list[JobRecord | None]:
        opened = self._mine()
        until = opened.loop.time() + timeout_ms / 1000
        if fleeting := await self._read(inspect.unretained, refs):
            await self._write(operate.register_waiter, (fleeting, timeout_ms))
        while True:
            ticket = opened.bell.ticket
            pending = await self._read(inspect.unfinished, refs)
            left = until - opened.loop.time()
            if not pending or left <= 0:
                break
            await opened.bell.sleep(ticket, left)
        return [_if_final(record) for record in await self._read(inspect.get, refs)]

    async def append(self, entries: Sequence[Entry]) -> list[ExtendAnswer]:
        return await self._write(settling.append, entries)

    async def events(self, ref: JobRef, *, after: int = 0, limit: int = 1000) -> list[JobEvent]:
        return await self._read(inspect.events, inspect.Events(ref, after, limit))

    async def send(self, signal: Signal) -> None:
        await self._write(operate.send, signal)

    async def signals(self, *, after: int | None, wait_ms: int = 0) -> list[Signal]:
        opened = self._mine()
        until = opened.loop.time() + wait_ms / 1000
        while True:
            ticket = opened.bell.ticket
            found = opened.look(lambda reader: inspect.signals(reader, after))
            left = until - opened.loop.time()
            if found or after is None or left <= 0:
                opened.refuse_if_lost()
                return found
            await opened.bell.sleep(ticket, left)

    # ------------------------------------------------------------------ coordinate

    async def heartbeat(self, worker: WorkerInfo) -> None:
        await self._write(operate.heartbeat, worker)

    async def workers(self) -> list[WorkerInfo]:
        return await self._read(inspect.workers, WORKER_GONE_MS)

    async def abandon(self, workers: Sequence[str]) -> int:
        return await self._write(operate.abandon, workers)


def _refuse(path: str | Path, durability: str) -> None:
    if str(path) in ("", ":memory:"):
        raise ConfigError(
            f"{str(path)!r} is no path of a database file; for jobs kept in memory use memory://"
        )
    if durability not in _PROMISE:
        raise ConfigError(f"durability={durability!r} is unknown; give 'full' or 'fast'")


def _if_final(record: JobRecord | None) -> JobRecord | None:
    return record if record is not None and record.status.state in FINAL else None


def _parsed(url: str) -> tuple[str, Any]:
    """The path and the durability of a URL; see `SQLiteBroker.from_url`."""
    parts = urlsplit(url)
    if parts.scheme != "sqlite" or parts.netloc not in ("", ":memory:"):
        raise ConfigError(
            f"{url!r} is not a URL of a SQLite file; write sqlite:///relative.db or "
            "sqlite:////absolute.db"
        )
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = sorted(options.keys() - {"durability"})
    if unknown:
        raise ConfigError(f"{url!r}: unknown option {unknown[0]!r}; known: durability")
    durability: Any = options.get("durability", "full")
    return parts.netloc or unquote(parts.path)[1:], durability


def _refuse_then(capabilities: Capabilities, outcomes: Sequence[Outcome]) -> None:
    for outcome in outcomes:
        if isinstance(outcome, Ack):
            capabilities.refuse_all(outcome.then)


def _exchange(
    step: Any, call: tuple[Sequence[Outcome], reserving.Request]
) -> tuple[list[Settled], list[Lease]]:
    outcomes, request = call
    return settling.settle(step, outcomes), reserving.reserve(step, request)
