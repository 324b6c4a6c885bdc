"""Handing out jobs of the memory broker."""

from collections.abc import Mapping
from typing import Final

from ropeway import lifecycle
from ropeway.broker import Queues
from ropeway.brokers.memory.row import Row
from ropeway.brokers.memory.state import State
from ropeway.job import SUSPECT_CRASHES, Lease
from ropeway.job import State as JobState
from ropeway.weighted import Shares

PROMOTED_FOR_GROUPS: Final = 1_000


class _Call:
    """One call of reserve: who asks, and what was taken so far."""

    def __init__(self, state: State, *, worker: str, limit: int, lease_ms: int) -> None:
        self.state = state
        self.worker = worker
        self.limit = limit
        self.now_ms = state.wall.now_ms()
        self.lease_until_ms = state.clock.mono_ms() + lease_ms
        self.taken: list[Row] = []
        self.gate = state.table.flow.limits.gate
        self.may_park = 4 * limit + 64  # so many refused jobs are set aside in one call
        self.passed_over: str | None = None  # the first queue whose suspect had to wait

    @property
    def left(self) -> int:
        """How many more leases fit; none beside a suspect."""
        if self.taken and _suspect(self.taken[0]):
            return 0
        return self.limit - len(self.taken)

    def take(self, queue: str, places: int) -> int:
        """Hand out up to `places` jobs of one queue; how many."""
        state, table = self.state, self.state.table
        worker, until_ms, now_ms = self.worker, self.lease_until_ms, self.now_ms
        promote(state, queue, 2 * self.limit, now_ms)
        places = min(places, self.room(queue))
        taken: list[Row] = []
        while len(taken) < places and self.may_park and (row := table.take_ready(queue)):
            suspect = bool(row.status.crashes) and _suspect(row)
            if suspect and (taken or self.taken):
                self.passed_over = self.passed_over or queue
                table.put_back(row)
                break
            if self.is_late(row) or (row.job.limits and self.is_held_back(row)):
                continue
            lifecycle.start_in_place(row.status, worker, state.token, until_ms, now_ms)
            taken.append(row)
            if suspect:
                break
        self.gate.flush(now_ms)
        if taken:
            table.started(queue, taken, until_ms=until_ms, now_ms=now_ms)
            self.taken += taken
        return len(taken)

    def is_late(self, row: Row) -> bool:
        """Whether the row must not be started any more; then it is buried here."""
        late = lifecycle.overdue(row.job, now_ms=self.now_ms)
        if late is not None:
            status = lifecycle.bury_overdue(row.status, reason=late, now_ms=self.now_ms)
            self.state.table.put(row, status, now_ms=self.now_ms)
        return late is not None

    def is_held_back(self, row: Row) -> bool:
        """Whether one of its limits refuses the row; then it is parked here. Else all are taken."""
        gate, job = self.gate, row.job
        full = gate.start(gate.hold(job.queue, job.limits), self.now_ms)
        if full is not None:
            self.state.table.flow.limits.park(row, full, self.now_ms)
            self.may_park -= 1
        return full is not None

    def room(self, queue: str) -> int:
        """How many jobs the queue's own limits let start."""
        table = self.state.table
        running = table.counts[queue][JobState.RUNNING]
        return table.flow.limits.queue_room(queue, running, self.now_ms)


def reserve(state: State, queues: Queues, *, worker: str, limit: int, lease_ms: int) -> list[Lease]:
    """See `Broker.reserve`; does not wait."""
    state.token += 1
    for row in state.table.flow.limits.woken(2 * limit, state.wall.now_ms()):
        state.table.put_back(row)
    call = _Call(state, worker=worker, limit=limit, lease_ms=lease_ms)
    paused = state.paused & set(queues)
    if isinstance(queues, Mapping):
        shares = state.shares.setdefault(tuple(queues.items()), Shares(queues))
        exhausted = set(paused)
        before = shares.credits()
        while call.left and len(exhausted) < len(queues):
            dealt = shares.deal(call.left, exhausted=frozenset(exhausted))
            for queue, places in dealt.items():
                if 0 < places <= call.left and call.take(queue, places) < places:
                    exhausted.add(queue)
        if not call.taken:
            shares.restore(before)
        if call.passed_over is not None or (call.taken and _suspect(call.taken[0])):
            shares.favour(call.passed_over)
    else:
        for queue in queues:
            if call.left and queue not in paused:
                call.take(queue, call.left)
    state.cut_short = not call.may_park
    return [lifecycle.lease(row.job, row.status) for row in call.taken]


def reserve_group(state: State, queues: Queues, *, worker: str, lease_ms: int) -> list[Lease]:
    """See `JobStore.reserve_group`; does not wait."""
    table, now_ms = state.table, state.wall.now_ms()
    open_queues = [queue for queue in queues if queue not in state.paused]
    for queue in open_queues:
        promote(state, queue, PROMOTED_FOR_GROUPS, now_ms)
    while rows := table.flow.groups.ready(open_queues, now_ms):
        late = [row for row in rows if lifecycle.overdue(row.job, now_ms=now_ms) is not None]
        for row in late:
            reason = lifecycle.overdue(row.job, now_ms=now_ms) or ""
            status = lifecycle.bury_overdue(row.status, reason=reason, now_ms=now_ms)
            table.put(row, status, now_ms=now_ms)
        rows = [row for row in rows if row not in late]
        if not rows:
            continue
        state.token += 1
        until_ms = state.clock.mono_ms() + lease_ms
        for row in rows:
            table.flow.groups.leave(row, row.job)
            row.status.blocked_on = None
            lifecycle.start_in_place(row.status, worker, state.token, until_ms, now_ms)
        table.started(rows[0].job.queue, rows, until_ms=until_ms, now_ms=now_ms)
        return [lifecycle.lease(row.job, row.status) for row in rows]
    return []


def promote(state: State, queue: str, limit: int, now_ms: int) -> int:
    """Make due jobs of a queue available; how many."""
    for done in range(limit):
        row = state.table.next_due(queue)
        if row is None or row.status.due_ms > now_ms:
            return done
        state.table.put(row, lifecycle.promote(row.status), now_ms=now_ms)
    return limit


def next_due_ms(state: State, queues: Queues) -> int | None:
    """Milliseconds until the first scheduled job of these queues is due."""
    limits, now_ms = state.table.flow.limits, state.wall.now_ms()
    open_queues = [queue for queue in queues if queue not in state.paused]
    rows = [state.table.next_due(queue) for queue in open_queues]
    times = [row.status.due_ms for row in rows if row is not None]
    others = [limits.next_ms(now_ms)]
    others += [limits.queue_opens_ms(queue, now_ms) for queue in open_queues]
    times += [at_ms for at_ms in others if at_ms is not None]
    return min(times) - now_ms if times else None


def next_group_ms(state: State, queues: Queues) -> int | None:
    """Milliseconds until the next batch of these queues is ready or a job of them is due."""
    open_queues = [queue for queue in queues if queue not in state.paused]
    rows = [state.table.next_due(queue) for queue in open_queues]
    times = [row.status.due_ms for row in rows if row is not None]
    ready_ms = state.table.flow.groups.next_ms(open_queues)
    times += [] if ready_ms is None else [ready_ms]
    return min(times) - state.wall.now_ms() if times else None


def _suspect(row: Row) -> bool:
    return len(row.status.crashes) >= SUSPECT_CRASHES
