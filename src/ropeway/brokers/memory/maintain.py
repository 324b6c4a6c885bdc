"""What time does to the jobs of the memory broker."""

from collections.abc import Sequence

from ropeway import lifecycle
from ropeway.broker import Maintained
from ropeway.brokers.memory import operate
from ropeway.brokers.memory.reserve import promote
from ropeway.brokers.memory.row import Row
from ropeway.brokers.memory.state import State


def maintain(state: State, *, limit: int) -> Maintained:
    """See `Broker.maintain`."""
    now_ms = state.wall.now_ms()
    promoted = 0
    for queue in list(state.table.counts):
        promoted += promote(state, queue, limit - promoted, now_ms)
    expired = _expire_leases(state, limit, now_ms)
    buried = _bury_overdue(state, limit, now_ms)
    cascaded = operate.cascade(state.table, limit, now_ms=now_ms)
    pruned = _prune(state, limit, now_ms)
    if promoted or expired or cascaded:
        state.wake()
    return Maintained(
        promoted=promoted,
        expired=expired,
        buried=buried,
        cascaded=cascaded,
        pruned=pruned,
        more=limit in (promoted, expired, buried, cascaded, pruned),
        next_ms=_next_event_ms(state, now_ms),
    )


def abandon(state: State, workers: Sequence[str]) -> int:
    """See `JobStore.abandon`."""
    now_ms = state.wall.now_ms()
    rows = [row for row in state.table.running() if row.status.worker in workers]
    for row in sorted(rows, key=lambda row: row.status.seq):
        _take_back(state, row, now_ms)
    for worker in workers:
        state.workers.pop(worker, None)
    state.wake()
    return len(rows)


def _expire_leases(state: State, limit: int, now_ms: int) -> int:
    mono_ms = state.clock.mono_ms()
    for done in range(limit):
        row = state.table.pop_expired(mono_ms)
        if row is None:
            return done
        _take_back(state, row, now_ms)
    return limit


def _take_back(state: State, row: Row, now_ms: int) -> None:
    status = lifecycle.lease_expired(row.job, row.status, now_ms=now_ms)
    state.table.put(row, status, now_ms=now_ms)
    operate.drop_unretained(state.table, row, now_ms=now_ms)


def _bury_overdue(state: State, limit: int, now_ms: int) -> int:
    for done in range(limit):
        row = state.table.pop_overdue(now_ms)
        if row is None:
            return done
        reason = lifecycle.overdue(row.job, now_ms=now_ms)
        assert reason is not None, "pop_overdue returns overdue jobs only"
        status = lifecycle.bury_overdue(row.status, reason=reason, now_ms=now_ms)
        state.table.put(row, status, now_ms=now_ms)
    return limit


def _prune(state: State, limit: int, now_ms: int) -> int:
    done = 0
    while done < limit and (row := state.table.pop_prunable(now_ms)) is not None:
        state.table.remove(row)
        done += 1
    for queue in list(state.table.counts):
        kept = lifecycle.COMPLETED_KEPT
        while done < limit and (row := state.table.pop_surplus(queue, kept)) is not None:
            state.table.remove(row)
            done += 1
    return done


def _next_event_ms(state: State, now_ms: int) -> int | None:
    rows = [state.table.next_due(queue) for queue in list(state.table.counts)]
    ends = [row.status.due_ms - now_ms for row in rows if row is not None]
    if (lease_end_ms := state.table.next_lease_end_ms()) is not None:
        ends.append(lease_end_ms - state.clock.mono_ms())
    return max(0, min(ends)) if ends else None
