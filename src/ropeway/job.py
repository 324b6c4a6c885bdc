"""The data model: what a producer asked for (`Job`) and what became of it (`Status`).

Everything here is a plain record. A `Job` is immutable and encoded once; a broker never opens
its `payload`. A `Status` holds the broker's own small columns and changes only by the functions
of `lifecycle.py`.
"""

import os
import threading
import time
from enum import StrEnum
from typing import Literal, NamedTuple

import msgspec

PRIORITY_MAX = 10
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
    after the enqueue; `release_on_failure` gives up the rest of the window when the job ends dead
    or cancelled.
    """

    key: str
    during: frozenset[State] = UNFINISHED
    window_ms: int = 0
    on_conflict: OnConflict = "return"
    release_on_failure: bool = True


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
    # Kept for flow control, schedules and workflows; a broker whose capabilities lack them refuses.
    fair_key: str | None = None
    fair_weight: int = 1
    limits: tuple[LimitKey, ...] = ()
    group_key: str | None = None
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
    blocked_on: str | None = None  # why an available job is not handed out, e.g. "ordering:k"
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

    @property
    def suspect(self) -> bool:
        """It may kill its worker, so it must be the only job its worker holds."""
        return self.crashes >= SUSPECT_CRASHES


class _IdSource:
    """UUIDv7 (RFC 9562 §5.7): 48 bits of Unix ms, a counter in `rand_a`, then 62 random bits.

    Ids made by one process are strictly increasing, which keeps a store's index append-only.
    Entropy is drawn in blocks: one `os.urandom` call per 512 ids.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ms = 0
        self._counter = 0
        self._entropy = b""
        self._pos = 0

    def next(self) -> str:
        with self._lock:
            now_ms = time.time_ns() // 1_000_000
            if now_ms > self._ms:
                self._ms, self._counter = now_ms, 0
            elif self._counter < 0xFFF:
                self._counter += 1
            else:  # 4,096 ids in one millisecond: borrow the next one
                self._ms, self._counter = self._ms + 1, 0
            if self._pos >= len(self._entropy):
                self._entropy, self._pos = os.urandom(4096), 0
            tail = self._entropy[self._pos : self._pos + 8].hex()
            self._pos += 8
            head = f"{self._ms:012x}"
            variant = "89ab"[int(tail[0], 16) & 3]
            return f"{head[:8]}-{head[8:]}-7{self._counter:03x}-{variant}{tail[1:4]}-{tail[4:]}"


_ids = _IdSource()


def _forget_entropy() -> None:
    global _ids  # noqa: PLW0603 - a forked child must not repeat its parent's ids
    _ids = _IdSource()


os.register_at_fork(after_in_child=_forget_entropy)


def new_id() -> str:
    """A new UUIDv7 as text, greater than every id this process made before."""
    return _ids.next()
