"""The data model: what a producer asked for (`Job`) and what became of it (`Status`).

Everything here is a plain record. A `Job` is immutable and encoded once; a broker never opens
its `payload`. A `Status` holds the broker's own small columns and changes only by the functions
of `lifecycle.py`.
"""

from enum import StrEnum
from typing import Literal, NamedTuple

import msgspec

PRIORITY_MAX = 10
FAIR_WEIGHT_MAX = 1_000_000
SUSPECT_CRASHES = 2  # a job with so many may kill its worker


class State(StrEnum):
    """Where a job stands. The diagram is in `lifecycle.py`."""

    PENDING = "pending"
    SCHEDULED = "scheduled"
    AVAILABLE = "available"
    RUNNING = "running"
    RETRYABLE = "retryable"
    COMPLETED = "completed"
    DEAD = "dead"
    CANCELLED = "cancelled"

    __hash__ = str.__hash__  # Enum's own is a Python function, and states are hashed all the time


FINAL = frozenset({State.COMPLETED, State.DEAD, State.CANCELLED})
UNFINISHED = frozenset(State) - FINAL
WAITING = UNFINISHED - {State.RUNNING}

OnConflict = Literal["return", "reject", "replace"]
OnParentFailed = Literal["cancel", "run", "wait"]


class JobRef(NamedTuple):
    """Names a job. Ids are unique within a queue; without `queue` the store looks it up."""

    id: str
    queue: str | None = None


class UniqueKey(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """At most one job of a queue holds `key` at a time.

    It is held while the job is in one of the states `during`, and in any case until `window_ms`
    after the enqueue, or with `period_ms` until the end of the period (counted from the epoch)
    that the enqueue falls in; `release_on_failure` gives up the rest of the window when the job
    ends dead or cancelled. A job that is replaced starts `delay_max_ms` after its enqueue at the
    latest, whatever delay the new words ask for.
    """

    key: str
    during: frozenset[State] = UNFINISHED
    window_ms: int = 0
    period_ms: int = 0
    delay_max_ms: int | None = None
    on_conflict: OnConflict = "return"
    release_on_failure: bool = True

    def window_end_ms(self, created_at_ms: int) -> int:
        """Until when it is held whatever becomes of the job."""
        if self.period_ms:
            return (created_at_ms // self.period_ms + 1) * self.period_ms
        return created_at_ms + self.window_ms

    def delay_left_ms(self, delay_ms: int, created_at_ms: int, now_ms: int) -> int:
        """How much of a new delay a replaced job may still be put off by."""
        if self.delay_max_ms is None:
            return delay_ms
        return min(delay_ms, max(0, created_at_ms + self.delay_max_ms - now_ms))


class LimitKey(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A limit that the job counts against: the limit's name and the value of its key."""

    name: str
    key: str = ""


class Job(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What the producer asked for. Times ending in `_at_ms` are UTC epoch milliseconds.

    Relative times (`delay_ms`, `expires_after_ms`, `deadline_after_ms`) travel as they are and
    become absolute inside the broker's own step, by the broker's clock.
    """

    id: str
    task: str
    payload: bytes = b"{}"
    codec: str = "json"
    queue: str = "default"
    priority: int = 0  # 0..10, higher first
    headers: dict[str, str] = {}
    tags: tuple[str, ...] = ()
    created_at_ms: int = 0  # stamped by the broker
    delay_ms: int = 0
    scheduled_at_ms: int | None = None  # the caller's `at=`; else stamped from delay_ms
    expires_after_ms: int | None = None
    expires_at_ms: int | None = None  # do not start after: ends dead, `expired`
    deadline_after_ms: int | None = None
    deadline_at_ms: int | None = None  # stop running at
    attempt_max: int | None = None  # None: the task's policy
    crash_max: int = 3  # 0: never run again after a crash
    timeout_ms: int | None = None  # of one run; None: the task's
    unique: UniqueKey | None = None
    ordering_key: str | None = None
    parents: tuple[str, ...] = ()  # ids, same store; the job is pending until all are completed
    unblocks: tuple[JobRef, ...] = ()  # the pending jobs that wait for this one
    on_parent_failed: OnParentFailed = "cancel"
    retention_ms: int | None = None  # of the completed or cancelled record; 0: removed at once
    revision: int = 0  # of this job's words: an edit adds one
    fair_key: str | None = None  # the tenant; see `ropeway.flow.fair`
    fair_weight: int = 1
    limits: tuple[LimitKey, ...] = ()  # all of them must have room
    group_key: str | None = None  # gathers with the others of this task and key into batches
    # Kept for schedules and workflows; a broker whose capabilities lack them refuses.
    workflow_id: str | None = None
    schedule_id: str | None = None

    @property
    def ref(self) -> JobRef:
        """The job's full name: id and queue."""
        return JobRef(self.id, self.queue)


class Failure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One failed attempt, as kept in the record."""

    at_ms: int
    attempt: int
    type: str  # the exception's qualified name, or a reason such as "timeout"
    message: str = ""
    traceback: str = ""


class Crash(NamedTuple):
    """A lease that expired: evidence that the job may have killed its worker."""

    token: int
    at_ms: int


class Progress(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """How far a running job says it is: a fraction 0..1 and a line of text."""

    fraction: float
    note: str = ""


class Status(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """What became of a job: the broker's own columns."""

    state: State
    seq: int  # place in the order of enqueueing, never reused
    due_ms: int  # not before
    rank: float = 0.0  # order among tenants; 0 without a fair key
    attempt: int = 0  # counted starts
    snoozes: int = 0  # in a row; a counted retry resets it
    crashes: tuple[Crash, ...] = ()
    token: int = 0  # of the current lease, or of the last one
    lease_until_ms: int = 0  # by the broker's lease clock
    worker: str | None = None
    started_at_ms: int | None = None
    finished_at_ms: int | None = None
    waiting_on: frozenset[str] = frozenset()
    # Why an available job is not handed out: "ordering:KEY", "limit:NAME:KEY" or "group:KEY".
    blocked_on: str | None = None
    reason: str | None = None  # why the job is in this state, when that is not obvious
    errors: tuple[Failure, ...] = ()  # the last few
    progress: Progress | None = None
    saved: bytes | None = None  # the handler's own cursor, for resuming
    result: bytes | None = None
    result_codec: str = "json"
    cancel_requested: bool = False
    settled_token: int = 0  # the token that wrote the last outcome


class JobRecord(msgspec.Struct, frozen=True, gc=False):
    """A job and its status, as a store keeps and shows them."""

    job: Job
    status: Status


class Lease(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The right to run a job until `expires_at_ms` (the broker's lease clock).

    The fence is `token` + the job's id: only the holder of the current token can settle.
    """

    job: Job
    attempt: int
    token: int
    expires_at_ms: int
    crashes: int = 0
    snoozes: int = 0
    saved: bytes | None = None
    seq: int = 0  # where a store finds the job without a search; 0 where it has no such place

    @property
    def suspect(self) -> bool:
        """It may kill its worker, so it must be the only job its worker holds."""
        return self.crashes >= SUSPECT_CRASHES
