"""A worker's slots at work on a virtual clock, for the climber to steer.

A job waits for something else, then computes. One job computes at a time, as Python code does, and
it takes longer the more threads want to.
"""

import heapq
import math
from collections import deque
from dataclasses import dataclass, field
from random import Random

from ropeway.worker.autopilot.climber import Change, Climber
from ropeway.worker.autopilot.window import Look


@dataclass(frozen=True)
class Kind:
    """A job: seconds that it waits and computes.

    Attributes:
        crowding: how much longer it computes for each doubling of those that want to.
        servers: how many of them are served elsewhere at a time, each for `waits_s`; 0: all.
        noise: of the wait, as a share of it.
        occupies: False for a job that ends at its first step.

    """

    waits_s: float = 0.0
    computes_s: float = 0.000_02
    crowding: float = 0.0
    servers: int = 0
    noise: float = 0.1
    occupies: bool = True


TURN_JOBS = 50
NOOP = Kind(computes_s=0.000_1, occupies=False)
IO = Kind(waits_s=0.01, computes_s=0.000_1)
CPU = Kind(computes_s=0.002, crowding=0.03)


@dataclass
class Work:
    """Slots and the jobs in them; `kinds` come in turn, and may change at any time."""

    climber: Climber
    kinds: tuple[Kind, ...]
    backlog: int = 10**9
    now_s: float = 0.0
    ended: int = 0
    busy: int = 0
    cpu_s: float = 0.0
    lag_s: float = 0.0
    memory_bytes: int = 0
    started: int = 0
    changes: list[tuple[float, Change]] = field(default_factory=list[tuple[float, Change]])
    limits: list[int] = field(default_factory=list[int])
    random: Random = field(default_factory=lambda: Random(7))
    _events: list[tuple[float, int, str, Kind]] = field(
        default_factory=list[tuple[float, int, str, Kind]]
    )
    _computing: deque[Kind] = field(default_factory=deque[Kind])
    _served: dict[Kind, list[float]] = field(default_factory=dict[Kind, list[float]])
    _order: int = 0

    def run(self, seconds: float) -> float:
        """Let time pass; how many jobs ended per second."""
        until_s, before, began_s = self.now_s + seconds, self.ended, self.now_s
        while self.now_s < until_s:
            self._advance(min(until_s, self.now_s + self.climber.next_look_s))
            change = self.climber.look(
                Look(
                    at_s=self.now_s,
                    ended=self.ended,
                    busy=self.busy,
                    waiting=0,
                    cpu_s=self.cpu_s,
                    lag_s=self.lag_s,
                    memory_bytes=self.memory_bytes,
                )
            )
            self.limits.append(self.climber.limit)
            if change is not None:
                self.changes.append((self.now_s, change))
        return (self.ended - before) / (self.now_s - began_s)

    def _advance(self, until_s: float) -> None:
        self._begin()
        while self._events and self._events[0][0] <= until_s:
            self.now_s, _, what, kind = heapq.heappop(self._events)
            if what == "waited":
                self._computing.append(kind)
                if len(self._computing) == 1:
                    self._compute()
            else:
                self._computing.popleft()
                self.ended += 1
                self.busy -= kind.occupies
                if self._computing:
                    self._compute()
                self._begin()
        self.now_s = until_s

    def _begin(self) -> None:
        at_once = 0  # jobs that end at their first step hold no slot, but each turn is finite
        while self.busy < self.climber.limit and self.backlog and at_once < TURN_JOBS:
            kind = self.kinds[self.started % len(self.kinds)]
            if not kind.occupies and len(self._computing) >= TURN_JOBS:
                return
            at_once += not kind.occupies
            self.started += 1
            self.backlog -= 1
            self.busy += kind.occupies
            self._put(self._wait_ends(kind), "waited", kind)

    def _wait_ends(self, kind: Kind) -> float:
        wait_s = kind.waits_s * self.random.uniform(1 - kind.noise, 1 + kind.noise)
        if not kind.servers:
            return self.now_s + wait_s
        served = self._served.setdefault(kind, [0.0] * kind.servers)
        ends_s = max(self.now_s, heapq.heappop(served)) + wait_s
        heapq.heappush(served, ends_s)
        return ends_s

    def _compute(self) -> None:
        kind = self._computing[0]
        slower = 1 + kind.crowding * math.log2(len(self._computing))
        computes_s = kind.computes_s * slower
        self.cpu_s += computes_s
        self._put(self.now_s + computes_s, "computed", kind)

    def _put(self, at_s: float, what: str, kind: Kind) -> None:
        self._order += 1
        heapq.heappush(self._events, (at_s, self._order, what, kind))


class Fixed(Climber):
    """Slots whose number stays."""

    def __init__(self, limit: int) -> None:
        super().__init__(start=limit, most=limit)

    def look(self, look: Look) -> None:
        """Nothing follows from it."""


def rate_of(kinds: tuple[Kind, ...], limit: int, *, seconds: float = 3.0) -> float:
    """Jobs per second with a fixed number of slots."""
    return Work(Fixed(limit), kinds).run(seconds)
