"""Limits in the memory broker: who may start, who is parked, who comes back."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import partial
from heapq import heappop, heappush
from itertools import groupby
from operator import attrgetter

from ropeway.broker import KeyInfo
from ropeway.brokers.memory.agenda import Agenda
from ropeway.brokers.memory.flow.rules import Rules
from ropeway.brokers.memory.row import ReadyKey, Row, ready_key
from ropeway.flow import limit as arithmetic
from ropeway.flow import queue as whole
from ropeway.flow.gate import Gate, Hold, KeyId, blocked_on
from ropeway.flow.limit import UNBOUNDED, End, KeyState
from ropeway.flow.rules import Limit, LimitRule, Slots
from ropeway.job import Job, State

HOLDERS_SHOWN = 100
_limits_of = attrgetter("limits")
_STATES_MIN = 1_000  # so many states of keys are kept before idle ones are looked for


class Limits:
    """The states of all keys, and the rows that are parked under them.

    `_wakes` has every key with parked rows that have room, now or at a known time; stale entries
    are dropped when they are met.
    """

    def __init__(self, rules: Rules) -> None:
        self.gate: Gate = Gate(rules.limits)
        self._rules = rules
        self._parked: defaultdict[KeyId, Agenda[ReadyKey]] = defaultdict(Agenda)
        self._wakes: list[tuple[int, KeyId]] = []
        self._queue_keys: dict[tuple[str, type[Limit]], KeyState] = {}
        self._freed: list[Row] = []  # parked under a rule that is counted in another way now
        self._kept = 0  # states left by the last sweep

    # ------------------------------------------------------------------ jobs

    def park(self, row: Row, id_: KeyId, now_ms: int) -> None:
        """Keep an available row aside until the key has room."""
        row.parked = id_
        row.status.blocked_on = blocked_on(id_)
        self.gate.park(id_, 1)
        self._parked[id_].push(ready_key(row), row)
        self._note(id_, now_ms)

    def unpark(self, row: Row) -> None:
        """The row does not wait for its key any more, whatever comes next."""
        if row.parked is not None:
            self.gate.park(row.parked, -1)
            row.parked = None
            row.status.blocked_on = None

    def ended(self, job: Job, end: End, now_ms: int) -> None:
        """A run of the job has ended."""
        self._ended(self.gate.hold(job.queue, job.limits), end, now_ms, 1)

    def completed(self, jobs: Sequence[Job], now_ms: int) -> None:
        """Jobs of one queue that have limits are completed; those of the same limits at once."""
        for _, same in groupby(jobs, key=_limits_of):
            equal = list(same)
            hold = self.gate.hold(equal[0].queue, equal[0].limits)
            self._ended(hold, End.SUCCESS, now_ms, len(equal))

    def _ended(self, hold: Hold, end: End, now_ms: int, n: int) -> None:
        if self.gate.end(hold, end, now_ms, n):
            for id_ in hold.ids:
                self._note(id_, now_ms)
        if len(self.gate.states) > 2 * self._kept + _STATES_MIN:
            self._forget_idle(now_ms)

    def woken(self, most: int, now_ms: int) -> list[Row]:
        """Take back up to `most` parked rows, and at most as many as their keys have room for."""
        rows: list[Row] = []
        again: list[KeyId] = []
        while self._wakes and self._wakes[0][0] <= now_ms and len(rows) < most:
            _, id_ = heappop(self._wakes)
            wanted = min(self.gate.wakes(id_, now_ms), most - len(rows))
            while wanted > 0 and (entry := self._parked[id_].pop()) is not None:
                row = entry[1]
                if row.parked == id_ and not row.removed:
                    self.unpark(row)
                    rows.append(row)
                    wanted -= 1
            again.append(id_)
        for id_ in again:
            self._note(id_, now_ms)
        return rows

    def next_ms(self, now_ms: int) -> int | None:
        """When a parked row may start by time alone, for as far as it is known."""
        while self._wakes:
            at_ms, id_ = self._wakes[0]
            due_ms = self.gate.wake_at_ms(id_, now_ms)
            if due_ms is not None and due_ms <= at_ms:
                return at_ms
            heappop(self._wakes)
            self._note(id_, now_ms)
        return None

    def _note(self, id_: KeyId, now_ms: int) -> None:
        at_ms = self.gate.wake_at_ms(id_, now_ms)
        if at_ms is not None:
            heappush(self._wakes, (at_ms, id_))

    def _forget_idle(self, now_ms: int) -> None:
        idle = self.gate.idle(self.gate.states, now_ms)
        self.gate.forget(idle)
        for id_ in idle:
            self._parked.pop(id_, None)
        self.gate.changed.clear()
        self._kept = len(self.gate.states)

    # ------------------------------------------------------------------ queues

    def queue_room(self, queue: str, running: int, now_ms: int) -> int:
        """How many more jobs of the queue its own limits let start."""
        limits = self._rules.queue(queue).limits
        return (
            whole.room(limits, partial(self._of, queue), running, now_ms) if limits else UNBOUNDED
        )

    def queue_started(self, queue: str, n: int, now_ms: int) -> None:
        """So many jobs of the queue have started."""
        whole.started(self._rules.queue(queue).limits, partial(self._of, queue), n, now_ms)

    def queue_ended(self, queue: str, end: End, now_ms: int) -> None:
        """A run of a job of the queue has ended."""
        if limits := self._rules.queue(queue).limits:
            whole.ended(limits, partial(self._of, queue), end, now_ms)

    def queue_opens_ms(self, queue: str, now_ms: int) -> int | None:
        """When time alone gives the queue room; None when it has room or runs must end first."""
        limits = self._rules.queue(queue).limits
        return whole.opens_at_ms(limits, partial(self._of, queue), now_ms) if limits else None

    def _of(self, queue: str, limit: Limit) -> KeyState:
        return self._queue_keys.setdefault((queue, type(limit)), KeyState())

    # ------------------------------------------------------------------ rules

    def changed(
        self, name: str, before: LimitRule | None, rows: Iterable[Row], now_ms: int
    ) -> None:
        """The rule of a limit has changed; `rows` are all that could be of it."""
        self.gate.forget_holds()
        rule = self.gate.rules[name]
        if before is None or (type(before.limit), before.scope) != (type(rule.limit), rule.scope):
            self._recount(name, rows, now_ms)
        for id_ in [id_ for id_ in self.gate.states if id_.name == name]:
            self._note(id_, now_ms)

    def _recount(self, name: str, rows: Iterable[Row], now_ms: int) -> None:
        """Begin anew with what runs now: the states so far were counted in another way."""
        self.gate.forget([id_ for id_ in self.gate.states if id_.name == name])
        limit = self.gate.rules[name].limit
        for row in rows:
            if row.parked is not None and row.parked.name == name:
                row.parked = None
                row.status.blocked_on = None
                self._freed.append(row)
            elif isinstance(limit, Slots) and row.status.state is State.RUNNING:
                for key in row.job.limits:
                    if key.name == name:
                        id_ = self.gate.id_of(row.job.queue, key)
                        arithmetic.take(limit, self.gate.state(id_), now_ms)

    def freed(self) -> list[Row]:
        """Take the rows that a changed rule has let go; they have a place in the order again."""
        freed, self._freed = self._freed, []
        return freed

    def used(self, rule: LimitRule) -> int:
        """The most slots that one key of the limit has in use."""
        states = self.gate.states
        return max((states[id_].used for id_ in states if id_.name == rule.name), default=0)

    def infos(
        self, name: str, key: str | None, running: Iterable[Row], now_ms: int
    ) -> list[KeyInfo]:
        """The keys of a limit that hold or wait, those with the most parked rows first."""
        holders: defaultdict[KeyId, list[Row]] = defaultdict(list)
        for row in running:
            for id_ in self.gate.ids(row.job):
                if id_.name == name:
                    holders[id_].append(row)
        found: list[KeyInfo] = []
        for id_, state in self.gate.states.items():
            if id_.name != name or key not in (None, id_.key):
                continue
            rule = self.gate.rules[name]
            if arithmetic.is_idle(rule.limit, state, now_ms):
                continue
            has_room = arithmetic.room(rule.limit, state, now_ms) > 0
            rows = sorted(holders[id_], key=lambda row: row.status.seq)
            found.append(
                KeyInfo(
                    name=name,
                    queue=id_.queue,
                    key=id_.key,
                    running=tuple(row.job.ref for row in rows[:HOLDERS_SHOWN]),
                    used=len(rows),
                    parked=state.parked,
                    opens_at_ms=None if has_room else arithmetic.opens_at_ms(rule.limit, state),
                )
            )
        return sorted(found, key=lambda info: (-info.parked, info.queue, info.key))

    def queue_infos(self, queue: str, running: Iterable[Row], now_ms: int) -> list[KeyInfo]:
        """As `infos`, of the limits of a queue itself; the key is the kind of limit."""
        rows = [row for row in running if row.job.queue == queue]
        found: list[KeyInfo] = []
        for limit in self._rules.queue(queue).limits:
            state = self._of(queue, limit)
            is_slots = isinstance(limit, Slots)
            opens_ms = arithmetic.opens_at_ms(limit, state)
            found.append(
                KeyInfo(
                    name=f"queue:{queue}",
                    queue=queue,
                    key=str(limit.__struct_config__.tag),
                    running=tuple(row.job.ref for row in rows[:HOLDERS_SHOWN]) if is_slots else (),
                    used=len(rows) if is_slots else state.used,
                    parked=0,
                    opens_at_ms=opens_ms if opens_ms is not None and opens_ms > now_ms else None,
                )
            )
        return found
