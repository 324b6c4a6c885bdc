"""Settling, prolonging and talking under a lease of the memory broker."""

from collections import defaultdict, deque
from collections.abc import Sequence

from ropeway import lifecycle
from ropeway.broker import (
    EVENTS_BYTES_KEPT,
    EVENTS_KEPT,
    Beat,
    Entry,
    ExtendAnswer,
    Extended,
    JobEvent,
)
from ropeway.brokers.memory import operate
from ropeway.brokers.memory.enqueue import enqueue_then
from ropeway.brokers.memory.row import Row
from ropeway.brokers.memory.state import State
from ropeway.job import FINAL, Lease
from ropeway.job import State as JobState
from ropeway.outcome import Ack, Outcome, Settled

# An enum's attribute costs ten times a module's.
OK, RUNNING = Settled.OK, JobState.RUNNING


def settle_all(state: State, outcomes: Sequence[Outcome]) -> list[Settled]:
    """See `Broker.settle`. Plain acks are written in place and indexed together at the end."""
    now_ms = state.wall.now_ms()
    rows, children = state.table.by_seq, state.table.children
    acked: defaultdict[tuple[str, int | None], list[Row]] = defaultdict(list)
    answers: list[Settled] = []
    for outcome in outcomes:
        lease = outcome.lease
        job, row = lease.job, rows.get(lease.seq)
        if (
            type(outcome) is Ack
            and row is not None
            and row.job is job
            and row.status.token == lease.token
            and row.status.state is RUNNING
            and not outcome.then
            and job.unique is None
            and job.ordering_key is None
            and job.retention_ms != 0
            and job.id not in children
        ):
            lifecycle.complete_in_place(row.status, outcome, now_ms)
            acked[job.queue, job.retention_ms].append(row)
            answers.append(OK)
        else:
            answers.append(_settle(state, outcome, now_ms))
    for (queue, _), done in acked.items():
        prune_at_ms = lifecycle.prune_at_ms(done[0].job, done[0].status)
        state.table.completed(queue, done, prune_at_ms=prune_at_ms)
    return answers


def _settle(state: State, outcome: Outcome, now_ms: int) -> Settled:
    """Write one outcome of any kind."""
    table, lease = state.table, outcome.lease
    row = held(state, lease)
    if row is None:
        row = table.at(lease.job.id, lease.job.queue)
        already = row is not None and row.status.settled_token == lease.token
        return Settled.ALREADY if already else Settled.LOST
    table.put(row, lifecycle.settle(row.status, outcome, now_ms=now_ms), now_ms=now_ms)
    if isinstance(outcome, Ack):  # its unique key is free now, its children are still waiting
        if outcome.then:
            enqueue_then(state, outcome.then, now_ms)
        operate.free_children(table, row, now_ms=now_ms)
    operate.drop_unretained(table, row, now_ms=now_ms)
    return Settled.OK


def held(state: State, lease: Lease) -> Row | None:
    """The row that `lease` is the current lease of; a stale one shows that its holder lives."""
    row = state.table.at(lease.job.id, lease.job.queue)
    if row is None:
        return None
    status = row.status
    if status.state is RUNNING and status.token == lease.token:
        return row
    if status.state not in FINAL and any(c.token == lease.token for c in status.crashes):
        row.status = lifecycle.survived(status, lease.token)
    return None


def extend(state: State, beats: Sequence[Beat], *, lease_ms: int) -> list[Extended]:
    """See `Broker.extend`."""
    now_ms = state.wall.now_ms()
    until_ms = state.clock.mono_ms() + lease_ms
    answers: list[Extended] = []
    for beat in beats:
        row = held(state, beat.lease)
        if row is None:
            answers.append(Extended(ExtendAnswer.LOST, 0))
            continue
        status = lifecycle.extended(
            row.status, lease_until_ms=until_ms, progress=beat.progress, saved=beat.saved
        )
        state.table.put(row, status, now_ms=now_ms)
        answers.append(Extended(_told(state, row), until_ms))
    return answers


def _told(state: State, row: Row) -> ExtendAnswer:
    if row.status.cancel_requested:
        return ExtendAnswer.CANCEL_REQUESTED
    return ExtendAnswer.PAUSED if row.job.queue in state.paused else ExtendAnswer.OK


def append(state: State, entry: Entry) -> ExtendAnswer:
    """Add one entry to a running job's stream, which keeps the newest."""
    row = held(state, entry.lease)
    if row is None:
        return ExtendAnswer.LOST
    state.event_seq += 1
    events = row.events = deque() if row.events is None else row.events
    events.append(
        JobEvent(seq=state.event_seq, at_ms=entry.at_ms, kind=entry.kind, data=entry.data)
    )
    row.events_bytes += len(entry.data.encode())
    while len(events) > EVENTS_KEPT or row.events_bytes > EVENTS_BYTES_KEPT:
        row.events_bytes -= len(events.popleft().data.encode())
    return ExtendAnswer.OK
