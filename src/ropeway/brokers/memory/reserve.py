"""Handing out jobs of the memory broker."""

from collections.abc import Mapping

from ropeway import lifecycle
from ropeway.broker import Queues
from ropeway.brokers.memory.row import Row
from ropeway.brokers.memory.state import State
from ropeway.job import SUSPECT_CRASHES, Lease
from ropeway.weighted import Shares


class _Call:
    """One call of reserve: who asks, and what was taken so far."""

    def __init__(self, state: State, *, worker: str, limit: int, lease_ms: int) -> None:
        self.state = state
        self.worker = worker
        self.limit = limit
        self.now_ms = state.wall.now_ms()
        self.lease_until_ms = state.clock.mono_ms() + lease_ms
        self.taken: list[Row] = []
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
        taken: list[Row] = []
        while len(taken) < places and (row := table.take_ready(queue)) is not None:
            suspect = bool(row.status.crashes) and _suspect(row)
            if suspect and (taken or self.taken):
                self.passed_over = self.passed_over or queue
                table.put_back(row)
                break
            late = lifecycle.overdue(row.job, now_ms=now_ms)
            if late is not None:
                status = lifecycle.bury_overdue(row.status, reason=late, now_ms=now_ms)
                table.put(row, status, now_ms=now_ms)
                continue
            lifecycle.start_in_place(row.status, worker, state.token, until_ms, now_ms)
            taken.append(row)
            if suspect:
                break
        if taken:
            table.started(queue, taken, until_ms=until_ms, now_ms=now_ms)
            self.taken += taken
        return len(taken)


def reserve(state: State, queues: Queues, *, worker: str, limit: int, lease_ms: int) -> list[Lease]:
    """See `Broker.reserve`; does not wait."""
    state.token += 1
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
    return [lifecycle.lease(row.job, row.status) for row in call.taken]


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
    rows = [state.table.next_due(queue) for queue in queues if queue not in state.paused]
    due = [row.status.due_ms for row in rows if row is not None]
    return min(due) - state.wall.now_ms() if due else None


def _suspect(row: Row) -> bool:
    return len(row.status.crashes) >= SUSPECT_CRASHES
