"""All limits of a store at one moment: which jobs may start, and what starts and ends change.

A store without transactions keeps one gate for good. One with transactions makes a gate for each,
gives it the states that the jobs at hand refer to, and writes `changed` back at the end.
"""

from collections.abc import Iterable, Mapping
from itertools import repeat
from typing import Final, NamedTuple

from ropeway.flow import limit as arithmetic
from ropeway.flow.limit import End, KeyState
from ropeway.flow.rules import Limit, LimitRule, Slots
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


class Hold(NamedTuple):
    """What a queue and the limits of a job come to: keys and rules, in their order.

    Most jobs have one limit, on how many of a key run: then `slots` is how many, else 0.
    """

    ids: tuple[KeyId, ...]
    limits: tuple[Limit, ...]
    slots: int


Place = tuple[str, tuple[LimitKey, ...]]
"""A queue, and the limits of a job in it."""

HOLDS_MAX: Final = 100_000
"""So many holds are remembered."""


class Gate:
    """The states of limits' keys by id, and the rules they are held to.

    A job of an undeclared limit is not held back by it: such a job came by an edit or with an
    `Ack`, where it is too late to refuse it.

    Jobs of the same limits often come one after the other: how many more of them have room is
    found out once, and what they took is written to the states when others come (`flush`).
    """

    __slots__ = (
        "_asked",
        "_found",
        "_holds",
        "_last",
        "_room",
        "_spare",
        "changed",
        "rules",
        "states",
    )

    def __init__(
        self,
        rules: Mapping[str, LimitRule],
        holds: dict[Place, Hold] | None = None,
        states: dict[KeyId, KeyState] | None = None,
    ) -> None:
        """`holds` is where those are remembered; whoever gives it forgets them with the rules."""
        self.rules: Mapping[str, LimitRule] = rules
        self.states: dict[KeyId, KeyState] = {} if states is None else states
        self.changed: set[KeyId] = set()
        self._holds: dict[Place, Hold] = {} if holds is None else holds
        self._asked: Place = ("", ())
        self._found = Hold((), (), 0)
        self._last: Hold | None = None
        self._room = self._spare = 0  # of the last hold: at first, and now

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

    def hold(self, queue: str, limits: tuple[LimitKey, ...]) -> Hold:
        """What jobs of this queue and these limits count under."""
        if limits == self._asked[1] and queue == self._asked[0]:  # cheaper than to look it up
            return self._found
        hold = self._holds.get((queue, limits))
        if hold is None:
            ids = tuple(self.id_of(queue, key) for key in limits if key.name in self.rules)
            rules = tuple(self.rules[id_.name].limit for id_ in ids)
            only = rules[0] if len(rules) == 1 else None
            slots = only.n if isinstance(only, Slots) else 0
            if len(self._holds) >= HOLDS_MAX:
                self._holds.clear()
            hold = self._holds[queue, limits] = Hold(ids, rules, slots)
        self._asked, self._found = (queue, limits), hold
        return hold

    def _states(self, hold: Hold) -> list[KeyState]:
        states = self.states
        return [states.get(id_) or states.setdefault(id_, KeyState()) for id_ in hold.ids]

    def start(self, hold: Hold, now_ms: int) -> KeyId | None:
        """Take all that a job of this hold needs, or nothing and say which key refuses.

        `flush` must be called before the states are looked at.
        """
        if hold.slots:
            if self._last is not None:  # it may share the key
                self.flush(now_ms)
            return self._take_slot(hold)
        if hold is not self._last:
            self.flush(now_ms)
            self._last = hold
            rooms = map(arithmetic.room, hold.limits, self._states(hold), repeat(now_ms))
            self._room = self._spare = min(rooms, default=arithmetic.UNBOUNDED)
        if self._spare:
            self._spare -= 1
            return None
        self.flush(now_ms)
        for id_, limit, state in zip(hold.ids, hold.limits, self._states(hold), strict=True):
            if not arithmetic.room(limit, state, now_ms):
                return id_
        raise AssertionError("a hold without room has a key without room")

    def _take_slot(self, hold: Hold) -> KeyId | None:
        id_ = hold.ids[0]
        state = self.states.get(id_) or self.states.setdefault(id_, KeyState())
        if state.used >= hold.slots:
            return id_
        state.used += 1
        self.changed.add(id_)
        return None

    def flush(self, now_ms: int) -> None:
        """Write what the last jobs that started have taken."""
        taken = self._room - self._spare
        if taken:
            self._room, hold = self._spare, self._last
            assert hold is not None, "only a hold has room"
            for limit, state in zip(hold.limits, self._states(hold), strict=True):
                arithmetic.take(limit, state, now_ms, taken)
            self.changed.update(hold.ids)
        self._last = None

    def end(self, hold: Hold, end: End, now_ms: int, n: int = 1) -> bool:
        """So many runs of jobs with this hold have ended in the same way: their slots are free.

        Returns:
            Whether jobs are parked under one of its keys.
        """
        if hold.slots:
            id_ = hold.ids[0]
            state = self.states.get(id_) or self.states.setdefault(id_, KeyState())
            state.used = max(0, state.used - n)
            self.changed.add(id_)
            return state.parked > 0
        waited = False
        for id_, limit, state in zip(hold.ids, hold.limits, self._states(hold), strict=True):
            if arithmetic.give_back(limit, state, end, now_ms, n):
                self.changed.add(id_)
            waited = waited or state.parked > 0
        return waited

    def forget(self, ids: Iterable[KeyId]) -> None:
        """Drop states that say nothing, or that count by rules that are over."""
        for id_ in ids:
            del self.states[id_]

    def forget_holds(self) -> None:
        """The rules have changed."""
        self._holds.clear()
        self._asked, self._found = ("", ()), Hold((), (), 0)

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
