"""Single questions: poison, a blocked loop, kills on an idle queue, wake-up, cancel, store away."""

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from ropeway.app import Ropeway
from ropeway.verify.faults.fleet import Fleet
from ropeway.verify.faults.nemesis import AIM_MAX_S, Sight
from ropeway.verify.ledger import Ledger
from ropeway.verify.load import (
    CALM_QUEUE,
    CHILD_QUEUE,
    POISON_QUEUE,
    QUIET_QUEUE,
    RETENTION_S,
    Plan,
)
from ropeway.verify.witness import Witness

NEIGHBOURS: Final = 10
QUIET_JOBS: Final = 4
"""Held leases, over all workers, when one of them is killed on the idle queue."""
QUIET_GAP_S: Final = 0.3
WAKES: Final = 20
SUPERVISED: Final = 2
LOOK_S: Final = 0.02
POISON: Final = {
    "poison_async": "kills_on_the_loop",
    "poison_thread": "kills_in_a_thread",
    "poison_process": "kills_its_process",
}


class Probes:
    """Asks the questions, each of which leaves its lines in the ledger."""

    def __init__(
        self, plan: Plan, app: Ropeway[None], fleet: Fleet, sight: Sight, ledger: Ledger
    ) -> None:
        self._plan = plan
        self._app = app
        self._fleet = fleet
        self._sight = sight
        self._ledger = ledger
        self._numbers = itertools.count()

    async def poison(self) -> None:
        """Jobs that kill their worker, among jobs that do not."""
        for _ in range(NEIGHBOURS // 2):
            await self._send("neighbour", "on_the_loop", POISON_QUEUE, work_ms=300)
        for kind, task in POISON.items():
            await self._send(kind, task, POISON_QUEUE, work_ms=0)
        for _ in range(NEIGHBOURS // 2):
            await self._send("neighbour", "in_a_thread", POISON_QUEUE, work_ms=300)

    async def block(self) -> None:
        """A handler that blocks the loop of its worker for three leases."""
        await self._send("block", "blocks_its_loop", CALM_QUEUE, work_ms=self._leases_ms(3))

    async def quiet_kills(self, strikes: int) -> None:
        """Kill workers of a queue on which nothing waits, and start them again."""
        for number in range(strikes):
            pids = [self._fleet.pid(name) for name in self._fleet.names("quiet")]
            await self._until(lambda pids=pids: all(map(self._sight.up_s, pids)))
            jobs = {
                await self._send("quiet", "quiet", QUIET_QUEUE, work_ms=self._leases_ms(1.5))
                for _ in range(QUIET_JOBS)
            }
            victims = await self._holding("quiet", jobs)
            if victims:
                victim = victims[number % len(victims)]
                self._fleet.kill("kill_quiet", victim)
                self._fleet.start(victim)
            await asyncio.sleep(QUIET_GAP_S)

    async def child_kills(self, strikes: int, worker: Callable[[str], Sequence[str]]) -> None:
        """Kill children of a supervisor, which replaces them."""
        options = [*worker(CHILD_QUEUE), "--processes", str(SUPERVISED)]
        ready = 0
        for number in range(strikes):
            # A new supervisor now and then: it would wait ever longer with children that die.
            if number % SUPERVISED == 0:
                await self._fleet.dismiss("supervisor")
                ready = self._sight.count_up()
                self._fleet.add("supervisor-0", *options)
            # Both must be up: the one that is left takes over.
            await self._until(lambda least=ready + SUPERVISED: self._sight.count_up() >= least)
            job = await self._send("quiet", "quiet", CHILD_QUEUE, work_ms=self._leases_ms(3))
            await self._until_started(job)
            if pids := self._sight.holding({job}):
                self._fleet.kill_child("kill_child", pids[0])
                ready += 1
                await self._until_ended(job)

    async def wake(self) -> None:
        """Jobs on an idle queue, one at a time."""
        for _ in range(WAKES):
            job = await self._send("wake", "on_the_loop", CALM_QUEUE, work_ms=0)
            await self._until_ended(job)

    async def stop(self) -> None:
        """A handler that is cancelled while it runs, and one that runs into its timeout."""
        told = await self._send("stopped", "on_the_loop", CALM_QUEUE, work_ms=20_000)
        await self._until_started(told)
        acted = await self._app.handle(told).cancel()
        self._ledger.note("cancel", job=told, kind="stopped", detail=acted.answer.value)
        await self._send("timed", "on_the_loop", CALM_QUEUE, work_ms=1_000, timeout=0.5, attempts=1)

    async def away(self, witness: Witness) -> None:
        """A handler that runs while nobody can write to the store for longer than a lease."""
        job = await self._send("away", "on_the_loop", CALM_QUEUE, work_ms=self._leases_ms(2))
        await self._until_started(job)
        await asyncio.to_thread(witness.hold, self._plan.lease_s * 1.5)
        await self._send("back", "on_the_loop", CALM_QUEUE, work_ms=0)

    async def _send(self, kind: str, task: str, queue: str, *, work_ms: int, **options: Any) -> str:
        """Enqueue a job with its lines in the ledger; its id."""
        job = f"{kind}-{next(self._numbers)}"
        options["retention"] = RETENTION_S
        if not kind.startswith(("poison", "neighbour")):
            options["crash_max"] = 10_000
        self._ledger.note("ask", job=job, kind=kind, key=queue, work_ms=work_ms)
        arguments = {"work_ms": work_ms}
        handle = await self._app.send(task, arguments, id=job, queue=queue, **options)
        self._ledger.note("ack", job=job, kind=kind, key=queue, detail=handle.id)
        return job

    async def _holding(self, role: str, jobs: set[str]) -> list[str]:
        """The members that run one of the jobs, once all of these have started."""
        await self._until(lambda: all(map(self._sight.started, jobs)))
        pids = set(self._sight.holding(jobs))
        return [name for name in self._fleet.names(role) if self._fleet.pid(name) in pids]

    async def _until_started(self, job: str) -> None:
        await self._until(lambda: self._sight.started(job) > 0)

    async def _until_ended(self, job: str) -> None:
        await self._until(lambda: self._sight.ended(job))

    async def _until(self, true: Callable[[], bool]) -> None:
        give_up_s = time.monotonic() + AIM_MAX_S + 2 * self._plan.lease_s
        while time.monotonic() < give_up_s:
            if true():
                return
            await asyncio.sleep(LOOK_S)

    def _leases_ms(self, leases: float) -> int:
        return round(leases * self._plan.lease_s * 1000)
