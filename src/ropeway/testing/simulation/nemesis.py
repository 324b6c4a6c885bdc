"""What goes wrong on the simulated host, by chance: kills, freezes, cuts, storms, wrong clocks."""

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, Final

from ropeway import crash
from ropeway.runtime import Runtime
from ropeway.testing.simulation.flow_workload import SERVED, gather, produce_limited
from ropeway.testing.simulation.link import CALLER, Link
from ropeway.testing.simulation.loop import HostClock, Process
from ropeway.testing.simulation.workload import LEASE_MS, Handlers, operate, produce
from ropeway.testing.simulation.world import World
from ropeway.worker import Worker, WorkerOptions

LEASE_S: Final = LEASE_MS / 1000
WORKERS: Final = ("w1", "w2", "w3")
PRODUCERS: Final = ("p1", "p2")
GATHERER: Final = "g1"
FLOW: Final = ("f1", GATHERER)
"""A producer of jobs under flow control, and who runs those that gather."""
WEIGHTS: Final = {"a": 2, "b": 1, **dict.fromkeys(SERVED, 1)}
WRONG_CLOCK_MS: Final = 300_000
IN_STEP: Final = tuple(
    name
    for name in crash.POINTS
    if name.endswith((".written", ".then")) or name.startswith("maintain.")
)
"""Points inside a transaction: a kill there takes the whole of it back."""


class KilledInStep(BaseException):
    """Unwinds a transaction whose process has just been killed."""


class Fleet:
    """The processes of one simulation, and how to hurt them."""

    def __init__(self, world: World, *, pause_ms: int) -> None:
        self._world = world
        self._pause_ms = pause_ms
        self._random = world.random("nemesis")
        self._starts: dict[str, int] = {}
        self._processes: dict[str, Process] = {}
        self._workers: dict[str, Worker] = {}
        self._clocks: dict[str, HostClock] = {}
        self._armed: str | None = None
        self.at_peace: bool = False

    def _note(self, what: str, whom: str, **facts: Any) -> None:
        self._world.note("world", "fault", what=what, whom=whom, **facts)

    # -- start -----------------------------------------------------------------------------------

    def start(self, slot: str) -> None:
        """Start the process of this slot, or another one in its place."""
        number = self._starts[slot] = self._starts.get(slot, 0) + 1
        name = f"{slot}.{number}"
        main = self._worker if slot in WORKERS else self._producer
        if slot in FLOW:
            main = self._flow
        elif slot not in (*WORKERS, *PRODUCERS):
            main = self._operator

        async def run(link: Link, runtime: Runtime, clock: HostClock) -> None:
            self._clocks[slot] = clock
            await main(slot, name, link, runtime)

        self._processes[slot] = self._world.start(name, run)

    async def _worker(self, slot: str, name: str, link: Link, runtime: Runtime) -> None:
        world = self._world
        handlers = Handlers(name, world.note, lambda: self.kill(slot, restart_s=0.5))
        options = WorkerOptions(
            queues={**WEIGHTS} if slot == "w1" else tuple(WEIGHTS),
            concurrency=4 if slot == "w3" else 10,
            prefetch=5,
            lease_ms=LEASE_MS,
            grace_ms=1_000,
            id=name,
        )
        worker = Worker(link.store, handlers.definitions(), options=options, runtime=runtime)
        self._workers[slot] = worker
        await worker.run()
        world.note(name, "stopped")
        if not self.at_peace:
            asyncio.get_running_loop().call_soon(self.start, slot)

    async def _producer(self, _slot: str, name: str, link: Link, runtime: Runtime) -> None:
        random = self._world.random(f"{name}/jobs")
        await produce(
            name,
            link.store,
            runtime=runtime,
            random=random,
            note=self._world.note,
            pause_ms=self._pause_ms,
        )

    async def _flow(self, slot: str, name: str, link: Link, runtime: Runtime) -> None:
        note = self._world.note
        if slot == GATHERER:
            await gather(name, link.store, runtime=runtime, note=note)
        random, pause_ms = self._world.random(f"{name}/jobs"), self._pause_ms
        await produce_limited(
            name, link.store, runtime=runtime, random=random, note=note, pause_ms=pause_ms
        )

    async def _operator(self, _slot: str, name: str, link: Link, _runtime: Runtime) -> None:
        random = self._world.random(f"{name}/acts")
        await operate(link.store, random=random, known=self._world.known)

    # -- hurt ------------------------------------------------------------------------------------

    def kill(self, slot: str, *, restart_s: float | None) -> None:
        """SIGKILL; another process takes its place after a while."""
        process = self._processes[slot]
        if process.state == "dead":
            return
        self._note("kill", process.name)
        self._world.loop.kill(process)
        if self._random.random() < 0.7:  # else what it asked for goes on without it
            self._world.links[process.name].drop_waiting()
        if restart_s is not None:
            self._later(restart_s, lambda: self._revive(slot, process))

    def _revive(self, slot: str, dead: Process) -> None:
        if self._processes[slot] is dead and (slot in (*WORKERS, GATHERER) or not self.at_peace):
            self.start(slot)

    def freeze(self, slot: str, seconds: float) -> None:
        """SIGSTOP, then SIGCONT."""
        process = self._processes[slot]
        if process.state != "up":
            return
        self._note("freeze", process.name)
        self._world.loop.freeze(process)
        self._later(seconds, lambda: self._thaw(process))

    def _thaw(self, process: Process) -> None:
        if process.state == "frozen":
            self._note("thaw", process.name)
            self._world.loop.thaw(process)

    def cut(self, slot: str, seconds: float) -> None:
        """The process loses its broker for a while."""
        link = self._world.links[self._processes[slot].name]
        if not link.is_cut:
            self._note("cut", link.who)
            link.is_cut = True
            self._later(seconds, lambda: self._heal(link))

    def _heal(self, link: Link) -> None:
        if link.is_cut:
            self._note("healed", link.who)
            link.is_cut = False

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        async def wait() -> None:
            await asyncio.sleep(seconds)
            act()

        self._world.loop.outside(wait())

    def passed(self, point: str) -> None:
        """A process is inside a step of its broker: kill it there if that was decided."""
        if point != self._armed:
            return
        link = CALLER.get()
        slot = link.who.partition(".")[0] if link is not None else ""
        if link is None or self._processes.get(slot, Process("")).name != link.who:
            return
        self._armed = None
        self._note("kill in step", link.who, point=point)
        self.kill(slot, restart_s=0.3)
        raise KilledInStep

    # -- by chance -------------------------------------------------------------------------------

    async def rage(self, seconds: float) -> None:
        """Hurt somebody every now and then, for so long."""
        random, loop = self._random, self._world.loop
        until = loop.time() + seconds
        blows: list[tuple[int, Callable[[Random], Awaitable[None]]]] = [
            (5, self._kill_one),
            (1, self._kill_all),
            (4, self._freeze_one),
            (3, self._cut_one),
            (3, self._storm),
            (2, self._wrong_clock),
            (2, self._roll),
            (4, self._kill_in_step),
        ]
        weights = [weight for weight, _ in blows]
        while loop.time() < until:
            await asyncio.sleep(random.uniform(0.1, 1.2))
            (blow,) = random.choices([blow for _, blow in blows], weights)
            await blow(random)

    async def _kill_one(self, random: Random) -> None:
        slot = random.choice((*WORKERS, *WORKERS, *PRODUCERS, *FLOW))
        self.kill(slot, restart_s=random.choice((0.05, 0.5, LEASE_S + 1)))

    async def _kill_all(self, random: Random) -> None:
        restart_s = random.choice((0.05, LEASE_S + 1))
        for slot in WORKERS:
            self.kill(slot, restart_s=restart_s)

    async def _freeze_one(self, random: Random) -> None:
        slot = random.choice((*WORKERS, *WORKERS, *PRODUCERS))
        self.freeze(slot, random.choice((0.3, 1.5 * LEASE_S, random.uniform(0, 2 * LEASE_S))))

    async def _cut_one(self, random: Random) -> None:
        seconds = random.choice((0.3, 1.5 * LEASE_S, random.uniform(0.1, 2 * LEASE_S)))
        self.cut(random.choice((*WORKERS, *WORKERS, *PRODUCERS, *FLOW)), seconds)

    async def _storm(self, random: Random) -> None:
        weather = self._world.weather
        weather.fault, weather.slow = random.choice((0.05, 0.2)), random.choice((0, 0.05))
        self._note("storm", "all", fault=weather.fault, slow=weather.slow)
        self._later(random.uniform(0.5, 3), self._calm)

    def _calm(self) -> None:
        self._world.weather.fault = self._world.weather.slow = 0.0
        self._note("calm", "all")

    async def _wrong_clock(self, random: Random) -> None:
        slot = random.choice((*WORKERS, *PRODUCERS))
        clock = self._clocks.get(slot)
        if clock is not None:
            clock.offset_ms = random.choice((-WRONG_CLOCK_MS, 0, WRONG_CLOCK_MS))
            self._note("clock", self._processes[slot].name, offset_ms=clock.offset_ms)

    async def _roll(self, random: Random) -> None:
        slot = random.choice(WORKERS)
        if self._processes[slot].state == "up" and slot in self._workers:
            self._note("stop", self._processes[slot].name)
            self._workers[slot].stop()

    async def _kill_in_step(self, random: Random) -> None:
        self._armed = random.choice(IN_STEP)

    # -- peace -----------------------------------------------------------------------------------

    async def make_peace(self) -> None:
        """Nothing more goes wrong; every worker is there."""
        self._armed, self.at_peace = None, True
        self._calm()
        for slot in (*PRODUCERS, "f1", "op"):
            self.kill(slot, restart_s=None)
        for slot in (*WORKERS, GATHERER):
            process = self._processes[slot]
            self._thaw(process)
            self._heal(self._world.links[process.name])
            if process.state == "dead":
                self.start(slot)
        await asyncio.sleep(2)  # a graceful stop that had begun has ended
        for slot in WORKERS:
            name = self._processes[slot].name
            if any(e.kind == "stopped" and e.who == name for e in self._world.history):
                self.start(slot)
