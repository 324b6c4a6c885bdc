"""One transaction's work on rows: every change of a single job goes through `Step.put`.

It keeps what follows from a change true: counts, unique keys, ordering keys, parents and children.
Set-based statements elsewhere are only for jobs whose flags say that nothing follows.
"""

from collections import defaultdict

from ropeway import lifecycle
from ropeway.brokers.sqlite.connection import Connection
from ropeway.brokers.sqlite.flow.control import Control
from ropeway.brokers.sqlite.flow.rules import FlowCache
from ropeway.brokers.sqlite.rows import (
    CODE,
    FIRST_FINAL,
    Flag,
    Stored,
    encode,
    extra_of,
    flags_of,
    load,
    load_seqs,
    numbers,
    overdue_at_ms,
    state_of,
    texts,
)
from ropeway.job import FINAL, Job, JobRef, State, Status

PARKED = 2  # `jobs.blocked` of a job with `parked_on`
RESULT_KEPT_MS = 60_000  # of a job with retention 0 that somebody waits for

# A whole row, status and words.
_UPDATE = """
UPDATE jobs SET queue = ?, task = ?, state = ?, priority = ?, rank = ?, due_ms = ?,
  created_at_ms = ?, blocked = ?, flags = ?, attempt = ?, token = ?, lease_until_ms = ?,
  settled_token = ?, worker = ?, started_at_ms = ?, finished_at_ms = ?, unique_key = ?,
  unique_until_ms = ?, ordering_key = ?, parked_on = ?, overdue_at_ms = ?, prune_at_ms = ?,
  result_codec = ?, result = ?, extra = ?, job = coalesce(?, job)
WHERE seq = ?
"""
_INSERT = """
INSERT INTO jobs (id, queue, task, state, priority, rank, due_ms, created_at_ms, blocked, flags,
  unique_key, unique_until_ms, ordering_key, parked_on, overdue_at_ms, extra, job)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_COUNT = """
INSERT INTO counters (queue, state, n) VALUES (?, ?, ?)
ON CONFLICT DO UPDATE SET n = n + excluded.n
"""


class Step:
    """One transaction: its connection, its time, and what must be written at its end."""

    __slots__ = ("_flow", "_rules", "counts", "mono_ms", "now_ms", "sql", "woke")

    def __init__(self, sql: Connection, rules: FlowCache, *, now_ms: int, mono_ms: int) -> None:
        self.sql: Connection = sql
        self.now_ms: int = now_ms  # wall clock, never backwards: schedules
        self.mono_ms: int = mono_ms  # leases
        self.counts: dict[tuple[str, int], int] = defaultdict(int)  # changes of `counters`
        self.woke: bool = False  # somebody may be waiting for what was done

        self._rules = rules
        self._flow: Control | None = None

    @property
    def flow(self) -> Control:
        """Flow control, as it is in this transaction."""
        if self._flow is None:
            self._flow = Control(self.sql, self._rules, self.now_ms)
        return self._flow

    def renewed_flow(self) -> Control:
        """Flow control by rules that were just written."""
        if self._flow is not None:
            self._flow.finish()
        self._flow = None
        return self.flow

    def count_of(self, queue: str, state: State) -> int:
        """How many jobs of a queue are in a state, with what this step has changed."""
        found = self.sql.first(
            "SELECT n FROM counters WHERE queue = ? AND state = ?", (queue, CODE[state])
        )
        return (found[0] if found else 0) + self.counts[queue, CODE[state]]

    def finish(self) -> None:
        """Write the changed counts and keys; the last thing before the commit."""
        if self._flow is not None:
            self._flow.finish()
        for (queue, state), change in self.counts.items():
            if change:
                self.sql.run(_COUNT, (queue, state, change))
        self.counts.clear()

    # ------------------------------------------------------------------ one job

    def add(self, job: Job, status: Status) -> Stored:
        """Insert a new job, give it its seq, and note its parents."""
        key, until_ms = self._key(job, status.state, seq=0)
        flags = flags_of(job, status)
        parked_on = self.flow.admitted(job, status)
        self.sql.run(
            _INSERT,
            (
                *(job.id, job.queue, job.task, CODE[status.state], job.priority, status.rank),
                *(status.due_ms, job.created_at_ms, 0 if parked_on is None else PARKED, flags),
                *(key, until_ms, job.ordering_key, parked_on, overdue_at_ms(job)),
                *(extra_of(status), encode(job)),
            ),
        )
        status.seq = self.sql.last_rowid
        self.counts[job.queue, CODE[status.state]] += 1
        self.woke = True
        for parent_id in job.parents:
            self._link(parent_id, status.seq)
        if job.ordering_key is not None:
            self._choose_head(job.queue, job.ordering_key)
        return Stored(job, status, flags, key, parked_on)

    def put(self, old: Stored, status: Status, job: Job | None = None) -> Stored:
        """Replace a row's status (and words), and everything that follows from them."""
        new = self.write(old, status, job)
        if new.status.state in FINAL and old.status.state is not new.status.state:
            self.ended(new)
        return new

    def write(self, old: Stored, status: Status, job: Job | None = None) -> Stored:
        """`put` without what follows from a job's end, for which `ended` must be called."""
        words = old.job if job is None else job
        final = status.state in FINAL
        key, until_ms = self._key(words, status.state, seq=status.seq)
        flags = flags_of(words, status, kept=old.flags)
        prune_at_ms = lifecycle.prune_at_ms(words, status) if final else None
        parked_on = self._parked_on(old, status, words)
        in_line = status.blocked_on is not None and not final and words.ordering_key is not None
        blocked = PARKED if parked_on is not None else int(in_line)
        self.sql.run(
            _UPDATE,
            (
                *(words.queue, words.task, CODE[status.state], words.priority, status.rank),
                *(status.due_ms, words.created_at_ms, blocked, flags, status.attempt),
                *(status.token, status.lease_until_ms, status.settled_token, status.worker),
                *(status.started_at_ms, status.finished_at_ms, key, until_ms),
                *(words.ordering_key, parked_on, overdue_at_ms(words), prune_at_ms),
                None if status.result_codec == "json" else status.result_codec,
                *(status.result, extra_of(status)),
                None if words is old.job else encode(words),
                status.seq,
            ),
        )
        new = Stored(words, status, flags, key, parked_on)
        self._follow(old, new)
        return new

    def _parked_on(self, old: Stored, status: Status, words: Job) -> str | None:
        """Where the job is parked from now on, once flow control has heard of the change."""
        flow = self.flow
        if not (flow.concerns(words) or flow.concerns(old.job)):
            return None
        return flow.follow(old.status, old.job, old.parked_on, status, words)

    def _follow(self, old: Stored, new: Stored) -> None:
        was, now = old.status.state, new.status.state
        self.woke = True
        if was is not now or old.job.queue != new.job.queue:
            self.counts[old.job.queue, CODE[was]] -= 1
            self.counts[new.job.queue, CODE[now]] += 1
        lines = {
            (job.queue, job.ordering_key)
            for job in (old.job, new.job)
            if job.ordering_key is not None
        }
        for queue, key in lines:
            self._choose_head(queue, key)

    def ended(self, row: Stored) -> None:
        """A job has become final: tell its children; with retention 0 it goes now."""
        if row.status.state is State.COMPLETED:
            self.unblock_children(row.job.id)
        else:
            self.cascade(row.job.id, row.status.seq)
        if lifecycle.prune_at_ms(row.job, row.status) <= self.now_ms:
            self._prune_at_once(row)

    def _prune_at_once(self, row: Stored) -> None:
        """Retention 0: gone with its end, unless a child or a waiter still needs the record."""
        seq = row.status.seq
        waited = self.sql.first(
            "SELECT 1 FROM waiters WHERE seq = ? AND until_ms > ? LIMIT 1", (seq, self.now_ms)
        )
        if waited:
            self.sql.run(
                "UPDATE jobs SET prune_at_ms = ? WHERE seq = ?",
                (self.now_ms + RESULT_KEPT_MS, seq),
            )
        elif not self.needed([row.job.id]):
            self.remove(row)

    def remove(self, row: Stored) -> None:
        """Delete a row that is not running, with all that hangs on it."""
        job, status = row.job, row.status
        self.sql.run("DELETE FROM jobs WHERE seq = ?", (status.seq,))
        self.flow.gone(job, status.state, row.parked_on)
        self.forget([status.seq], row.flags)
        self.counts[job.queue, CODE[status.state]] -= 1
        self.woke = True
        if job.ordering_key is not None:
            self._choose_head(job.queue, job.ordering_key)
        if status.state not in FINAL:
            self.cascade(job.id, status.seq)

    def forget(self, seqs: list[int], flags: int) -> None:
        """Delete what other tables keep for removed rows; `flags`: of all of them together."""
        gone = "IN (SELECT value FROM carray(?))"
        if flags & Flag.EDGES:
            self.sql.run(f"DELETE FROM edges WHERE child_seq {gone}", (numbers(seqs),))
        if flags & Flag.EVENTS:
            self.sql.run(f"DELETE FROM events WHERE job_seq {gone}", (numbers(seqs),))

    # ------------------------------------------------------------------ unique keys

    def holder(self, queue: str, key: str) -> Stored | None:
        """The job that holds a unique key now. A key whose window has passed is let go here."""
        found = self.sql.first(
            "SELECT seq FROM jobs WHERE queue = ? AND unique_key = ?", (queue, key)
        )
        if found is None:
            return None
        (row,) = load_seqs(self.sql, [found[0]])
        if lifecycle.holds_key(row.job, row.status.state, now_ms=self.now_ms):
            return row
        self.sql.run(
            "UPDATE jobs SET unique_key = NULL, unique_until_ms = NULL WHERE seq = ?",
            (row.status.seq,),
        )
        return None

    def _key(self, job: Job, state: State, *, seq: int) -> tuple[str | None, int | None]:
        """What the columns `unique_key` and `unique_until_ms` hold for a job in `state`.

        A job that comes back to a key which another job took meanwhile goes on without it.
        """
        unique = job.unique
        if unique is None or not lifecycle.holds_key(job, state, now_ms=self.now_ms):
            return None, None
        holder = self.holder(job.queue, unique.key)
        if holder is not None and holder.status.seq != seq:
            return None, None
        if state in unique.during:
            return unique.key, None
        return unique.key, unique.window_end_ms(job.created_at_ms)

    # ------------------------------------------------------------------ ordering keys

    def _choose_head(self, queue: str, key: str) -> None:
        """Let only the unfinished job with the lowest seq run; one that runs already stays."""
        head = self.sql.first(
            "SELECT seq FROM jobs WHERE queue = ? AND ordering_key = ? AND blocked = 0"
            " AND state = 3 AND state < 5 LIMIT 1",
            (queue, key),
        ) or self.sql.first(
            "SELECT seq FROM jobs WHERE queue = ? AND ordering_key = ? AND state < 5"
            " ORDER BY seq LIMIT 1",
            (queue, key),
        )
        if head is None:
            return
        self.sql.run(
            "UPDATE jobs SET blocked = 1 WHERE queue = ? AND ordering_key = ? AND blocked = 0"
            " AND state < 5 AND seq <> ?",
            (queue, key, head[0]),
        )
        self.sql.run("UPDATE jobs SET blocked = 0 WHERE seq = ? AND blocked = 1", (head[0],))

    # ------------------------------------------------------------------ parents and children

    def children(self, parent_id: str) -> list[Stored]:
        """The pending jobs that have this parent, in the order of seq."""
        found = self.sql.rows(
            "SELECT j.seq FROM edges e JOIN jobs j ON j.seq = e.child_seq"
            " WHERE e.parent_id = ? AND j.state = 0 ORDER BY j.seq",
            (parent_id,),
        )
        return load_seqs(self.sql, [row[0] for row in found])

    def unblock_children(self, parent_id: str) -> None:
        """A parent is completed: its children wait for one less."""
        for child in self.children(parent_id):
            if parent_id in child.status.waiting_on:
                now_ms = self.now_ms
                self.put(child, lifecycle.parent_completed(child.status, parent_id, now_ms=now_ms))

    def adopt(self, parent_id: str, ref: JobRef) -> None:
        """Let the pending job `ref` wait for `parent_id` too; any other job is left alone."""
        child = load(self.sql, ref)
        if child is None or child.status.state is not State.PENDING:
            return
        status = child.status
        status.waiting_on |= {parent_id}
        self._link(parent_id, status.seq)
        marked = Stored(child.job, status, child.flags | Flag.EDGES, child.unique_key)
        self.put(marked, status)

    def _link(self, parent_id: str, child_seq: int) -> None:
        self.sql.run("INSERT OR IGNORE INTO edges VALUES (?, ?)", (parent_id, child_seq))

    def parent(self, parent_id: str) -> tuple[int, State] | None:
        """The seq and state of a parent; None when it is not known here."""
        found = self.sql.first(
            "SELECT seq, state FROM jobs WHERE id = ? ORDER BY seq LIMIT 1", (parent_id,)
        )
        return (found[0], state_of(found[1])) if found else None

    def is_completed(self, parent_id: str) -> bool:
        """Whether a job need not wait for this parent any more."""
        parent = self.parent(parent_id)
        return parent is not None and parent[1] is State.COMPLETED

    def cascade(self, parent_id: str, parent_seq: int) -> None:
        """A parent failed or was deleted: leave its children to `maintain`."""
        self.sql.run(
            "INSERT OR REPLACE INTO cascades SELECT ?2, ?1, 0"
            " WHERE EXISTS (SELECT 1 FROM edges WHERE parent_id = ?1)",
            (parent_id, parent_seq),
        )

    def with_edges(self, parent_ids: list[str]) -> set[str]:
        """Those of the ids that are some job's parent."""
        if not parent_ids or self.sql.first("SELECT 1 FROM edges LIMIT 1") is None:
            return set()
        found = self.sql.rows(
            "SELECT DISTINCT parent_id FROM edges WHERE parent_id IN (SELECT value FROM carray(?))",
            (texts(parent_ids),),
        )
        return {parent_id for (parent_id,) in found}

    def needed(self, parent_ids: list[str]) -> set[str]:
        """Those of the ids for which an unfinished job still has an edge."""
        return {
            parent_id
            for parent_id in self.with_edges(parent_ids)
            if self.sql.first(
                "SELECT 1 FROM edges e JOIN jobs j ON j.seq = e.child_seq"
                f" WHERE e.parent_id = ? AND j.state < {FIRST_FINAL} LIMIT 1",
                (parent_id,),
            )
        }
