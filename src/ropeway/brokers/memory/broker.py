"""`MemoryBroker`: the whole contract over plain dicts and heaps, on one event loop.

It is the oracle of the model test, so every verb says what it means in the plainest way. A verb
never awaits between reading and writing, which makes each one atomic.
"""

import asyncio
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from itertools import islice

import msgspec

from ropeway.action import Acted, Action, Answer
from ropeway.broker import (
    WORKER_GONE_MS,
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
from ropeway.brokers.memory import operate, search
from ropeway.brokers.memory.enqueue import enqueue
from ropeway.brokers.memory.flow.control import Control
from ropeway.brokers.memory.maintain import abandon, maintain
from ropeway.brokers.memory.reserve import (
    next_due_ms,
    next_group_ms,
    reserve,
    reserve_group,
)
from ropeway.brokers.memory.row import Row
from ropeway.brokers.memory.settle import append, extend, settle_all
from ropeway.brokers.memory.state import CAPABILITIES, State
from ropeway.capabilities import Capabilities
from ropeway.clock import SYSTEM_CLOCK, Clock
from ropeway.errors import BrokerError
from ropeway.flow.rules import Rule, RuleInfo
from ropeway.job import FINAL, Job, JobRecord, JobRef, Lease
from ropeway.job import State as JobState
from ropeway.matching import matches
from ropeway.outcome import Ack, Outcome, Settled


class MemoryBroker:
    """A `JobStore` in the memory of this process.

    It serves one event loop at a time. `clock` is what it measures leases and delays by.
    """

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._state = State(clock)
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def capabilities(self) -> Capabilities:
        return CAPABILITIES

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop not in (None, loop):
            raise BrokerError(
                "this memory broker is open on another event loop, and it serves one. Use SQLite "
                "to share jobs between loops or processes."
            )
        self._loop = loop

    async def close(self) -> None:
        self._loop = None
        self._state.wake()

    # ------------------------------------------------------------------ the life of a job

    async def enqueue(self, jobs: Sequence[Job], *, call_id: str | None = None) -> list[Enqueued]:
        return enqueue(self._state, jobs, call_id=call_id)

    async def reserve(
        self, queues: Queues, *, worker: str, limit: int, lease_ms: int, wait_ms: int = 0
    ) -> list[Lease]:
        CAPABILITIES.refuse_reserve(limit=limit, lease_ms=lease_ms)
        now = asyncio.get_running_loop().time
        until = now() + wait_ms / 1000
        while True:
            leases = reserve(self._state, queues, worker=worker, limit=limit, lease_ms=lease_ms)
            left = until - now()
            if leases or left <= 0:
                return leases
            if self._state.cut_short:
                await asyncio.sleep(0)
                continue
            due_ms = next_due_ms(self._state, queues)
            await self._state.sleep(left if due_ms is None else min(left, max(due_ms, 1) / 1000))

    async def settle(self, outcomes: Sequence[Outcome]) -> list[Settled]:
        for outcome in outcomes:
            if type(outcome) is Ack and outcome.then:
                CAPABILITIES.refuse_all(outcome.then)
        answers = settle_all(self._state, outcomes)
        self._state.wake()
        return answers

    async def extend(self, beats: Sequence[Beat], *, lease_ms: int) -> list[Extended]:
        return extend(self._state, beats, lease_ms=lease_ms)

    async def exchange(
        self,
        outcomes: Sequence[Outcome],
        queues: Queues,
        *,
        worker: str,
        limit: int,
        lease_ms: int,
    ) -> tuple[list[Settled], list[Lease]]:
        settled = await self.settle(outcomes)
        return settled, reserve(self._state, queues, worker=worker, limit=limit, lease_ms=lease_ms)

    async def maintain(self, *, limit: int = 1000) -> Maintained:
        return maintain(self._state, limit=limit)

    async def reserve_group(
        self, queues: Queues, *, worker: str, lease_ms: int, wait_ms: int = 0
    ) -> list[Lease]:
        CAPABILITIES.refuse_reserve(limit=1, lease_ms=lease_ms)
        now = asyncio.get_running_loop().time
        until = now() + wait_ms / 1000
        while True:
            leases = reserve_group(self._state, queues, worker=worker, lease_ms=lease_ms)
            left = until - now()
            if leases or left <= 0:
                return leases
            due_ms = next_group_ms(self._state, queues)
            await self._state.sleep(left if due_ms is None else min(left, max(due_ms, 1) / 1000))

    # ------------------------------------------------------------------ rules

    async def declare(self, rules: Sequence[Rule]) -> None:
        flow, rows, now_ms = self._ruled()
        flow.declare(rules, rows, now_ms)
        self._rules_changed()

    async def override(self, rules: Sequence[Rule], *, force: bool = False) -> None:
        flow, rows, now_ms = self._ruled()
        flow.override(rules, rows, force=force, now_ms=now_ms)
        self._rules_changed()

    async def reset(self, rules: Sequence[Rule]) -> int:
        flow, rows, now_ms = self._ruled()
        count = flow.reset(rules, rows, now_ms)
        self._rules_changed()
        return count

    def _ruled(self) -> tuple[Control, list[Row], int]:
        table = self._state.table
        return table.flow, list(table.by_seq.values()), self._state.wall.now_ms()

    def _rules_changed(self) -> None:
        table = self._state.table
        for row in table.flow.limits.freed():
            table.put_back(row)
        self._state.wake()

    async def rules(self) -> list[RuleInfo]:
        infos = self._state.table.flow.rules.infos
        return [infos[name] for name in sorted(infos)]

    async def keys(self, name: str, *, key: str | None = None, limit: int = 100) -> list[KeyInfo]:
        table = self._state.table
        running = sorted(table.running(), key=lambda row: row.status.seq)
        return table.flow.keys(name, key, running, self._state.wall.now_ms())[:limit]

    # ------------------------------------------------------------------ look

    async def get(self, refs: Sequence[JobRef]) -> list[JobRecord | None]:
        rows = [self._state.table.find(ref) for ref in refs]
        return [row.record if row is not None else None for row in rows]

    async def find(self, where: Filter, *, after: str | None = None, limit: int = 100) -> Page:
        return search.find(self._state.table, where, after=after, limit=limit)

    async def count(self, where: Filter) -> int:
        rows = self._state.table.newest_first(before_seq=None)
        return sum(1 for row in rows if matches(row, where))

    async def peek(self, queue: str, *, limit: int = 10, offset: int = 0) -> list[JobRecord]:
        rows = self._state.table.in_order(queue)
        return [row.record for row in islice(rows, offset, offset + limit)]

    async def queues(self) -> list[QueueInfo]:
        return search.queues(self._state.table, self._state.paused)

    # ------------------------------------------------------------------ act

    async def act(self, actions: Sequence[Action]) -> list[Acted]:
        now_ms = self._state.wall.now_ms()
        answers: list[Acted] = []
        for action in actions:
            row = self._state.table.find(action.ref)
            acted = operate.act(self._state.table, row, action, now_ms=now_ms)
            if row is not None and acted.answer is Answer.REQUESTED:
                self._state.signal(Signal(kind="cancel", ref=row.job.ref, worker=row.status.worker))
            answers.append(acted)
        self._state.wake()
        return answers

    async def pause(self, queue: str) -> None:
        self._state.paused.add(queue)
        self._state.signal(Signal(kind="pause", queue=queue))

    async def resume(self, queue: str) -> None:
        self._state.paused.discard(queue)
        self._state.signal(Signal(kind="resume", queue=queue))

    async def purge(self, queue: str, *, states: AbstractSet[JobState] | None = None) -> int:
        removed = operate.purge(self._state.table, queue, states)
        self._state.wake()
        return removed

    # ------------------------------------------------------------------ watch

    async def wait(self, refs: Sequence[JobRef], *, timeout_ms: int) -> list[JobRecord | None]:
        futures = [self._final(ref) for ref in refs]
        pending = [future for future in futures if not future.done()]
        if pending:
            await asyncio.wait(pending, timeout=timeout_ms / 1000)
        return [future.result() if future.done() else None for future in futures]

    def _final(self, ref: JobRef) -> asyncio.Future[JobRecord | None]:
        future: asyncio.Future[JobRecord | None] = asyncio.get_running_loop().create_future()
        row = self._state.table.find(ref)
        if row is None:
            future.set_result(None)
        elif row.status.state in FINAL:
            future.set_result(row.record)
        else:
            row.waiters = [*(row.waiters or ()), future]
        return future

    async def append(self, entries: Sequence[Entry]) -> list[ExtendAnswer]:
        return [append(self._state, entry) for entry in entries]

    async def events(self, ref: JobRef, *, after: int = 0, limit: int = 1000) -> list[JobEvent]:
        row = self._state.table.find(ref)
        events = (row.events if row is not None else None) or ()
        return list(islice((event for event in events if event.seq > after), limit))

    async def send(self, signal: Signal) -> None:
        self._state.signal(signal)

    async def signals(self, *, after: int | None, wait_ms: int = 0) -> list[Signal]:
        if after is None:
            return self._state.recent_signals()[-1:]
        now = asyncio.get_running_loop().time
        until = now() + wait_ms / 1000
        while True:
            found = [s for s in self._state.recent_signals() if s.seq > after]
            left = until - now()
            if found or left <= 0:
                return found
            await self._state.sleep(left)

    # ------------------------------------------------------------------ coordinate

    async def heartbeat(self, worker: WorkerInfo) -> None:
        now_ms = self._state.wall.now_ms()
        self._state.workers[worker.id] = msgspec.structs.replace(worker, seen_at_ms=now_ms)

    async def workers(self) -> list[WorkerInfo]:
        oldest_ms = self._state.wall.now_ms() - WORKER_GONE_MS
        known = self._state.workers
        for gone in [id_ for id_, info in known.items() if info.seen_at_ms <= oldest_ms]:
            del known[gone]
        return sorted(known.values(), key=lambda worker: (worker.started_at_ms, worker.id))

    async def abandon(self, workers: Sequence[str]) -> int:
        return abandon(self._state, workers)
