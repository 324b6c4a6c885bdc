"""The state machine: pure functions from a status and an event to the next status.

    enqueue ──parents──> pending ──last parent completed──┐
       ├──delay──> scheduled ──due──────────────────────┐ │
       └─────────────────────────────────────────────┐  │ │
                                                     v  v v
        release, lease expired (not counted)     ┌──> available ──expires_at──> dead
                                  │              │        │ reserve (attempt + 1)
       snooze (not counted)       │              │        v
       scheduled <────────────────┴──────────── running ──ack────> completed
                                                  │ │ └───bury, crash_max──> dead
       retryable <──────────────retry─────────────┘ └─────cancel──> cancelled
          └ due ─> available

    any waiting state ──cancel──> cancelled; running: a request, seen with the next extend
    any final state ──retry by an operator (resets attempts and crashes)──> available

Brokers store what these functions return, by compare-and-set on the lease token. Nothing here
reads a clock or does I/O. `TRANSITIONS` is the specification; every function checks itself
against it.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, Final

import msgspec

from ropeway.action import Action, BuryJob, CancelJob, EditJob, MoveJob, RetryJob, RunNow
from ropeway.job import (
    FINAL,
    WAITING,
    Crash,
    Failure,
    Job,
    Lease,
    Progress,
    State,
    Status,
)
from ropeway.outcome import Ack, Bury, Cancel, Crashed, Outcome, Release, Retry, Snooze

CRASH_WINDOW_MS: Final = 24 * 3600 * 1000
ERRORS_KEPT: Final = 10
RETENTION_MS: Final = {
    State.COMPLETED: 10 * 60 * 1000,
    State.CANCELLED: 24 * 3600 * 1000,
    State.DEAD: 90 * 24 * 3600 * 1000,
}
COMPLETED_KEPT: Final = 100_000  # records per queue

PENDING, SCHEDULED, AVAILABLE, RUNNING, RETRYABLE, COMPLETED, DEAD, CANCELLED = State


class Event(StrEnum):
    """What can happen to a stored job."""

    UNBLOCK = "unblock"  # its last parent is completed
    PARENT_FAILED = "parent_failed"
    DUE = "due"
    RESERVE = "reserve"
    ACK = "ack"
    RETRY = "retry"
    SNOOZE = "snooze"
    RELEASE = "release"
    BURY = "bury"
    CANCEL = "cancel"
    LEASE_EXPIRED = "lease_expired"
    OVERDUE = "overdue"  # its `expires_at` or `deadline_at` has passed before a start
    RETRY_NOW = "retry_now"  # an operator's
    RUN_NOW = "run_now"
    REOPEN = "reopen"  # an operator retries the parent whose failure cancelled it
    EDIT = "edit"  # a waiting job's words, its time among them

    __hash__ = str.__hash__  # as in `State`


TRANSITIONS: Final[Mapping[Event, Mapping[State, frozenset[State]]]] = {
    Event.UNBLOCK: {PENDING: frozenset({SCHEDULED, AVAILABLE})},
    Event.PARENT_FAILED: {PENDING: frozenset({CANCELLED})},
    Event.DUE: {SCHEDULED: frozenset({AVAILABLE}), RETRYABLE: frozenset({AVAILABLE})},
    Event.RESERVE: {AVAILABLE: frozenset({RUNNING})},
    Event.ACK: {RUNNING: frozenset({COMPLETED})},
    Event.RETRY: {RUNNING: frozenset({RETRYABLE, CANCELLED})},
    Event.SNOOZE: {RUNNING: frozenset({SCHEDULED, CANCELLED})},
    Event.RELEASE: {RUNNING: frozenset({AVAILABLE, CANCELLED})},
    Event.BURY: {RUNNING: frozenset({DEAD}), **{s: frozenset({DEAD}) for s in WAITING}},
    Event.CANCEL: {
        RUNNING: frozenset({RUNNING, CANCELLED}),  # running -> running is the request
        **{s: frozenset({CANCELLED}) for s in WAITING},
    },
    Event.LEASE_EXPIRED: {RUNNING: frozenset({AVAILABLE, DEAD, CANCELLED})},
    Event.OVERDUE: {s: frozenset({DEAD}) for s in WAITING},
    Event.RETRY_NOW: {s: frozenset({AVAILABLE}) for s in FINAL | {RETRYABLE}},
    Event.RUN_NOW: {s: frozenset({AVAILABLE}) for s in (SCHEDULED, RETRYABLE, AVAILABLE)},
    Event.REOPEN: {CANCELLED: frozenset({PENDING})},
    Event.EDIT: {s: frozenset({s, SCHEDULED, AVAILABLE}) for s in WAITING - {PENDING}}
    | {PENDING: frozenset({PENDING})},
}

_STARTABLE: Final = frozenset(TRANSITIONS[Event.RESERVE])
_COMPLETABLE: Final = frozenset(TRANSITIONS[Event.ACK])


def copied(status: Status) -> Status:
    """A shallow copy, several times faster than `msgspec.structs.replace`."""
    return status.__copy__()  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType, reportUnknownMemberType]


def _move(status: Status, event: Event, to: State, **changes: object) -> Status:
    """A copy in the next state; a transition that the table lacks is a programmer's error."""
    assert to in TRANSITIONS[event].get(status.state, ()), (
        f"{event} cannot take a job from {status.state} to {to}"
    )
    moved = copied(status)
    moved.state = to
    for name, value in changes.items():
        setattr(moved, name, value)
    return moved


# ------------------------------------------------------------------------------ enqueue


def admit(
    job: Job, *, seq: int, now_ms: int, waiting_on: frozenset[str] = frozenset()
) -> tuple[Job, Status]:
    """Stamp a new job by the broker's clock and give its first status.

    Relative times become absolute. `waiting_on` is the part of its parents not yet completed.
    """
    stamps: dict[str, int | None] = {"created_at_ms": now_ms}
    at_ms = job.scheduled_at_ms
    if job.delay_ms:
        at_ms = now_ms + job.delay_ms
        stamps |= {"delay_ms": 0, "scheduled_at_ms": at_ms}
    if job.expires_after_ms is not None:
        stamps |= {"expires_after_ms": None, "expires_at_ms": now_ms + job.expires_after_ms}
    if job.deadline_after_ms is not None:
        stamps |= {"deadline_after_ms": None, "deadline_at_ms": now_ms + job.deadline_after_ms}
    stamped = msgspec.structs.replace(job, **stamps)
    due_ms = now_ms if at_ms is None or at_ms < now_ms else at_ms
    ready = SCHEDULED if due_ms > now_ms else AVAILABLE
    state = PENDING if waiting_on else ready
    return stamped, Status(state=state, seq=seq, due_ms=due_ms, waiting_on=waiting_on)


def parent_completed(status: Status, parent_id: str, *, now_ms: int) -> Status:
    """A pending job whose parent `parent_id` is completed: one less to wait for."""
    left = status.waiting_on - {parent_id}
    if left:
        return msgspec.structs.replace(status, waiting_on=left)
    due_ms = max(status.due_ms, now_ms)
    to = SCHEDULED if due_ms > now_ms else AVAILABLE
    return _move(status, Event.UNBLOCK, to, waiting_on=left, due_ms=due_ms)


def parent_failed(job: Job, status: Status, parent_id: str, *, now_ms: int) -> Status:
    """A pending job whose parent ended dead, cancelled or deleted: by its `on_parent_failed`."""
    if job.on_parent_failed == "run":
        return parent_completed(status, parent_id, now_ms=now_ms)
    if job.on_parent_failed == "wait":
        return status
    return _move(
        status,
        Event.PARENT_FAILED,
        CANCELLED,
        finished_at_ms=now_ms,
        reason=f"parent_failed:{parent_id}",
    )


def blocked(status: Status, on: str | None) -> Status:
    """The same job, held back by a key that others hold (or, with None, no longer)."""
    return msgspec.structs.replace(status, blocked_on=on)


# ------------------------------------------------------------------------------ hand out


def promote(status: Status) -> Status:
    """A scheduled or retryable job whose time has come."""
    return _move(status, Event.DUE, AVAILABLE)


def overdue(job: Job, *, now_ms: int) -> str | None:
    """Why the job must not be started any more: `expired`, `deadline`, or None."""
    if job.expires_at_ms is not None and now_ms >= job.expires_at_ms:
        return "expired"
    if job.deadline_at_ms is not None and now_ms >= job.deadline_at_ms:
        return "deadline"
    return None


def start(status: Status, *, worker: str, token: int, lease_until_ms: int, now_ms: int) -> Status:
    """An available job handed to `worker` under `token`: the attempt is counted."""
    started = copied(status)
    start_in_place(started, worker, token, lease_until_ms, now_ms)
    return started


def start_in_place(
    status: Status, worker: str, token: int, lease_until_ms: int, now_ms: int
) -> None:
    """`start` for a store that owns the status: every job takes this step, and a copy costs."""
    assert status.state in _STARTABLE, f"a job that is {status.state} cannot be started"
    status.state = RUNNING
    status.attempt += 1
    status.token = token
    status.lease_until_ms = lease_until_ms
    status.worker = worker
    status.started_at_ms = now_ms
    status.reason = None


def lease(job: Job, status: Status) -> Lease:
    """The lease that a running status stands for."""
    return Lease(
        job=job,
        attempt=status.attempt,
        token=status.token,
        expires_at_ms=status.lease_until_ms,
        crashes=len(status.crashes),
        snoozes=status.snoozes,
        saved=status.saved,
        seq=status.seq,
    )


def extended(
    status: Status, *, lease_until_ms: int, progress: Progress | None, saved: bytes | None
) -> Status:
    """A running job whose holder sent a beat: a new end of its lease, and what it keeps."""
    kept = copied(status)
    kept.lease_until_ms = lease_until_ms
    kept.progress = status.progress if progress is None else progress
    kept.saved = status.saved if saved is None else saved
    return kept


# ------------------------------------------------------------------------------ settle


def settle(status: Status, outcome: Outcome, *, now_ms: int) -> Status:
    """The status after an outcome told by the holder of the current token.

    A cancel that was requested meanwhile is honoured unless the job completed or died.
    """
    given_up = status.cancel_requested and isinstance(outcome, (Retry, Snooze, Release))
    settled = _SETTLE[Cancel if given_up else type(outcome)](status, outcome, now_ms)
    settled.settled_token = status.token
    return settled


def complete_in_place(status: Status, outcome: Ack, now_ms: int) -> None:
    """`settle` by an `Ack` for a store that owns the status; see `start_in_place`."""
    assert status.state in _COMPLETABLE, f"a job that is {status.state} cannot be completed"
    status.state = COMPLETED
    status.finished_at_ms = now_ms
    status.result = outcome.result
    status.result_codec = outcome.result_codec
    status.saved = None
    status.settled_token = status.token


def _ack(status: Status, outcome: Any, now_ms: int) -> Status:
    completed = copied(status)
    complete_in_place(completed, outcome, now_ms)
    return completed


def _retry(status: Status, outcome: Any, now_ms: int) -> Status:
    return _move(
        status,
        Event.RETRY,
        RETRYABLE,
        due_ms=now_ms + outcome.delay_ms,
        attempt=status.attempt if outcome.counted else status.attempt - 1,
        errors=_with_error(status, outcome.failure),
        snoozes=0,
    )


def _snooze(status: Status, outcome: Any, now_ms: int) -> Status:
    return _move(
        status,
        Event.SNOOZE,
        SCHEDULED,
        due_ms=now_ms + outcome.delay_ms,
        attempt=status.attempt - 1,
        snoozes=status.snoozes + 1,
        reason=outcome.reason,
    )


def _release(status: Status, _outcome: Any, _now_ms: int) -> Status:
    return _move(status, Event.RELEASE, AVAILABLE, attempt=status.attempt - 1)


def _bury(status: Status, outcome: Any, now_ms: int) -> Status:
    return _move(
        status,
        Event.BURY,
        DEAD,
        finished_at_ms=now_ms,
        errors=_with_error(status, outcome.failure, outcome.of_fallback),
        reason=outcome.reason,
    )


def _cancel(status: Status, outcome: Any, now_ms: int) -> Status:
    reason = getattr(outcome, "reason", None) or status.reason
    return _move(status, Event.CANCEL, CANCELLED, finished_at_ms=now_ms, reason=reason)


def _crashed(status: Status, outcome: Any, now_ms: int) -> Status:
    return lease_expired(outcome.lease.job, status, now_ms=now_ms)


_SETTLE: Final[Mapping[type[Outcome], Callable[[Status, Any, int], Status]]] = {
    Ack: _ack,
    Retry: _retry,
    Snooze: _snooze,
    Release: _release,
    Bury: _bury,
    Cancel: _cancel,
    Crashed: _crashed,
}


def _with_error(status: Status, *failures: Failure | None) -> tuple[Failure, ...]:
    return (*status.errors, *(failure for failure in failures if failure))[-ERRORS_KEPT:]


# ------------------------------------------------------------------------------ time passes


def lease_expired(job: Job, status: Status, *, now_ms: int) -> Status:
    """A running job whose holder vanished: back at its old place, the attempt given back.

    A crash is not a retry: it has a budget of its own, `crash_max` within 24 hours. One more
    buries the job with the reason `crashed_worker`.
    """
    recent = tuple(c for c in status.crashes if c.at_ms > now_ms - CRASH_WINDOW_MS)
    crashes = (*recent, Crash(status.token, now_ms))
    if len(crashes) > job.crash_max:
        return _move(
            status,
            Event.LEASE_EXPIRED,
            DEAD,
            crashes=crashes,
            finished_at_ms=now_ms,
            reason="crashed_worker",
        )
    if status.cancel_requested:
        return _move(status, Event.LEASE_EXPIRED, CANCELLED, crashes=crashes, finished_at_ms=now_ms)
    return _move(
        status, Event.LEASE_EXPIRED, AVAILABLE, crashes=crashes, attempt=status.attempt - 1
    )


def survived(status: Status, token: int) -> Status:
    """A holder thought dead has answered with `token`: that crash is taken back.

    Not one that the holder told itself (`Crashed`).
    """
    if token == status.settled_token:
        return status
    crashes = tuple(c for c in status.crashes if c.token != token)
    return msgspec.structs.replace(status, crashes=crashes)


def bury_overdue(status: Status, *, reason: str, now_ms: int) -> Status:
    """A waiting job whose `expires_at` or `deadline_at` has passed."""
    return _move(status, Event.OVERDUE, DEAD, finished_at_ms=now_ms, reason=reason)


def prune_at_ms(job: Job, status: Status) -> int:
    """When the record of a final job may be removed, in ms since the epoch.

    The job's own `retention_ms` counts for completed and cancelled; the dead are always kept
    for an operator. 0 for a completed job means at once. A record that holds a unique key stays
    until its window has passed.
    """
    assert status.finished_at_ms is not None, "only a final job is pruned"
    keep_ms = RETENTION_MS[status.state]
    if job.retention_ms is not None and status.state is not DEAD:
        keep_ms = job.retention_ms
    prune_ms = status.finished_at_ms + keep_ms
    if holds_key(job, status.state, now_ms=status.finished_at_ms) and job.unique is not None:
        prune_ms = max(prune_ms, job.unique.window_end_ms(job.created_at_ms))
    return prune_ms


# ------------------------------------------------------------------------------ operators


def act(job: Job, status: Status, action: Action, *, now_ms: int) -> tuple[Job, Status] | None:
    """The job and status after an operator's action, or None when the state refuses it.

    `DeleteJob` is not handled here: see `deletable`.
    """
    match action:
        case CancelJob(reason=reason):
            cancelled = cancel(status, reason=reason, now_ms=now_ms)
            return None if cancelled is None else (job, cancelled)
        case BuryJob(reason=reason) if status.state in WAITING:
            return job, _move(status, Event.BURY, DEAD, finished_at_ms=now_ms, reason=reason)
        case RetryJob() if status.state in TRANSITIONS[Event.RETRY_NOW]:
            return job, reopen(status, now_ms=now_ms)
        case RunNow() if status.state in TRANSITIONS[Event.RUN_NOW]:
            due_ms = min(status.due_ms, now_ms)
            return job, _move(status, Event.RUN_NOW, AVAILABLE, due_ms=due_ms, reason=None)
        case MoveJob(queue=queue) if status.state in WAITING:
            return msgspec.structs.replace(job, queue=queue), status
        case EditJob() if status.state in WAITING and action.if_revision in (None, job.revision):
            return _edit(job, status, action.job, now_ms)
        case _:
            return None


def cancel(status: Status, *, reason: str, now_ms: int) -> Status | None:
    """Cancel a waiting job, or ask a running one to stop; None when it is final."""
    if status.state in FINAL:
        return None
    if status.state is RUNNING:
        return _move(status, Event.CANCEL, RUNNING, cancel_requested=True, reason=reason)
    return _move(status, Event.CANCEL, CANCELLED, finished_at_ms=now_ms, reason=reason)


def reopen(status: Status, *, now_ms: int) -> Status:
    """An operator's retry: available with a fresh budget; errors stay for the reader."""
    return _move(
        status,
        Event.RETRY_NOW,
        AVAILABLE,
        due_ms=now_ms,
        attempt=0,
        snoozes=0,
        crashes=(),
        finished_at_ms=None,
        result=None,
        reason=None,
        cancel_requested=False,
        waiting_on=frozenset[str](),
    )


def cancelled_by(status: Status, parent_id: str) -> bool:
    """Whether this job was cancelled because that parent failed."""
    return status.state is CANCELLED and status.reason == f"parent_failed:{parent_id}"


def reopen_child(status: Status, *, waiting_on: frozenset[str]) -> Status:
    """A child that its parent's failure cancelled waits again: the parent gets another try."""
    return _move(
        status, Event.REOPEN, PENDING, waiting_on=waiting_on, finished_at_ms=None, reason=None
    )


def deletable(status: Status) -> bool:
    """A running job cannot be deleted: its holder would settle nothing. Cancel it first."""
    return status.state is not RUNNING


def _edit(job: Job, status: Status, new: Job, now_ms: int) -> tuple[Job, Status]:
    if new.delay_ms and new.unique is not None:
        left_ms = new.unique.delay_left_ms(new.delay_ms, job.created_at_ms, now_ms)
        new = msgspec.structs.replace(new, delay_ms=left_ms)
    stamped, fresh = admit(new, seq=status.seq, now_ms=now_ms, waiting_on=status.waiting_on)
    edited = msgspec.structs.replace(
        stamped,
        id=job.id,
        queue=job.queue,
        created_at_ms=job.created_at_ms,
        parents=job.parents,
        unblocks=job.unblocks,
        revision=job.revision + 1,
    )
    if stamped.scheduled_at_ms == job.scheduled_at_ms:  # the time was left as it is
        return edited, status
    if status.state is RETRYABLE and fresh.state is AVAILABLE:
        return edited, status  # an edit does not cut a backoff short: that is RunNow
    return edited, _move(status, Event.EDIT, fresh.state, due_ms=fresh.due_ms)


# ------------------------------------------------------------------------------ unique keys


def holds_key(job: Job, state: State, *, now_ms: int) -> bool:
    """Whether the job holds its unique key now, in `state`."""
    unique = job.unique
    if unique is None:
        return False
    if state in unique.during:
        return True
    if unique.release_on_failure and state in (DEAD, CANCELLED):
        return False
    return now_ms < unique.window_end_ms(job.created_at_ms)
