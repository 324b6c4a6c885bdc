"""All of flow control in the memory broker: what follows from a change of a row."""

from collections.abc import Callable, Iterable, Sequence

from ropeway.broker import EnqueueAnswer, Enqueued, KeyInfo
from ropeway.brokers.memory.flow.bounds import Bounds
from ropeway.brokers.memory.flow.groups import Groups
from ropeway.brokers.memory.flow.limits import Limits
from ropeway.brokers.memory.flow.rules import Rules
from ropeway.brokers.memory.flow.turns import AllTurns
from ropeway.brokers.memory.row import Row
from ropeway.errors import ConfigError
from ropeway.flow.fair import turn_of
from ropeway.flow.gate import end_of
from ropeway.flow.limit import End
from ropeway.flow.rules import LimitRule, QueueRule, Rule, Slots, too_few
from ropeway.job import FINAL, Job, State

_KEPT_PLACE = (State.AVAILABLE, State.RUNNING)


class Control:
    """The rules and what is counted by them."""

    def __init__(self) -> None:
        self.rules: Rules = Rules()
        self.limits: Limits = Limits(self.rules)
        self.turns: AllTurns = AllTurns()
        self.groups: Groups = Groups(self.rules)
        self.bounds: Bounds = Bounds()

    def concerns(self, job: Job) -> bool:
        """Whether anything here follows from a change of such a job."""
        return bool(
            job.limits
            or job.fair_key is not None
            or job.group_key is not None
            or self.turns
            or self.rules.infos
        )

    def follow(self, row: Row, was: State | None, words: Job, now_ms: int) -> None:
        """A row has changed; `was` is its state before (None: it is new), `words` its job then."""
        job, status = row.job, row.status
        if row.parked is not None and (status.state is not State.AVAILABLE or words is not job):
            self.limits.unpark(row)
        if was is State.RUNNING and status.state is not State.RUNNING:
            self._ended(row, now_ms)
        moved = words is not job and turn_of(words) != turn_of(job)
        if moved or (was in FINAL and status.state not in FINAL):
            self.bounds.added(row)  # it has a new place among those that may be dropped
        if was is State.AVAILABLE and (moved or status.state not in _KEPT_PLACE):
            self.turns.leave(words)
        if status.state is State.AVAILABLE and (moved or was not in _KEPT_PLACE):
            self.turns.join(job, status)
        if words.group_key is not None:
            self.groups.leave(row, words)
            status.blocked_on = None
        if job.group_key is not None and status.state is State.AVAILABLE:
            status.blocked_on = f"group:{job.group_key}"
            self.groups.join(row)

    def _ended(self, row: Row, now_ms: int) -> None:
        end = end_of(row.status)
        if row.job.limits:
            self.limits.ended(row.job, end, now_ms)
        self.limits.queue_ended(row.job.queue, end, now_ms)

    def gone(self, row: Row) -> None:
        """A row that is not running is removed."""
        self.limits.unpark(row)
        if row.status.state is State.AVAILABLE:
            self.turns.leave(row.job)
        if row.job.group_key is not None:
            self.groups.leave(row, row.job)

    def started(self, queue: str, rows: Sequence[Row], now_ms: int) -> None:
        """Rows of a queue were handed out; their own limits are taken already."""
        self.turns.served(queue, rows)
        rule = self.rules.queue(queue)
        if rule.limits:
            self.limits.queue_started(queue, len(rows), now_ms)
        if rule.max_length is not None:
            self.bounds.paces[queue].note(len(rows), now_ms)

    def completed(self, queue: str, rows: Sequence[Row], now_ms: int) -> None:
        """Rows of a queue are completed."""
        self.limits.completed([row.job for row in rows if row.job.limits], now_ms)
        self.limits.queue_ended(queue, End.SUCCESS, now_ms)

    # ------------------------------------------------------------------ bounds

    def full(self, job: Job, length: int, drop: Callable[[], bool], now_ms: int) -> Enqueued | None:
        """The answer to a job for which its queue has no room; None when there is.

        Args:
            job: new to its queue.
            length: how many jobs wait there.
            drop: ends one of them, if it may; whether it did.
            now_ms: by the store's clock.
        """
        rule = self.rules.queue(job.queue)
        if rule.max_length is None or length < rule.max_length:
            return None
        if rule.on_full == "drop_oldest" and drop():
            return None
        if rule.on_full == "drop_new":
            return Enqueued(EnqueueAnswer.DROPPED, job.id, job.queue)
        places = length - rule.max_length + 1
        wait_ms = self.bounds.paces[job.queue].wait_ms(places, now_ms)
        return Enqueued(EnqueueAnswer.FULL, job.id, job.queue, wait_ms)

    # ------------------------------------------------------------------ rules

    def declare(self, rules: Sequence[Rule], rows: Iterable[Row], now_ms: int) -> None:
        """See `JobStore.declare`; `rows` are all there are."""
        before = dict(self.rules.limits)
        self.rules.declare(rules)
        self._changed(rules, before, rows, now_ms)

    def override(
        self, rules: Sequence[Rule], rows: Sequence[Row], *, force: bool, now_ms: int
    ) -> None:
        """See `JobStore.override`."""
        self.rules.refuse_override(rules)
        for rule in rules if not force else ():
            self._refuse_too_few(rule, rows)
        before = dict(self.rules.limits)
        self.rules.override(rules)
        self._changed(rules, before, rows, now_ms)

    def reset(self, rules: Sequence[Rule], rows: Iterable[Row], now_ms: int) -> int:
        """See `JobStore.reset`."""
        before = dict(self.rules.limits)
        count = self.rules.reset(rules)
        self._changed(rules, before, rows, now_ms)
        return count

    def _changed(
        self,
        rules: Sequence[Rule],
        before: dict[str, LimitRule],
        rows: Iterable[Row],
        now_ms: int,
    ) -> None:
        for rule in rules:
            if isinstance(rule, LimitRule) and rule.name in self.rules.limits:
                self.limits.changed(rule.name, before.get(rule.name), rows, now_ms)

    def _refuse_too_few(self, rule: Rule, rows: Iterable[Row]) -> None:
        if isinstance(rule, LimitRule):
            limits, used = (rule.limit,), self.limits.used(rule)
        elif isinstance(rule, QueueRule):
            here = (row for row in rows if row.job.queue == rule.name)
            running = sum(row.status.state is State.RUNNING for row in here)
            limits, used = rule.limits, running
        else:
            return
        for limit in limits:
            if isinstance(limit, Slots) and limit.n < used:
                raise ConfigError(too_few(rule, limit.n, used))

    def keys(
        self, name: str, key: str | None, running: Iterable[Row], now_ms: int
    ) -> list[KeyInfo]:
        """See `JobStore.keys`."""
        if name.startswith("queue:"):
            found = self.limits.queue_infos(name.removeprefix("queue:"), running, now_ms)
            return [info for info in found if key in (None, info.key)]
        return self.limits.infos(name, key, running, now_ms)
