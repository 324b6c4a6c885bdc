"""The rows of the memory broker and their indexes. Synchronous; knows nothing of verbs.

Every change of a row goes through `Table.put`, which keeps all indexes true. The agendas are
cleaned lazily: an entry counts only while it still says what its row says.
"""

from bisect import bisect_left
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Sequence
from typing import Any, Final

from ropeway import lifecycle
from ropeway.brokers.memory.agenda import Agenda, Calendar
from ropeway.brokers.memory.flow.control import Control
from ropeway.brokers.memory.keys import Holders, Lines
from ropeway.brokers.memory.row import ReadyKey, Row, ready_key
from ropeway.job import FINAL, WAITING, Job, JobRecord, JobRef, State, Status

# An enum's attribute costs ten times a module's.
AVAILABLE, RUNNING, COMPLETED = State.AVAILABLE, State.RUNNING, State.COMPLETED

TimeKey = tuple[int, int]  # when, seq

REMOVED_MIN: Final = 1_000
"""So many rows are removed before the indexes are swept, however few are left."""


class Table:
    """All rows, by id, by seq, and by what is to happen to them next."""

    def __init__(self) -> None:
        self.counts: defaultdict[str, Counter[State]] = defaultdict(Counter)
        self.children: defaultdict[str, set[Row]] = defaultdict(set)
        self.by_seq: dict[int, Row] = {}
        self.failed: deque[Row] = deque()  # parents whose children are still to be told
        self._by_id: dict[str, tuple[Row, ...]] = {}
        self._seqs: list[int] = []
        self._removed = 0  # since the indexes were swept
        self._ready: defaultdict[str, Agenda[ReadyKey]] = defaultdict(Agenda)
        self._due: defaultdict[str, Agenda[TimeKey]] = defaultdict(Agenda)
        self._overdue: Agenda[TimeKey] = Agenda()
        self._leases = Calendar()
        self._prune = Calendar()
        self._completed: defaultdict[str, deque[Row]] = defaultdict(deque)
        self.holders: Holders = Holders()
        self._lines = Lines(self._push_ready)
        self.flow: Control = Control()

    # ------------------------------------------------------------------ rows

    def find(self, ref: JobRef) -> Row | None:
        """The row of a job; without a queue, the first one with that id."""
        return self.at(ref.id, ref.queue)

    def at(self, id_: str, queue: str | None) -> Row | None:
        """`find` without a ref, which takes longer to make than to look up."""
        rows = self._by_id.get(id_)
        if rows is not None:
            for row in rows:
                if queue is None or row.job.queue == queue:
                    return row
        return None

    def newest_first(self, *, before_seq: int | None) -> Iterator[Row]:
        """Rows in falling order of seq, beginning below `before_seq`."""
        end = len(self._seqs) if before_seq is None else bisect_left(self._seqs, before_seq)
        for at in range(end - 1, -1, -1):
            row = self.by_seq.get(self._seqs[at])
            if row is not None:
                yield row

    def add(self, job: Job, status: Status, *, now_ms: int) -> Row:
        """A new row; its id must be free in its queue."""
        row = Row(job, status)
        namesakes = self._by_id.get(job.id)  # in other queues
        self._by_id[job.id] = (row,) if namesakes is None else (*namesakes, row)
        self.by_seq[status.seq] = row
        self._seqs.append(status.seq)
        for parent in job.parents:
            self.adopt(parent, row)
        self._watch_overdue(row)
        self.counts[job.queue][status.state] += 1
        if self.flow.concerns(job):
            self.flow.follow(row, None, job, now_ms)
            self.flow.bounds.added(row)
        self._index(row, now_ms)
        return row

    def put(self, row: Row, status: Status, *, now_ms: int, job: Job | None = None) -> None:
        """Replace a row's status (and words), and every index entry that follows from them."""
        old, words = row.status.state, row.job
        if job is not None and job is not words:
            self.holders.leave(row)
            if (job.queue, job.ordering_key) != (row.job.queue, row.job.ordering_key):
                self._lines.leave(row)
                status = lifecycle.blocked(status, None)
            if job.queue != row.job.queue:
                self._leave_ready(row)
                self.counts[row.job.queue][old] -= 1
                self.counts[job.queue][old] += 1
            row.job = job
            self._watch_overdue(row)
        row.status = status
        if old is not status.state:
            counts = self.counts[row.job.queue]
            counts[old] -= 1
            counts[status.state] += 1
            if old not in WAITING:
                self._watch_overdue(row)
        if self.flow.concerns(row.job) or self.flow.concerns(words):
            self.flow.follow(row, old, words, now_ms)
        self._index(row, now_ms)

    def started(self, queue: str, rows: Sequence[Row], *, until_ms: int, now_ms: int) -> None:
        """Index rows that were available and run now, all leased until the same time."""
        counts = self.counts[queue]
        counts[AVAILABLE] -= len(rows)
        counts[RUNNING] += len(rows)
        self._leases.add(until_ms, rows)
        self.flow.started(queue, rows, now_ms)
        for row in rows:
            if row.job.unique is not None:
                self.holders.update(row, row.job.unique, now_ms)
            if row.job.ordering_key is not None:
                self._lines.update(row)

    def completed(self, queue: str, rows: Sequence[Row], *, prune_at_ms: int, now_ms: int) -> None:
        """Index plain rows that were running and are completed now: no key, no retention of 0."""
        counts = self.counts[queue]
        counts[RUNNING] -= len(rows)
        counts[COMPLETED] += len(rows)
        self._prune.add(prune_at_ms, rows)
        self._completed[queue].extend(rows)
        self.flow.completed(queue, rows, now_ms)
        for row in rows:
            if row.waiters:
                self._answer(row, row.record)

    def remove(self, row: Row) -> None:
        """Forget a row that is not running. Its waiters learn that there is no record."""
        job, status = row.job, row.status
        left = tuple(other for other in self._by_id[job.id] if other is not row)
        if left:
            self._by_id[job.id] = left
        else:
            del self._by_id[job.id]
        del self.by_seq[status.seq]
        self.counts[job.queue][status.state] -= 1
        self.holders.leave(row)
        self._lines.leave(row)
        self.flow.gone(row)
        if status.state is not State.COMPLETED and job.id in self.children:
            self.failed.append(row)
        for parent in row.parents or ():
            self.children[parent].discard(row)
            if not self.children[parent]:
                del self.children[parent]
        self._answer(row, None)
        row.removed = True
        self._removed += 1
        if self._removed > len(self.by_seq) // 4 + REMOVED_MIN:
            self._sweep()

    def _sweep(self) -> None:
        """Drop the entries of removed rows, before they are a quarter of all.

        By itself an entry goes when it comes to the top of its heap: perhaps in 90 days.
        """
        self._removed = 0
        self._seqs = sorted(self.by_seq)
        every: list[Agenda[Any] | Calendar] = [self._leases, self._overdue, self._prune]
        for agenda in (*every, *self._due.values(), *self._ready.values()):
            agenda.keep(_exists)
        for queue, rows in self._completed.items():
            self._completed[queue] = deque(filter(_exists, rows))

    def adopt(self, parent_id: str, child: Row) -> None:
        """Note that `child` waits for the job `parent_id`."""
        child.parents = {*(child.parents or ()), parent_id}
        self.children[parent_id].add(child)

    def needed(self, row: Row) -> bool:
        """Whether an unfinished job still depends on this row's record."""
        children = self.children.get(row.job.id, ())
        return any(child.status.state not in FINAL for child in children)

    # ------------------------------------------------------------------ indexes

    def _index(self, row: Row, now_ms: int) -> None:
        job, status = row.job, row.status
        state = status.state
        if job.unique is not None:
            self.holders.update(row, job.unique, now_ms)
        if job.ordering_key is not None:
            self._lines.update(row)
        if state is State.AVAILABLE:
            self._push_ready(row)
        elif state is State.RUNNING:
            self._leases.add(status.lease_until_ms, (row,))
        elif state is State.SCHEDULED or state is State.RETRYABLE:
            self._due[job.queue].push((status.due_ms, status.seq), row)
        elif state in FINAL:
            self._finish(row)

    def _finish(self, row: Row) -> None:
        status = row.status
        self._prune.add(lifecycle.prune_at_ms(row.job, status), (row,))
        if status.state is State.COMPLETED:
            self._completed[row.job.queue].append(row)
        else:
            self.failed.append(row)
        if row.waiters:
            self._answer(row, row.record)

    def _answer(self, row: Row, record: JobRecord | None) -> None:
        waiters, row.waiters = row.waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(record)

    def _push_ready(self, row: Row) -> None:
        status = row.status
        if status.blocked_on is not None:
            return
        key = ready_key(row)
        if row.ready_key != key:
            row.ready_key = key
            self._ready[row.job.queue].push(key, row)

    def take_ready(self, queue: str) -> Row | None:
        """Take the job that comes next out of its place; `put_back` undoes it."""
        agenda = self._ready[queue]
        while (entry := agenda.pop()) is not None:
            key, row = entry
            if row.ready_key is key:
                row.ready_key = None
                if _is_ready(row):
                    return row
        return None

    def put_back(self, row: Row) -> None:
        """Return a job that was taken by `take_ready` and not started, or was parked."""
        if row.job.ordering_key is not None:
            self._lines.update(row)
        self._push_ready(row)

    def _leave_ready(self, row: Row) -> None:
        self._ready[row.job.queue].keep(lambda other: other is not row)
        row.ready_key = None

    def in_order(self, queue: str) -> list[Row]:
        """Every job that could be handed out, in the order of reserve."""
        entries = sorted(self._ready[queue], key=_key_of)
        return [row for key, row in entries if row.ready_key is key and _is_ready(row)]

    def next_due(self, queue: str) -> Row | None:
        """The scheduled or retryable job of a queue that is due first."""
        agenda = self._due[queue]
        while (entry := agenda.first()) is not None:
            (due_ms, _), row = entry
            waits = row.status.state in (State.SCHEDULED, State.RETRYABLE)
            if waits and row.status.due_ms == due_ms and self._is_here(row, queue):
                return row
            agenda.pop()
        return None

    def _is_here(self, row: Row, queue: str) -> bool:
        return row.job.queue == queue and not row.removed

    def next_lease_end_ms(self) -> int | None:
        """When the first of all leases ends."""
        return self._leases.first_ms(_is_leased)

    def pop_expired(self, mono_ms: int) -> Row | None:
        """A running job whose lease has ended."""
        while (entry := self._leases.pop(mono_ms)) is not None:
            if _is_leased(*entry):
                return entry[1]
        return None

    def running(self) -> set[Row]:
        """Every job that is leased."""
        return {row for at_ms, row in self._leases if _is_leased(at_ms, row)}

    def pop_overdue(self, now_ms: int) -> Row | None:
        """A waiting job whose time to start has passed."""
        while (entry := self._overdue.first()) is not None and entry[0][0] <= now_ms:
            self._overdue.pop()
            row = entry[1]
            if row.removed or lifecycle.overdue(row.job, now_ms=now_ms) is None:
                continue
            if row.status.state in WAITING:
                return row
        return None

    def _watch_overdue(self, row: Row) -> None:
        job = row.job
        if job.expires_at_ms is None and job.deadline_at_ms is None:
            return
        limits = [at for at in (job.expires_at_ms, job.deadline_at_ms) if at is not None]
        if row.status.state in WAITING:
            self._overdue.push((min(limits), row.status.seq), row)

    def pop_prunable(self, now_ms: int) -> Row | None:
        """A final row whose retention has ended and that no unfinished job needs."""
        while (entry := self._prune.pop(now_ms)) is not None:
            _, row = entry
            if row.removed or row.status.state not in FINAL:
                continue
            if lifecycle.prune_at_ms(row.job, row.status) > now_ms:
                continue
            if not self.needed(row):
                return row
            self._prune.add(now_ms + 1000, (row,))
        return None

    def pop_surplus(self, queue: str, kept: int) -> Row | None:
        """The oldest completed row of a queue that keeps more than `kept` of them."""
        oldest = self._completed[queue]
        while oldest and self.counts[queue][State.COMPLETED] > kept:
            row = oldest.popleft()
            if row.status.state is not State.COMPLETED or not self._is_here(row, queue):
                continue
            if not self.needed(row):
                return row
        return None


def _exists(row: Row) -> bool:
    return not row.removed


def _is_leased(until_ms: int, row: Row) -> bool:
    """Whether the lease that ends then is the row's current one."""
    return row.status.state is RUNNING and row.status.lease_until_ms == until_ms


def _key_of(entry: tuple[ReadyKey, Row]) -> ReadyKey:
    return entry[0]


def _is_ready(row: Row) -> bool:
    status = row.status
    return status.state is AVAILABLE and status.blocked_on is None and not row.removed
