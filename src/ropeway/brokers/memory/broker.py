"""`MemoryBroker`: the whole contract over plain dicts and heaps, on one event loop.

It is the oracle of the model test, so every verb says what it means in the plainest way. A verb
never awaits between reading and writing, which makes each one atomic.
"""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from itertools import islice

import msgspec

from ropeway import lifecycle
from ropeway.action import Acted, Action
from ropeway.broker import (
    CALLS_KEPT_MS,
    EVENTS_BYTES_KEPT,
    EVENTS_KEPT,
    SIGNALS_KEPT_MS,
    WORKER_GONE_MS,
    Beat,
    Capabilities,
    EnqueueAnswer,
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
from ropeway.brokers.memory import operate, search
from ropeway.brokers.memory.table import Row, Table
from ropeway.clock import SYSTEM_CLOCK, Clock, ForwardClock
from ropeway.errors import BrokerError, IdConflict
from ropeway.job import FINAL, Job, JobRecord, JobRef, Lease, State
from ropeway.outcome import Ack, Outcome, Settled
from ropeway.weighted import Shares

CAPABILITIES = Capabilities(
    name="memory",
    durable=False,
    shared=False,
    durability="kept in this process's memory; gone when it ends",
)


class MemoryBroker:
    """A `JobStore` in the memory of this process.

    It serves one event loop. `clock` is what it measures leases and delays by.
    """

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._wall = ForwardClock(clock)
        self._table = Table()
        self._seq = 0
        self._token = 0
        self._calls: OrderedDict[str, tuple[int, list[Enqueued]]] = OrderedDict()
        self._paused: set[str] = set()
        self._shares: dict[tuple[tuple[str, int], ...], Shares] = {}
        self._workers: dict[str, WorkerInfo] = {}
        self._signals: deque[tuple[int, Signal]] = deque()
        self._signal_seq = 0
        self._event_seq = 0
        self._sleepers: set[asyncio.Future[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def capabilities(self) -> Capabilities:
        return CAPABILITIES

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop not in (None, loop):
            raise BrokerError(
                "this memory broker is open on another event loop; a memory broker serves one "
                "loop. Use SQLite to share jobs between loops or processes."
            )
        self._loop = loop

    async def close(self) -> None:
        self._loop = None
        self._wake()

    # ------------------------------------------------------------------ enqueue

    async def enqueue(self, jobs: Sequence[Job], *, call_id: str | None = None) -> list[Enqueued]:
        now_ms = self._wall.now_ms()
        if call_id is not None and call_id in self._calls:
            return self._calls[call_id][1]
        self._refuse(jobs)
        answers = [self._enqueue_one(job, now_ms) for job in jobs]
        if call_id is not None:
            self._calls[call_id] = (now_ms, answers)
            while next(iter(self._calls.values()))[0] < now_ms - CALLS_KEPT_MS:
                self._calls.popitem(last=False)
        self._wake()
        return answers

    def _refuse(self, jobs: Sequence[Job]) -> None:
        """Raise before anything is written."""
        met: dict[JobRef, Job] = {}
        for job in jobs:
            CAPABILITIES.refuse(job)
            row = self._table.find(job.ref)
            known = met.setdefault(job.ref, row.job if row is not None else job)
            if (known.task, known.payload) != (job.task, job.payload):
                raise IdConflict(
                    f"job id {job.id!r} is taken in queue {job.queue!r} by another job (task "
                    f"{known.task!r}); nothing was enqueued. Give each job an id of its own."
                )

    def _enqueue_one(self, job: Job, now_ms: int) -> Enqueued:
        if self._table.find(job.ref) is not None:
            return Enqueued(EnqueueAnswer.DUPLICATE_ID, job.id, job.queue)
        if job.unique is not None:
            holder = self._table.holder(job.queue, job.unique.key, now_ms=now_ms)
            if holder is not None:
                replaced = job.unique.on_conflict == "replace" and operate.replace_words(
                    self._table, holder, job, now_ms=now_ms
                )
                answer = EnqueueAnswer.REPLACED if replaced else EnqueueAnswer.DUPLICATE_KEY
                return Enqueued(answer, holder.job.id, job.queue)
        self._seq += 1
        waiting_on = frozenset(p for p in job.parents if not self._completed(p))
        stamped, status = lifecycle.admit(job, seq=self._seq, now_ms=now_ms, waiting_on=waiting_on)
        self._table.add(stamped, status, now_ms=now_ms)
        for parent_id in job.parents:
            parent = self._table.find(JobRef(parent_id))
            if parent is not None and parent.status.state in (State.DEAD, State.CANCELLED):
                self._table.failed.append(parent)
        for ref in job.unblocks:
            child = self._table.find(ref)
            if child is not None and child.status.state is State.PENDING:
                operate.wait_for(self._table, child, job.id, now_ms=now_ms)
        return Enqueued(EnqueueAnswer.OK, job.id, job.queue)

    def _completed(self, parent_id: str) -> bool:
        row = self._table.find(JobRef(parent_id))
        return row is not None and row.status.state is State.COMPLETED

    # ------------------------------------------------------------------ reserve

    async def reserve(
        self, queues: Queues, *, worker: str, limit: int, lease_ms: int, wait_ms: int = 0
    ) -> list[Lease]:
        until = time.monotonic() + wait_ms / 1000
        while True:
            leases = self._reserve(queues, worker, limit, lease_ms)
            left = until - time.monotonic()
            if leases or left <= 0:
                return leases
            due_ms = self._next_due_ms(queues)
            await self._sleep(left if due_ms is None else min(left, max(due_ms, 1) / 1000))

    def _reserve(self, queues: Queues, worker: str, limit: int, lease_ms: int) -> list[Lease]:
        now_ms = self._wall.now_ms()
        self._token += 1
        until_ms = self._clock.mono_ms() + lease_ms
        taken: list[Row] = []

        def take(queue: str, places: int) -> int:
            """Hand out up to `places` jobs of one queue; how many."""
            before = len(taken)
            if queue in self._paused:
                return 0
            self._promote(queue, 2 * limit, now_ms)
            while len(taken) - before < places:
                row = self._table.ready(queue)
                if row is None or (row.status.crashes[1:] and taken):
                    break
                late = lifecycle.overdue(row.job, now_ms=now_ms)
                if late is not None:
                    status = lifecycle.bury_overdue(row.status, reason=late, now_ms=now_ms)
                    self._table.put(row, status, now_ms=now_ms)
                    continue
                status = lifecycle.start(
                    row.status,
                    worker=worker,
                    token=self._token,
                    lease_until_ms=until_ms,
                    now_ms=now_ms,
                )
                self._table.put(row, status, now_ms=now_ms)
                taken.append(row)
                if row.status.crashes[1:]:  # a suspect is the only lease of its call
                    break
            return len(taken) - before

        def full() -> bool:
            return len(taken) >= limit or bool(taken and taken[0].status.crashes[1:])

        if isinstance(queues, Mapping):
            exhausted: set[str] = set()
            shares = self._shares.setdefault(tuple(queues.items()), Shares(queues))
            while not full() and len(exhausted) < len(queues):
                dealt = shares.deal(limit - len(taken), exhausted=frozenset(exhausted))
                for queue, places in dealt.items():
                    if not full() and take(queue, places) < places:
                        exhausted.add(queue)
        else:
            for queue in queues:
                if not full():
                    take(queue, limit - len(taken))
        return [lifecycle.lease(row.job, row.status) for row in taken]

    def _promote(self, queue: str, limit: int, now_ms: int) -> int:
        for done in range(limit):
            row = self._table.next_due(queue)
            if row is None or row.status.due_ms > now_ms:
                return done
            self._table.put(row, lifecycle.promote(row.status), now_ms=now_ms)
        return limit

    def _next_due_ms(self, queues: Queues) -> int | None:
        """Milliseconds until the first scheduled job of these queues is due."""
        rows = [self._table.next_due(q) for q in queues if q not in self._paused]
        due = [row.status.due_ms for row in rows if row is not None]
        return min(due) - self._wall.now_ms() if due else None

    # ------------------------------------------------------------------ settle and extend

    async def settle(self, outcomes: Sequence[Outcome]) -> list[Settled]:
        for outcome in outcomes:
            if isinstance(outcome, Ack):
                for job in outcome.then:
                    CAPABILITIES.refuse(job)
        now_ms = self._wall.now_ms()
        answers = [self._settle_one(outcome, now_ms) for outcome in outcomes]
        if self._sleepers:
            self._wake()
        return answers

    def _settle_one(self, outcome: Outcome, now_ms: int) -> Settled:
        lease = outcome.lease
        row = self._held(lease)
        if row is None:
            row = self._table.find(lease.job.ref)
            already = row is not None and row.status.settled_token == lease.token
            return Settled.ALREADY if already else Settled.LOST
        if isinstance(outcome, Ack):
            for job in outcome.then:
                self._enqueue_then(job, now_ms)
        status = lifecycle.settle(row.status, outcome, now_ms=now_ms)
        self._table.put(row, status, now_ms=now_ms)
        if status.state is State.COMPLETED and row.job.id in self._table.children:
            for child in list(self._table.children[row.job.id]):
                if row.job.id in child.status.waiting_on and child.status.state is State.PENDING:
                    freed = lifecycle.parent_completed(child.status, row.job.id, now_ms=now_ms)
                    self._table.put(child, freed, now_ms=now_ms)
        operate.drop_unretained(self._table, row)
        return Settled.OK

    def _enqueue_then(self, job: Job, now_ms: int) -> None:
        if self._table.find(job.ref) is None:
            self._enqueue_one(job, now_ms)

    def _held(self, lease: Lease) -> Row | None:
        """The row that `lease` is the current lease of. A stale one shows that its holder lives."""
        row = self._table.find(lease.job.ref)
        if row is None:
            return None
        status = row.status
        if status.state is State.RUNNING and status.token == lease.token:
            return row
        if status.state not in FINAL and any(c.token == lease.token for c in status.crashes):
            row.status = lifecycle.survived(status, lease.token)
        return None

    async def extend(self, beats: Sequence[Beat], *, lease_ms: int) -> list[Extended]:
        now_ms = self._wall.now_ms()
        until_ms = self._clock.mono_ms() + lease_ms
        answers: list[Extended] = []
        for beat in beats:
            row = self._held(beat.lease)
            if row is None:
                answers.append(Extended(ExtendAnswer.LOST, 0))
                continue
            status = lifecycle.extended(
                row.status, lease_until_ms=until_ms, progress=beat.progress, saved=beat.saved
            )
            self._table.put(row, status, now_ms=now_ms)
            answers.append(Extended(self._told(row), until_ms))
        return answers

    def _told(self, row: Row) -> ExtendAnswer:
        if row.status.cancel_requested:
            return ExtendAnswer.CANCEL_REQUESTED
        return ExtendAnswer.PAUSED if row.job.queue in self._paused else ExtendAnswer.OK

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
        return settled, self._reserve(queues, worker, limit, lease_ms)

    # ------------------------------------------------------------------ maintain

    async def maintain(self, *, limit: int = 1000) -> Maintained:
        now_ms = self._wall.now_ms()
        promoted = 0
        for queue in list(self._table.counts):
            promoted += self._promote(queue, limit - promoted, now_ms)
        expired = self._expire_leases(limit, now_ms)
        buried = self._bury_overdue(limit, now_ms)
        cascaded = operate.cascade(self._table, limit, now_ms=now_ms)
        pruned = self._prune(limit, now_ms)
        if promoted or expired or cascaded:
            self._wake()
        return Maintained(
            promoted=promoted,
            expired=expired,
            buried=buried,
            cascaded=cascaded,
            pruned=pruned,
            more=limit in (promoted, expired, buried, cascaded, pruned),
            next_ms=self._next_event_ms(now_ms),
        )

    def _expire_leases(self, limit: int, now_ms: int) -> int:
        mono_ms = self._clock.mono_ms()
        for done in range(limit):
            row = self._table.next_lease_end()
            if row is None or row.status.lease_until_ms > mono_ms:
                return done
            self._take_back(row, now_ms)
        return limit

    def _take_back(self, row: Row, now_ms: int) -> None:
        status = lifecycle.lease_expired(row.job, row.status, now_ms=now_ms)
        self._table.put(row, status, now_ms=now_ms)

    def _bury_overdue(self, limit: int, now_ms: int) -> int:
        for done in range(limit):
            row = self._table.pop_overdue(now_ms)
            if row is None:
                return done
            reason = lifecycle.overdue(row.job, now_ms=now_ms) or "expired"
            status = lifecycle.bury_overdue(row.status, reason=reason, now_ms=now_ms)
            self._table.put(row, status, now_ms=now_ms)
        return limit

    def _prune(self, limit: int, now_ms: int) -> int:
        done = 0
        while done < limit and (row := self._table.pop_prunable(now_ms)) is not None:
            self._table.remove(row)
            done += 1
        for queue in list(self._table.counts):
            kept = lifecycle.COMPLETED_KEPT
            while done < limit and (row := self._table.pop_surplus(queue, kept)) is not None:
                self._table.remove(row)
                done += 1
        return done

    def _next_event_ms(self, now_ms: int) -> int | None:
        due = [
            row.status.due_ms for q in list(self._table.counts) if (row := self._table.next_due(q))
        ]
        ends = [at - now_ms for at in due]
        if (row := self._table.next_lease_end()) is not None:
            ends.append(row.status.lease_until_ms - self._clock.mono_ms())
        return max(0, min(ends)) if ends else None

    # ------------------------------------------------------------------ look

    async def get(self, refs: Sequence[JobRef]) -> list[JobRecord | None]:
        rows = [self._table.find(ref) for ref in refs]
        return [row.record if row is not None else None for row in rows]

    async def find(self, where: Filter, *, after: str | None = None, limit: int = 100) -> Page:
        return search.find(self._table, where, after=after, limit=limit)

    async def count(self, where: Filter) -> int:
        rows = self._table.newest_first(before_seq=None)
        return sum(1 for row in rows if search.matches(row.record, where))

    async def peek(self, queue: str, *, limit: int = 10, offset: int = 0) -> list[JobRecord]:
        rows = self._table.in_order(queue)
        return [row.record for row in islice(rows, offset, offset + limit)]

    async def queues(self) -> list[QueueInfo]:
        counts = self._table.counts
        names = {name for name in counts if any(counts[name].values())} | self._paused
        infos: list[QueueInfo] = []
        for name in sorted(names):
            first = [row.status.due_ms for row in self._table.in_order(name)]
            infos.append(
                QueueInfo(
                    name=name,
                    paused=name in self._paused,
                    counts={state: n for state, n in counts[name].items() if n},
                    oldest_due_ms=min(first, default=None),
                )
            )
        return infos

    # ------------------------------------------------------------------ act

    async def act(self, actions: Sequence[Action]) -> list[Acted]:
        now_ms = self._wall.now_ms()
        answers: list[Acted] = []
        for action in actions:
            row = self._table.find(action.ref)
            acted = operate.act(self._table, row, action, now_ms=now_ms)
            if row is not None and operate.is_request(acted):
                self._signal(Signal(kind="cancel", ref=row.job.ref, worker=row.status.worker))
            answers.append(acted)
        self._wake()
        return answers

    async def pause(self, queue: str) -> None:
        self._paused.add(queue)
        self._signal(Signal(kind="pause", queue=queue))

    async def resume(self, queue: str) -> None:
        self._paused.discard(queue)
        self._signal(Signal(kind="resume", queue=queue))

    async def purge(self, queue: str, *, states: frozenset[State] | None = None) -> int:
        rows = [
            row
            for row in self._table.newest_first(before_seq=None)
            if row.job.queue == queue
            and row.status.state is not State.RUNNING
            and (states is None or row.status.state in states)
        ]
        for row in rows:
            self._table.remove(row)
        self._wake()
        return len(rows)

    # ------------------------------------------------------------------ watch

    async def wait(self, refs: Sequence[JobRef], *, timeout_ms: int) -> list[JobRecord | None]:
        futures = [self._final(ref) for ref in refs]
        pending = [future for future in futures if not future.done()]
        if pending:
            await asyncio.wait(pending, timeout=timeout_ms / 1000)
        return [future.result() if future.done() else None for future in futures]

    def _final(self, ref: JobRef) -> asyncio.Future[JobRecord | None]:
        future: asyncio.Future[JobRecord | None] = asyncio.get_running_loop().create_future()
        row = self._table.find(ref)
        if row is None:
            future.set_result(None)
        elif row.status.state in FINAL:
            future.set_result(row.record)
        else:
            row.waiters.append(future)
        return future

    async def append(self, entries: Sequence[Entry]) -> list[ExtendAnswer]:
        answers: list[ExtendAnswer] = []
        for entry in entries:
            row = self._held(entry.lease)
            answers.append(ExtendAnswer.LOST if row is None else ExtendAnswer.OK)
            if row is not None:
                self._append(row, entry)
        return answers

    def _append(self, row: Row, entry: Entry) -> None:
        self._event_seq += 1
        row.events.append(
            JobEvent(seq=self._event_seq, at_ms=entry.at_ms, kind=entry.kind, data=entry.data)
        )
        row.events_bytes += len(entry.data.encode())
        while len(row.events) > EVENTS_KEPT or row.events_bytes > EVENTS_BYTES_KEPT:
            row.events_bytes -= len(row.events.popleft().data.encode())

    async def events(self, ref: JobRef, *, after: int = 0, limit: int = 1000) -> list[JobEvent]:
        row = self._table.find(ref)
        if row is None:
            return []
        return list(islice((event for event in row.events if event.seq > after), limit))

    async def send(self, signal: Signal) -> None:
        self._signal(signal)

    def _signal(self, signal: Signal) -> None:
        now_ms = self._clock.mono_ms()
        self._signal_seq += 1
        numbered = msgspec.structs.replace(signal, seq=self._signal_seq)
        self._signals.append((now_ms, numbered))
        while self._signals[0][0] < now_ms - SIGNALS_KEPT_MS:
            self._signals.popleft()
        self._wake()

    async def signals(self, *, after: int | None, wait_ms: int = 0) -> list[Signal]:
        if after is None:
            return [signal for _, signal in self._signals][-1:]
        until = time.monotonic() + wait_ms / 1000
        while True:
            found = [signal for _, signal in self._signals if signal.seq > after]
            left = until - time.monotonic()
            if found or left <= 0:
                return found
            await self._sleep(left)

    # ------------------------------------------------------------------ coordinate

    async def heartbeat(self, worker: WorkerInfo) -> None:
        seen = msgspec.structs.replace(worker, seen_at_ms=self._wall.now_ms())
        self._workers[worker.id] = seen

    async def workers(self) -> list[WorkerInfo]:
        oldest_ms = self._wall.now_ms() - WORKER_GONE_MS
        self._workers = {i: w for i, w in self._workers.items() if w.seen_at_ms > oldest_ms}
        return sorted(self._workers.values(), key=lambda worker: worker.started_at_ms)

    async def abandon(self, workers: Sequence[str]) -> int:
        now_ms = self._wall.now_ms()
        rows = [row for row in self._table.running if row.status.worker in workers]
        for row in sorted(rows, key=lambda row: row.status.seq):
            self._take_back(row, now_ms)
        for worker in workers:
            self._workers.pop(worker, None)
        self._wake()
        return len(rows)

    # ------------------------------------------------------------------ waking

    def _wake(self) -> None:
        for sleeper in self._sleepers:
            if not sleeper.done():
                sleeper.set_result(None)
        self._sleepers.clear()

    async def _sleep(self, seconds: float) -> None:
        """Sleep until something changed that a waiter may care for, at most `seconds`."""
        sleeper: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.add(sleeper)
        try:
            await asyncio.wait([sleeper], timeout=seconds)
        finally:
            self._sleepers.discard(sleeper)
