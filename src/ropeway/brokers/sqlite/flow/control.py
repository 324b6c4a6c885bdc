"""All of flow control in one transaction: what follows from a change of a row."""

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Final

from ropeway.broker import EnqueueAnswer, Enqueued
from ropeway.brokers.sqlite.connection import Connection
from ropeway.brokers.sqlite.flow.groups import Groups, group_of
from ropeway.brokers.sqlite.flow.keys import Keys, forget_idle
from ropeway.brokers.sqlite.flow.rules import FlowCache, KnownKeys, Rules
from ropeway.brokers.sqlite.flow.turns import AllTurns, forget_passed
from ropeway.flow.fair import turn_of
from ropeway.flow.gate import end_of
from ropeway.flow.limit import End
from ropeway.flow.pace import Pace
from ropeway.job import Job, State, Status

SCHEMA: Final = """
CREATE TABLE paces (
  queue TEXT PRIMARY KEY, n REAL NOT NULL, since_ms INTEGER NOT NULL, at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
"""
SWEEP_EVERY_MS: Final = 60_000
_KEPT_PLACE: Final = (State.AVAILABLE, State.RUNNING)


class Control:
    """The rules, and what is counted by them; read when first asked for."""

    __slots__ = ("_cache", "_sql", "groups", "keys", "now_ms", "rules", "turns")

    def __init__(self, sql: Connection, cache: FlowCache, now_ms: int) -> None:
        self._sql = sql
        self._cache = cache
        self.now_ms: int = now_ms
        self.rules: Rules = cache.read(sql)
        self.keys: Keys = Keys(sql, self.rules, cache.keys)
        self.turns: AllTurns = AllTurns(sql, self.rules)
        self.groups: Groups = Groups(sql, self.rules)

    def finish(self) -> None:
        """Write what changed; the last thing before the commit."""
        self.keys.save(self.now_ms)
        self.turns.save()
        self.groups.save()

    def sweep(self) -> None:
        """Now and then, delete keys and tenants that say nothing any more."""
        if self.now_ms - self._cache.swept_ms > SWEEP_EVERY_MS:
            self._cache.swept_ms = self.now_ms
            self.finish()
            forget_idle(self._sql, self.now_ms)
            self._cache.keys = KnownKeys()
            forget_passed(self._sql)

    def is_fair(self, queue: str) -> bool:
        """Whether any of the queue's jobs took turns."""
        return any(queue == fair for fair, _ in self.rules.fair)

    # ------------------------------------------------------------------ one job

    def concerns(self, job: Job) -> bool:
        """Whether anything here follows from a change of such a job."""
        return bool(
            job.limits
            or job.group_key is not None
            or self.turns.concern(job)
            or job.queue in self.rules.queues
        )

    def admitted(self, job: Job, status: Status) -> str | None:
        """A job is new. Sets its rank; where it is parked."""
        if status.state is not State.AVAILABLE:
            return None
        status.rank = self.turns.join(job)
        if job.group_key is None:
            return None
        status.blocked_on = f"group:{job.group_key}"
        self.groups.join(job, status.due_ms)
        return group_of(job)

    def follow(
        self, old: Status, words: Job, parked_on: str | None, status: Status, job: Job
    ) -> str | None:
        """A job goes from `old` to `status`, its words from `words` to `job`.

        Sets the new rank and `blocked_on`; where the job is parked from now on.
        """
        if parked_on is not None and parked_on[0] == "L":
            if status.state is State.AVAILABLE and words is job:
                return parked_on
            self.keys.unpark(parked_on)
            status.blocked_on = None
        if old.state is State.RUNNING and status.state is not State.RUNNING:
            self._ended(job, status)
        moved = words is not job and turn_of(words) != turn_of(job)
        if old.state is State.AVAILABLE and (moved or status.state not in _KEPT_PLACE):
            self.turns.leave(words)
        if status.state is State.AVAILABLE and (moved or old.state not in _KEPT_PLACE):
            status.rank = self.turns.join(job)
        if words.group_key is not None:
            self.groups.leave(words)
            status.blocked_on = None
        if job.group_key is None or status.state is not State.AVAILABLE:
            return None
        status.blocked_on = f"group:{job.group_key}"
        self.groups.join(job, status.due_ms)
        return group_of(job)

    def _ended(self, job: Job, status: Status) -> None:
        end = end_of(status)
        if job.limits:
            self.keys.ended(job, end, self.now_ms)
        self.keys.queue_ended(job.queue, end, self.now_ms)

    def gone(self, job: Job, state: State, parked_on: str | None) -> None:
        """A record that is not running is removed."""
        if state is State.AVAILABLE:
            self.turns.leave(job)
            self.groups.leave(job)
        if parked_on is not None and parked_on[0] == "L":
            self.keys.unpark(parked_on)

    def completed(self, jobs: Iterable[Job], queues: Iterable[str]) -> None:
        """Jobs of these queues are completed."""
        holds = self.keys.holds(job for job in jobs if job.limits)
        for _, same in groupby(holds, key=id):
            equal = list(same)
            self.keys.gate.end(equal[0], End.SUCCESS, self.now_ms, len(equal))
        for queue in queues:
            self.keys.queue_ended(queue, End.SUCCESS, self.now_ms)

    def started(self, queue: str, seqs: Sequence[int]) -> None:
        """Jobs of a queue were handed out; their own limits are taken already."""
        self.turns.served(queue, seqs)
        rule = self.rules.queue(queue)
        if rule.limits:
            self.keys.queue_started(queue, len(seqs), self.now_ms)
        if rule.max_length is not None:
            pace = self._pace(queue)
            pace.note(len(seqs), self.now_ms)
            self._sql.run(
                "INSERT OR REPLACE INTO paces VALUES (?, ?, ?, ?)",
                (queue, pace.n, pace.since_ms, pace.at_ms),
            )

    # ------------------------------------------------------------------ enqueue

    def full(self, job: Job, length: int, drop: Callable[[], bool]) -> Enqueued | None:
        """The answer to a job for which its queue has no room; None when there is.

        Args:
            job: new to its queue.
            length: how many jobs wait there.
            drop: ends one of them, if it may; whether it did.
        """
        rule = self.rules.queue(job.queue)
        if rule.max_length is None or length < rule.max_length:
            return None
        if rule.on_full == "drop_oldest" and drop():
            return None
        if rule.on_full == "drop_new":
            return Enqueued(EnqueueAnswer.DROPPED, job.id, job.queue)
        wait_ms = self._pace(job.queue).wait_ms(length - rule.max_length + 1, self.now_ms)
        return Enqueued(EnqueueAnswer.FULL, job.id, job.queue, wait_ms)

    def _pace(self, queue: str) -> Pace:
        found = self._sql.first("SELECT n, since_ms, at_ms FROM paces WHERE queue = ?", (queue,))
        return Pace(*found) if found else Pace()
