"""The contract that every backend keeps. Read this first.

`Broker` has the verbs of a job's life; `JobStore` adds those that need an addressable record.
Every verb on the job path takes and returns a batch, by position. Expected answers (a duplicate,
a lost lease) are values; exceptions are for callers' mistakes and for a store that fails.

Time: the broker's own clock counts. Leases run on a clock that never steps; schedules on one
that never runs backwards. The contract suite in `ropeway.testing.contract` tests every sentence
below on every broker.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from enum import StrEnum
from typing import Literal, Protocol

import msgspec

from ropeway.action import Acted, Action
from ropeway.errors import ConfigError, PayloadTooLarge, Unsupported
from ropeway.job import (
    PRIORITY_MAX,
    Job,
    JobRecord,
    JobRef,
    Lease,
    Progress,
    State,
)
from ropeway.outcome import Outcome, Settled

Queues = Sequence[str] | Mapping[str, int]
"""Which queues to serve: a sequence is strict (first the first), a mapping gives weights."""


class Capabilities(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a broker can do, as a value with numbers. Constant once the broker is open."""

    name: str
    level: Literal["store", "transport"] = "store"
    durable: bool  # survives the end of the process
    shared: bool  # serves more than one process
    durability: str  # what "acknowledged" means, in a few words
    ordering: Literal["none", "fifo", "priority"] = "priority"
    priority_levels: int = PRIORITY_MAX + 1
    delay_max_ms: int = 2**53
    lease_max_ms: int = 24 * 3600 * 1000
    attempt_exact: bool = True
    batch_max: int = 10_000
    payload_max_bytes: int = 16 * 1024 * 1024
    unique: bool = True
    ordering_keys: bool = True
    workflow_edges: bool = True  # parents, unblocks, Ack(then)
    wakeup: Literal["push", "poll"] = "push"
    limits: bool = False
    fair: bool = False
    groups: bool = False
    schedules: bool = False

    def refuse(self, job: Job) -> None:
        """Raise before anything is written when the job asks for what this broker lacks.

        Raises:
            Unsupported: a feature that the capabilities lack.
            PayloadTooLarge: the payload is over `payload_max_bytes`.
            ConfigError: a field has a value that no broker takes.
        """
        check(job)
        if len(job.payload) > self.payload_max_bytes:
            raise PayloadTooLarge(
                f"job {job.id}: its payload has {len(job.payload)} bytes; {self.name} takes at "
                f"most {self.payload_max_bytes}. Store the data elsewhere and pass its address."
            )
        if job.delay_ms > self.delay_max_ms:
            raise Unsupported(
                f"job {job.id}: delay_ms={job.delay_ms} is longer than the {self.delay_max_ms} ms "
                f"that {self.name} can wait. Give a shorter delay."
            )
        if (job.unique or job.ordering_key or job.parents or job.unblocks) or (
            job.limits or job.fair_key or job.group_key or job.schedule_id
        ):
            self._refuse_features(job)

    def _refuse_features(self, job: Job) -> None:
        for used, able, what in (
            (job.limits, self.limits, "limits"),
            (job.fair_key, self.fair, "fair_key"),
            (job.group_key, self.groups, "group_key"),
            (job.schedule_id, self.schedules, "schedule_id"),
            (job.unique, self.unique, "unique"),
            (job.ordering_key, self.ordering_keys, "ordering_key"),
            (job.parents or job.unblocks, self.workflow_edges, "parents and unblocks"),
        ):
            if used and not able:
                raise Unsupported(
                    f"job {job.id}: {self.name} does not support {what}. Leave it out, or use a "
                    "broker whose row in the capability table has it."
                )

    def refuse_all(self, jobs: Sequence[Job]) -> None:
        """`refuse` each job of one call, and a call of more than `batch_max` jobs."""
        if len(jobs) > self.batch_max:
            raise ConfigError(
                f"{len(jobs)} jobs in one call; {self.name} takes at most {self.batch_max}. "
                "Enqueue them in several calls."
            )
        for job in jobs:
            self.refuse(job)

    def refuse_reserve(self, *, limit: int, lease_ms: int) -> None:
        """Raise ConfigError when `reserve` is asked for no job, or for a lease out of range."""
        if limit < 1:
            raise ConfigError(f"limit={limit} reserves nothing; give 1 or more")
        if not 1 <= lease_ms <= self.lease_max_ms:
            raise ConfigError(
                f"lease_ms={lease_ms} is not within 1..{self.lease_max_ms}, which is what "
                f"{self.name} can keep"
            )


def check(job: Job) -> None:
    """Raise ConfigError when a field of the job has a value that no broker takes."""
    if not (job.id and job.task and job.queue):
        raise ConfigError(f"job {job.id!r}: id, task and queue must not be empty")
    if not 0 <= job.priority <= PRIORITY_MAX:
        raise ConfigError(f"job {job.id}: priority {job.priority} is not within 0..{PRIORITY_MAX}")
    if job.delay_ms < 0 or job.crash_max < 0 or _has_other_numbers(job):
        _check_numbers(job)
    if job.delay_ms and job.scheduled_at_ms is not None:
        raise ConfigError(f"job {job.id}: give a delay or a time to start at, not both")
    if job.unique is not None and job.unblocks:
        raise ConfigError(
            f"job {job.id}: a job that others wait for may not be unique, since a duplicate "
            "would leave them waiting for ever"
        )
    if job.ordering_key is not None and (job.fair_key is not None or job.group_key is not None):
        raise ConfigError(f"job {job.id}: ordering_key excludes fair_key and group_key")
    if job.id in job.parents or (job.unblocks and any(ref.id == job.id for ref in job.unblocks)):
        raise ConfigError(f"job {job.id}: a job cannot wait for itself")


def _has_other_numbers(job: Job) -> bool:
    return not (
        job.retention_ms is None
        and job.expires_after_ms is None
        and job.deadline_after_ms is None
        and job.attempt_max is None
        and job.timeout_ms is None
    )


def _check_numbers(job: Job) -> None:
    for value, least, name in (
        (job.delay_ms, 0, "delay_ms"),
        (job.crash_max, 0, "crash_max"),
        (job.retention_ms, 0, "retention_ms"),
        (job.expires_after_ms, 0, "expires_after_ms"),
        (job.deadline_after_ms, 0, "deadline_after_ms"),
        (job.attempt_max, 1, "attempt_max"),
        (job.timeout_ms, 1, "timeout_ms"),
    ):
        if value is not None and value < least:
            raise ConfigError(f"job {job.id}: {name}={value} is too small; give {least} or more")


# --------------------------------------------------------------------------------- answers


class EnqueueAnswer(StrEnum):
    """What became of one job of an enqueue call."""

    OK = "ok"
    DUPLICATE_ID = "duplicate_id"  # this very job is there already; nothing was written
    DUPLICATE_KEY = "duplicate_key"  # another job holds the unique key; nothing was written
    REPLACED = "replaced"  # the waiting holder of the key took this job's words
    FULL = "full"


class Enqueued(msgspec.Struct, frozen=True, gc=False):
    """The answer to one job; `id` is that of the job that exists now."""

    answer: EnqueueAnswer
    id: str
    queue: str


class Beat(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Prolongs one lease; carries what the handler wants to keep, fenced by the token."""

    lease: Lease
    progress: Progress | None = None
    saved: bytes | None = None


class ExtendAnswer(StrEnum):
    """What the holder of a lease must know."""

    OK = "ok"
    LOST = "lost"  # stop: somebody else may run the job; nothing was written
    CANCEL_REQUESTED = "cancel_requested"  # prolonged, but asked to stop
    PAUSED = "paused"  # prolonged, but the queue is paused: release what is not yet started


class Extended(msgspec.Struct, frozen=True, gc=False):
    """The answer to one beat; `expires_at_ms` is by the broker's lease clock."""

    answer: ExtendAnswer
    expires_at_ms: int


class Maintained(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one call of `maintain` did, and when the next is due."""

    promoted: int = 0
    expired: int = 0  # leases taken back
    buried: int = 0  # jobs that ended because their time to start had passed
    cascaded: int = 0  # children settled because a parent failed
    pruned: int = 0
    more: bool = False  # a limit was reached: call again now
    next_ms: int | None = None  # until the next known due time or lease end


# --------------------------------------------------------------------------------- looking


class Filter(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Which jobs to find; every given field must match. Times are UTC epoch milliseconds."""

    states: AbstractSet[State] | None = None
    queue: str | None = None
    task: str | None = None
    tag: str | None = None
    unique_key: str | None = None
    error: str | None = None  # part of the last failure's type or message, or of the reason
    worker: str | None = None
    created_from_ms: int | None = None
    created_before_ms: int | None = None
    finished_from_ms: int | None = None
    finished_before_ms: int | None = None


class Page(msgspec.Struct, frozen=True, gc=False):
    """Some of the found records, newest first, and where to go on (None: that was all).

    A page may be short, even empty, and still have a cursor: a call scans a bounded number of
    records. A cursor stays valid while jobs come and go; no record that exists throughout is
    left out or shown twice.
    """

    records: list[JobRecord]
    cursor: str | None


class QueueInfo(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A queue as a store sees it; `counts` has every state that occurs."""

    name: str
    paused: bool
    counts: dict[State, int]
    oldest_due_ms: int | None  # when its first available job became due


class WorkerInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A worker process, as its own heartbeat tells it."""

    id: str  # a random UUID per start: never a host name or a pid
    host: str
    pid: int
    queues: dict[str, int] = {}  # weights; strict queues have falling ones
    strict: bool = True
    concurrency: int = 0
    running: tuple[str, ...] = ()  # ids of jobs
    processed: int = 0
    failed: int = 0
    started_at_ms: int = 0
    seen_at_ms: int = 0  # stamped by the broker
    state: Literal["running", "quiet", "stopping"] = "running"
    version: str = ""
    tasks: tuple[str, ...] = ()


class Signal(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A word to workers, kept for a minute. `seq` is given by the store."""

    kind: Literal["cancel", "pause", "resume", "quiet", "stop", "tune"]
    seq: int = 0
    worker: str | None = None  # None: all of them
    ref: JobRef | None = None
    queue: str | None = None
    concurrency: int | None = None  # of `tune`
    queues: tuple[str, ...] | None = None  # of `tune`: "name" or "name=weight"


class Entry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One line for a job's own log, written under its lease."""

    lease: Lease
    kind: Literal["log", "progress", "partial"]
    at_ms: int
    data: str  # text; JSON where the writer likes


class JobEvent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One entry of a job's stream, in order of `seq`."""

    seq: int
    at_ms: int
    kind: str
    data: str


EVENTS_KEPT = 1_000
EVENTS_BYTES_KEPT = 1_000_000
SIGNALS_KEPT_MS = 60_000
CALLS_KEPT_MS = 60_000
WORKER_GONE_MS = 60_000
FIND_SCAN_MAX = 10_000


# --------------------------------------------------------------------------------- the verbs


class Broker(Protocol):
    """Nothing here needs a job to be found by its id."""

    @property
    def capabilities(self) -> Capabilities:
        """What this broker can do. Constant for its life."""
        ...

    async def open(self) -> None:
        """Connect and check the schema's version; idempotent.

        Raises:
            SchemaMismatch, StorageReadOnly, StorageCorrupt, Disconnected.
        """
        ...

    async def close(self) -> None:
        """Let go of everything; idempotent. Leases still held expire by themselves."""
        ...

    async def enqueue(self, jobs: Sequence[Job], *, call_id: str | None = None) -> list[Enqueued]:
        """Store jobs durably, in one atomic step, and wake waiting workers.

        Bad and unsupported values refuse the whole call before any write. Duplicates are answers
        by position; the rest is written. Checks come in this order: call, id, unique key. A
        repeated `call_id` (remembered for 60 s) gets the same answers and changes nothing.
        A job with parents is pending until all are completed: those that are completed already
        count at once, those that failed count by `on_parent_failed`, and those not yet known are
        waited for. A job with `unblocks` is added to the parents of each named pending job.

        Raises:
            IdConflict: an id is taken by a job with another task or payload.
            Unsupported, ConfigError, PayloadTooLarge: see `Capabilities.refuse`.
            StorageFull, Disconnected: nothing of the call was written.
        """
        ...

    async def reserve(
        self, queues: Queues, *, worker: str, limit: int, lease_ms: int, wait_ms: int = 0
    ) -> list[Lease]:
        """Hand out up to `limit` jobs, counting the attempt of each.

        Order inside a queue: priority (higher first), rank, due time, seq. Never from a paused
        queue, never before a job is due, never one that is overdue. Due jobs count whether or
        not `maintain` has run. Waits up to `wait_ms` for the first job; returns [] after that.
        A suspect (two crashes) comes as the only lease of a call. Of one ordering key at most
        one job runs, in the order of seq.
        """
        ...

    async def settle(self, outcomes: Sequence[Outcome]) -> list[Settled]:
        """Write how runs ended. Outcomes are independent of each other.

        Only the current token counts, else LOST; the token that settled the job last gets
        ALREADY while the record exists. One atomic step holds the final state, the release of
        the unique and ordering keys, then the jobs `then`, then the unblocking of children, and
        the counters. A job of `then` that is refused refuses the whole call before any write;
        one whose id or unique key is taken is left out.
        """
        ...

    async def extend(self, beats: Sequence[Beat], *, lease_ms: int) -> list[Extended]:
        """Prolong leases, counted from now, and keep their progress and saved cursors."""
        ...

    async def exchange(
        self,
        outcomes: Sequence[Outcome],
        queues: Queues,
        *,
        worker: str,
        limit: int,
        lease_ms: int,
    ) -> tuple[list[Settled], list[Lease]]:
        """`settle`, then `reserve` without waiting, in one step where the store can."""
        ...

    async def maintain(self, *, limit: int = 1000) -> Maintained:
        """Do what time asks for; safe from any number of processes at once.

        In this order, each within its own `limit`: promote due jobs, take back expired leases,
        bury overdue jobs, settle the children of failed parents, prune old records.
        """
        ...


class JobStore(Broker, Protocol):
    """A broker that keeps a record of each job."""

    async def get(self, refs: Sequence[JobRef]) -> list[JobRecord | None]:
        """The records by position; None where there is none."""
        ...

    async def find(self, where: Filter, *, after: str | None = None, limit: int = 100) -> Page:
        """Records that match, newest first. Raises ConfigError for a cursor not from here."""
        ...

    async def count(self, where: Filter) -> int:
        """How many records match, exactly."""
        ...

    async def peek(self, queue: str, *, limit: int = 10, offset: int = 0) -> list[JobRecord]:
        """The available jobs of a queue in the order of reserve, from position `offset`."""
        ...

    async def queues(self) -> list[QueueInfo]:
        """Every queue that has records or is paused, by name."""
        ...

    async def act(self, actions: Sequence[Action]) -> list[Acted]:
        """Do what an operator asks of single jobs; see `ropeway.action`. One answer per job."""
        ...

    async def pause(self, queue: str) -> None:
        """Hand out no more jobs of the queue until `resume`; survives restarts."""
        ...

    async def resume(self, queue: str) -> None:
        """Undo `pause` and wake waiting workers."""
        ...

    async def purge(self, queue: str, *, states: AbstractSet[State] | None = None) -> int:
        """Delete the jobs of a queue that are not running; how many. None: all such states."""
        ...

    async def wait(self, refs: Sequence[JobRef], *, timeout_ms: int) -> list[JobRecord | None]:
        """Return when every job is final or `timeout_ms` has passed.

        By position: the final record; None for a job that is not final yet. A job without a
        record gets None at once.
        A waiter that came before the end gets the record even if its retention is 0.
        """
        ...

    async def append(self, entries: Sequence[Entry]) -> list[ExtendAnswer]:
        """Add lines to the streams of running jobs: OK, or LOST where the token is stale.

        A stream keeps the newest 1,000 entries and 1 MB and goes with its record.
        """
        ...

    async def events(self, ref: JobRef, *, after: int = 0, limit: int = 1000) -> list[JobEvent]:
        """Entries of a job's stream with a seq greater than `after`, oldest first."""
        ...

    async def send(self, signal: Signal) -> None:
        """Tell workers something; `act(CancelJob)`, `pause` and `resume` send their own."""
        ...

    async def signals(self, *, after: int | None, wait_ms: int = 0) -> list[Signal]:
        """Signals with a seq greater than `after`, oldest first; waits for the first one.

        `after=None` answers at once with the newest signal only (or nothing): where to begin.
        """
        ...

    async def heartbeat(self, worker: WorkerInfo) -> None:
        """Note that a worker lives; it is listed until 60 s after its last heartbeat."""
        ...

    async def workers(self) -> list[WorkerInfo]:
        """The workers heard of in the last 60 s."""
        ...

    async def abandon(self, workers: Sequence[str]) -> int:
        """End the leases of workers known to be dead, as if expired; how many. Forgets them."""
        ...
