"""What goes wrong on purpose: which process is struck when, and how."""

import asyncio
import time
from collections.abc import Coroutine
from pathlib import Path
from random import Random
from typing import Any, Final

from ropeway.verify.faults.fleet import Fleet
from ropeway.verify.faults.network import NETWORK, Network
from ropeway.verify.ledger import Tail
from ropeway.verify.load import Plan

AIM_MAX_S: Final = 10.0
"""How long a strike waits for a victim that is worth it."""
GRIP_S: Final = 0.25
"""A worker is left alone so long after its start: else a slow machine would get nothing done."""
AT_WORK_S: Final = 0.5
GAP_S: Final = (0.0, 0.15)
LATE_EVERY: Final = 5
"""Every so many times that all workers are killed they come back only after their leases."""
_ENDS: Final = frozenset({"end", "fail", "stop", "die"})


class Sight:
    """Which process runs what, by the ledger, up to this moment."""

    def __init__(self, ledger: Path) -> None:
        self._tail = Tail(ledger)
        self._open: dict[int, set[tuple[str, int]]] = {}
        self._starts: dict[str, int] = {}
        self._final: set[str] = set()
        self._up_s: dict[int, float] = {}
        self._asked_s: dict[int, float] = {}

    def look(self) -> None:
        """Read what is new."""
        for event in self._tail.new():
            run = (event.job, event.token)
            if event.what == "start":
                self._open.setdefault(event.pid, set()).add(run)
                self._starts[event.job] = self._starts.get(event.job, 0) + 1
            elif event.what in _ENDS:
                self._open.get(event.pid, set()).discard(run)
                if event.what == "end":
                    self._final.add(event.job)
            elif event.what == "up":
                self._up_s[event.pid] = event.at_s
            elif event.what == "ask":
                self._asked_s[event.pid] = event.at_s

    def holds(self, pid: int) -> int:
        """How many runs of that process are open."""
        self.look()
        return len(self._open.get(pid, ()))

    def up_s(self, pid: int) -> float:
        """For how many seconds that worker has been up; 0 while it starts."""
        self.look()
        return time.monotonic() - self._up_s[pid] if pid in self._up_s else 0.0

    def count_up(self) -> int:
        """How many workers have ever come up."""
        self.look()
        return len(self._up_s)

    def is_asking(self, pid: int) -> bool:
        """Whether that producer has just asked for something."""
        self.look()
        return time.monotonic() - self._asked_s.get(pid, 0.0) < AT_WORK_S

    def holding(self, jobs: set[str]) -> list[int]:
        """The processes that run one of these jobs now."""
        self.look()
        return [p for p, runs in self._open.items() if any(job in jobs for job, _ in runs)]

    def started(self, job: str) -> int:
        """How often the job has started."""
        self.look()
        return self._starts.get(job, 0)

    def ended(self, job: str) -> bool:
        """Whether a run of the job has returned."""
        self.look()
        return job in self._final

    def close(self) -> None:
        """Close the ledger."""
        self._tail.close()


class Nemesis:
    """Strikes the workers and producers of the storm until its faults are dealt out.

    Attributes:
        struck: how many strikes there were so far.

    """

    def __init__(self, plan: Plan, fleet: Fleet, sight: Sight, network: Network) -> None:
        self._plan = plan
        self._fleet = fleet
        self._sight = sight
        self._network = network
        self._random = Random(plan.seed)  # noqa: S311 - repeatable on purpose
        self._under_way: set[asyncio.Task[None]] = set()
        self._all_killed = 0
        kinds = ("kill_one", "kill_all", "kill_producer", "freeze", "terminate", *NETWORK)
        self._deck = [kind for kind in kinds for _ in range(plan.faults.get(kind, 0))]
        self._random.shuffle(self._deck)
        self._long_s = 1.5 * plan.lease_s
        self.struck: int = 0

    @property
    def planned(self) -> int:
        """How many strikes the storm has in all."""
        return len(self._deck)

    async def storm(self) -> None:
        """Deal all faults in random order; returns when the last one is over."""
        minutes = self._plan.minutes
        ends_s = float("inf") if minutes is None else time.monotonic() + minutes * 60
        try:
            for kind in self._deck:
                if time.monotonic() > ends_s:
                    break
                await self._strike(kind)
                self.struck += 1
                self._fleet.check()
                await asyncio.sleep(self._random.uniform(*GAP_S))
            await asyncio.gather(*self._under_way)
        finally:
            for strike in self._under_way:
                strike.cancel()

    async def _strike(self, kind: str) -> None:
        match kind:
            case "kill_producer":
                victim = await self._aim("producer")
                self._fleet.kill(kind, victim)
                self._fleet.start(victim)
            case "kill_all":
                await self._aim()
                victims = self._fleet.names("worker")
                self._fleet.kill(kind, *victims)
                self._all_killed += 1
                if self._all_killed % LATE_EVERY == 0:
                    await asyncio.sleep(self._plan.lease_s)
                for victim in victims:
                    self._fleet.start(victim)
            case "kill_one":
                victim = await self._aim()
                self._fleet.kill(kind, victim)
                self._fleet.start(victim)
            case "freeze":
                victim = await self._aim()
                self._begin(self._fleet.freeze(kind, victim, seconds=self._long_s))
            case "terminate":
                self._begin(self._fleet.restart(kind, await self._aim()))
            case _:
                victim = await self._aim()
                fault = self._network.strike(kind, victim, seconds=self._long_s)
                self._begin(self._fleet.trouble(kind, victim, fault))
        await asyncio.sleep(0)

    def _begin(self, strike: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(strike)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _aim(self, role: str = "worker") -> str:
        """A worker that holds a lease, or a producer at work; any one when none is for long."""
        give_up_s = time.monotonic() + AIM_MAX_S
        while True:
            free = self._fleet.names(role)
            able = [name for name in free if self._is_worth_it(role, self._fleet.pid(name))]
            if able:
                return self._random.choice(able)
            if free and time.monotonic() > give_up_s:
                return self._random.choice(free)
            await asyncio.sleep(0.02)

    def _is_worth_it(self, role: str, pid: int) -> bool:
        if role == "producer":
            return self._sight.is_asking(pid)
        return self._sight.up_s(pid) > GRIP_S and self._sight.holds(pid) > 0
