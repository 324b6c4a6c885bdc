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
from ropeway.capabilities import Capabilities
from ropeway.flow.rules import Rule, RuleInfo
from ropeway.job import Job, JobRecord, JobRef, Lease, Progress, State
from ropeway.outcome import Outcome, Settled

Queues = Sequence[str] | Mapping[str, int]
"""Which queues to serve: a sequence is strict (first the first), a mapping gives weights."""


# --------------------------------------------------------------------------------- answers


class EnqueueAnswer(StrEnum):
    """What became of one job of an enqueue call."""

    OK = "ok"
    DUPLICATE_ID = "duplicate_id"  # this very job is there already; nothing was written
    DUPLICATE_KEY = "duplicate_key"  # another job holds the unique key; nothing was written
    REPLACED = "replaced"  # the waiting holder of the key took this job's words
    FULL = "full"  # the queue has reached its bound; nothing was written
    DROPPED = "dropped"  # as FULL, where the queue's rule says to drop what is new


class Enqueued(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """The answer to one job; `id` is that of the job that exists now.

    With FULL and DROPPED there is none: `id` is the job's own, and `retry_after_ms` estimates from
    how fast the queue was served lately when there will be room (None: nobody serves it).
    """

    answer: EnqueueAnswer
    id: str
    queue: str
    retry_after_ms: int | None = None


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


class KeyInfo(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One key of a limit, as it stands now."""

    name: str
    queue: str  # "" for a limit of the whole app
    key: str
    running: tuple[JobRef, ...]  # the jobs that hold it, at most 100 of them
    used: int  # how many
    parked: int  # available jobs that wait for it
    opens_at_ms: int | None = None  # when time alone lets the next one start


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
    concurrency: int | None = None  # of `tune`; 0: the worker finds it
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

        Bad and unsupported values refuse the whole call before any write. Duplicates and FULL are
        answers by position; the rest is written. Checks come in this order: call, id, unique key,
        length. A repeated `call_id` (remembered for 60 s) gets the same answers, changing nothing.
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

        Limits: a job starts only if each of its limits, and those of its queue, have room for it;
        they are taken in this same step, all or none. One that is refused is parked under the
        limit and key that refused it (`blocked_on`), still available, and does not hold up jobs
        of other keys; it comes back to its old place when there is room. A slot is held exactly
        while the job is running, so it ends with the lease. A rate's token is spent at the start.

        Fair keys: see `ropeway.flow.fair`. Jobs that gather for a batch are not handed out here.
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

    async def reserve_group(
        self, queues: Queues, *, worker: str, lease_ms: int, wait_ms: int = 0
    ) -> list[Lease]:
        """Hand out one batch: the gathered jobs of one task and group key, at most its size.

        A batch is ready by its `GroupRule`: when it is full, when no job has come for the grace
        period, or when its oldest job has waited long enough; without a rule each job by itself.
        Paused queues give none. Each job has a lease of its own and is settled by itself; an
        attempt is counted for each. Waits up to `wait_ms` for a batch; returns [] after that.
        """
        ...

    async def declare(self, rules: Sequence[Rule]) -> None:
        """Say what the code wants enforced; replaces earlier words, not an operator's override.

        A job may name a limit only once it is declared; until then it is refused.

        Raises:
            ConfigError: a rule that cannot be meant. Nothing was written.
        """
        ...

    async def override(self, rules: Sequence[Rule], *, force: bool = False) -> None:
        """Put an operator's rules before those of the code, from now on and until `reset`.

        Raises:
            ConfigError: a rule that cannot be meant, a limit or batch task that nobody has
                declared, or fewer slots than are in use now, unless `force`: then those that run
                go on, and none starts until there is room. Nothing was written.
        """
        ...

    async def reset(self, rules: Sequence[Rule]) -> int:
        """Take back the overrides of these rules' names; how many there were."""
        ...

    async def rules(self) -> list[RuleInfo]:
        """All rules, by kind and name."""
        ...

    async def keys(self, name: str, *, key: str | None = None, limit: int = 100) -> list[KeyInfo]:
        """The keys of a limit that hold or wait, those with the most parked jobs first.

        Args:
            name: of the limit; of a limit of a queue itself: "queue:" and its name.
            key: only this one.
            limit: how many at most.
        """
        ...

    async def abandon(self, workers: Sequence[str]) -> int:
        """End the leases of workers known to be dead, as if expired; how many. Forgets them."""
        ...
