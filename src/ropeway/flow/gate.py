"""All limits of a store at one moment: which jobs may start, and what starts and ends change.

A store without transactions keeps one gate for good. One with transactions makes a gate for each,
gives it the states that the jobs at hand refer to, and writes `changed` back at the end.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ropeway.flow import limit as arithmetic
from ropeway.flow.limit import End, KeyState
from ropeway.flow.rules import Limit, LimitRule
from ropeway.job import Job, LimitKey, State, Status


class KeyId(NamedTuple):
    """Names one key of one limit; `queue` is "" where the limit counts over all queues."""

    queue: str
    name: str
    key: str


def end_of(after: Status) -> End:
    """What the end of a run says, by the status that it led to."""
    if after.state is State.COMPLETED:
        return End.SUCCESS
    buried = after.state is State.DEAD and after.reason != "crashed_worker"
    return End.FAILURE if buried or after.state is State.RETRYABLE else End.OTHER


def blocked_on(id_: KeyId) -> str:
    """`Status.blocked_on` of a job that is parked under this key."""
    return f"limit:{id_.name}:{id_.key}"


class Gate:
    """The states of limits' keys by id, and the rules they are held to.

    A job of an undeclared limit is not held back by it: its rule may have been declared in
    another queue's store, or by a program that is not here yet.
    """

    __slots__ = ("changed", "rules", "states")

    def __init__(
        self, rules: Mapping[str, LimitRule], states: dict[KeyId, KeyState] | None = None
    ) -> None:
        self.rules: Mapping[str, LimitRule] = rules
        self.states: dict[KeyId, KeyState] = {} if states is None else states
        self.changed: set[KeyId] = set()

    def ids(self, job: Job) -> list[KeyId]:
        """The keys that the job counts under, in the order of its limits."""
        return [self.id_of(job.queue, limit) for limit in job.limits if limit.name in self.rules]

    def id_of(self, queue: str, limit: LimitKey) -> KeyId:
        """The key that a job's limit means; its rule must be known."""
        rule = self.rules[limit.name]
        return KeyId(queue if rule.scope == "queue" else "", limit.name, limit.key)

    def state(self, id_: KeyId) -> KeyState:
        """The state of a key, which counts as changed from here on."""
        self.changed.add(id_)
        return self.states.setdefault(id_, KeyState())

    def start(self, job: Job, now_ms: int) -> KeyId | None:
        """Take all of the job's limits, or none and say which one refuses."""
        ids = self.ids(job)
        for id_ in ids:
            known = self.states.get(id_)
            if known is not None and not arithmetic.room(self._limit(id_), known, now_ms):
                return id_
        for id_ in ids:
            arithmetic.take(self._limit(id_), self.state(id_), now_ms)
        return None

    def end(self, job: Job, end: End, now_ms: int) -> None:
        """A run of the job has ended: its slots are free."""
        for id_ in self.ids(job):
            arithmetic.give_back(self._limit(id_), self.state(id_), end, now_ms)

    def park(self, id_: KeyId, change: int) -> None:
        """So many more (or, below zero, fewer) jobs wait for this key."""
        self.state(id_).parked += change

    def wakes(self, id_: KeyId, now_ms: int) -> int:
        """How many of the jobs parked under this key have room now."""
        state = self.states.get(id_)
        rule = self.rules.get(id_.name)
        if state is None or not state.parked:
            return 0
        if rule is None:
            return state.parked
        return min(state.parked, arithmetic.room(rule.limit, state, now_ms))

    def wake_at_ms(self, id_: KeyId, now_ms: int) -> int | None:
        """When jobs parked under this key may start: now, later, or when a run has ended (None)."""
        if self.wakes(id_, now_ms):
            return now_ms
        state, rule = self.states.get(id_), self.rules.get(id_.name)
        if state is None or rule is None or not state.parked:
            return None
        return arithmetic.opens_at_ms(rule.limit, state)

    def idle(self, ids: Iterable[KeyId], now_ms: int) -> list[KeyId]:
        """Those of the keys whose state says nothing, so that it can be forgotten."""
        return [
            id_
            for id_ in ids
            if id_.name not in self.rules
            or arithmetic.is_idle(self._limit(id_), self.states[id_], now_ms)
        ]

    def _limit(self, id_: KeyId) -> Limit:
        return self.rules[id_.name].limit
