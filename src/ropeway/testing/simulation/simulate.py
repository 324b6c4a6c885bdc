"""One simulation from a seed: rage, peace, and what must hold of all that happened."""

import asyncio
import logging
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from ropeway import crash
from ropeway.broker import Filter
from ropeway.job import UNFINISHED
from ropeway.runtime import Runtime
from ropeway.testing.simulation.checker import violations
from ropeway.testing.simulation.flow_workload import RULES
from ropeway.testing.simulation.history import History
from ropeway.testing.simulation.link import LATE_MAX_S, Link
from ropeway.testing.simulation.loop import HostClock, VirtualLoop
from ropeway.testing.simulation.nemesis import FLOW, PRODUCERS, WORKERS, Fleet, KilledInStep
from ropeway.testing.simulation.workload import QUEUES, insist, make_job, make_poison, send
from ropeway.testing.simulation.world import World

RAGE_S: Final = 15.0
QUIESCE_S: Final = 60.0
"""How long everything may take to become final after the last fault."""
PROBES: Final = 5


@dataclass(frozen=True, kw_only=True)
class Result:
    """How one seed went.

    Attributes:
        violations: what did not hold, in words; empty when all is well.
        simulated_s: virtual seconds.
        cpu_s: what they cost.

    """

    seed: int
    broker: str
    history: History
    violations: list[str]
    simulated_s: float
    cpu_s: float

    @property
    def replay(self) -> str:
        """The command that does it all again."""
        module = __name__.rpartition(".")[0]
        return f"python -m {module} --seed {self.seed} --broker {self.broker}"


def simulate(seed: int, *, broker: str, rage_s: float = RAGE_S) -> Result:
    """Run one seed. The same seed gives the same history, in every process.

    Args:
        seed: any number.
        broker: a name of `world.BROKERS`.
        rage_s: virtual seconds during which things go wrong.
    """
    loop = VirtualLoop()
    began_s, began_cpu_s = loop.time(), time.process_time()
    with _quiet_logs():
        try:
            history = loop.run_until_complete(_live(seed, broker, loop, rage_s))
        finally:
            loop.close()
    return Result(
        seed=seed,
        broker=broker,
        history=history,
        violations=violations(history),
        simulated_s=loop.time() - began_s,
        cpu_s=time.process_time() - began_cpu_s,
    )


async def _live(seed: int, broker: str, loop: VirtualLoop, rage_s: float) -> History:
    world = World(seed, broker, loop)
    await world.observer.open()
    await world.observer.declare(RULES)
    fleet = Fleet(world, pause_ms=300)
    with crash.listening(fleet.passed):
        for slot in (*WORKERS, *PRODUCERS, *FLOW, "op"):
            fleet.start(slot)
        await _poison(world)
        await fleet.rage(rage_s)
        await fleet.make_peace()
    for queue in QUEUES:
        await insist(lambda queue=queue: _resume(world, queue))
    await _drain(world)
    await _probe(world)
    await world.audit()
    history = History(world.history)
    await world.end()
    for mishap in loop.mishaps:
        if not isinstance(mishap, KilledInStep):
            raise mishap
    return history


async def _poison(world: World) -> None:
    random = world.random("poison")
    if random.random() < 0.5:
        job = make_poison("x1", random)
        world.saw("world", "enqueue", (([job],), {}), await world.observer.enqueue([job]))


async def _resume(world: World, queue: str) -> None:
    world.note("world", "resume", queue=queue)
    await world.observer.resume(queue)


async def _drain(world: World) -> None:
    """Wait until every job is final, but not for ever: that is the checker's to judge."""
    until = world.loop.time() + QUIESCE_S
    while world.loop.time() < until:
        if not await world.observer.count(Filter(states=UNFINISHED)):
            return
        await asyncio.sleep(0.2)


async def _probe(world: World) -> None:
    """Idle workers start a new job at once."""
    await asyncio.sleep(LATE_MAX_S + 1)  # a late call of a dead worker may take a job with it
    done = asyncio.Event()

    async def main(link: Link, runtime: Runtime, _clock: HostClock) -> None:
        random = world.random("probe")
        for number in range(PROBES):
            await asyncio.sleep(random.uniform(0.3, 1.2))
            job = make_job("instant", f"probe-{number}", random)
            await send("probe", link.store, [job], runtime=runtime, note=world.note)
        await asyncio.sleep(3)
        done.set()

    world.start("probe", main)
    await done.wait()


@contextmanager
def _quiet_logs() -> Generator[None, None, None]:
    """A worker in trouble says so; here that is the point."""
    logger = logging.getLogger("ropeway")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)
