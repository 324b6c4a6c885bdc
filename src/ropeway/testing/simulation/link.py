"""What lies between a simulated process and its broker, and goes wrong there.

Each call runs on the broker's side, where a kill of the caller does not stop it, and is seen by the
world's witness at the moment of its effect. On the way there and back, by chance: the request is
lost; the answer is lost after the call took effect; the call is done twice; it arrives seconds
after its caller gave up on it.
"""

import asyncio
import inspect
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, Protocol

from ropeway.broker import ExtendAnswer, Extended, JobStore, Maintained
from ropeway.errors import Disconnected
from ropeway.outcome import Settled
from ropeway.testing.simulation.loop import VirtualLoop

CALLER: ContextVar["Link | None"] = ContextVar("ropeway_simulated_caller", default=None)
"""Whose call the broker's side is busy with."""

REPEATABLE: Final = frozenset({"enqueue", "reserve", "settle", "extend", "maintain", "heartbeat"})
"""Verbs that may arrive late or twice: a network does that to any call, and these must bear it."""
LATE_MAX_S: Final = 5.0
WAITING: Final = frozenset({"reserve", "reserve_group", "signals", "wait"})
FAULTS: Final = ("request lost", "answer lost", "twice", "late")


class Witness(Protocol):
    """Sees each call of the broker at the moment of its effect."""

    def before(self, who: str, verb: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The call is about to take effect."""
        ...

    def saw(self, who: str, verb: str, call: tuple[Any, dict[str, Any]], answer: Any) -> None:
        """The call took effect, with this answer."""
        ...


@dataclass(kw_only=True)
class Weather:
    """How bad the way is now. Probabilities are of one call; `delay_max_ms` is each way's.

    Attributes:
        fault: that something goes wrong with a call.
        slow: that a call takes long (up to `slow_max_ms`, each way).

    """

    fault: float = 0.0
    slow: float = 0.0
    delay_max_ms: int = 1
    slow_max_ms: int = 1500


@dataclass(eq=False, kw_only=True)
class Link:
    """One process's way to its broker; `store` is to be used in place of the broker."""

    loop: VirtualLoop
    who: str
    broker: JobStore
    random: Random
    weather: Weather
    witness: Witness
    is_cut: bool = False
    is_over: bool = False  # the simulation has ended: every call gets a harmless answer
    in_flight: dict[asyncio.Task[Any], str] = field(default_factory=dict)

    @property
    def store(self) -> JobStore:
        """Itself, for the type checker."""
        store: Any = self
        return store

    def drop_waiting(self) -> None:
        """The process has died: what waits for it in the broker stops waiting."""
        for task, verb in list(self.in_flight.items()):
            if verb in WAITING:
                task.cancel()

    def __getattr__(self, verb: str) -> Any:
        """The broker's own attribute; a verb comes with the way to it."""
        found = getattr(self.broker, verb)
        if not inspect.iscoroutinefunction(found):
            return found

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await self._call(verb, args, kwargs)

        return call

    async def _call(self, verb: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.is_over:
            return _harmless(verb, args)
        fault = self._draw_fault(verb)
        await self._travel()
        if self.is_cut or fault == "request lost":
            raise Disconnected(f"{verb}: no connection (simulated)")
        if fault == "late":
            self._later(verb, args, kwargs)
            raise Disconnected(f"{verb}: no answer (simulated)")
        answer = await self._arrive(verb, args, kwargs)
        if fault == "twice":
            self._later(verb, args, kwargs)
        await self._travel()
        if self.is_cut or fault == "answer lost":
            raise Disconnected(f"{verb}: the answer is lost (simulated)")
        return answer

    def _draw_fault(self, verb: str) -> str | None:
        if self.random.random() >= self.weather.fault:
            return None
        fault = self.random.choice(FAULTS)
        return "answer lost" if fault in ("twice", "late") and verb not in REPEATABLE else fault

    async def _travel(self) -> None:
        slow = self.random.random() < self.weather.slow
        most = self.weather.slow_max_ms if slow else self.weather.delay_max_ms
        delay_ms = self.random.randint(0, most)
        if delay_ms:
            await asyncio.sleep(delay_ms / 1000)

    async def _arrive(self, verb: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        task = self.loop.outside(self._take_effect(verb, args, kwargs))
        self.in_flight[task] = verb
        task.add_done_callback(self._landed)
        return await task

    def _landed(self, task: asyncio.Task[Any]) -> None:
        self.in_flight.pop(task, None)
        if not task.cancelled():
            task.exception()  # it belongs to the caller, who may be dead

    async def _take_effect(self, verb: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        CALLER.set(self)
        self.witness.before(self.who, verb, args, kwargs)
        answer = await getattr(self.broker, verb)(*args, **kwargs)
        self.witness.saw(self.who, verb, (args, kwargs), answer)
        return answer

    def _later(self, verb: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        delay_s = self.random.uniform(0, LATE_MAX_S)

        async def arrive_late() -> None:
            await asyncio.sleep(delay_s)
            if not self.is_over:
                await self._take_effect(verb, args, kwargs)

        task = self.loop.outside(arrive_late())
        task.add_done_callback(self._landed)


Harmless = Callable[[tuple[Any, ...]], Any]

_HARMLESS: Final[dict[str, Harmless]] = {
    "settle": lambda args: [Settled.LOST for _ in args[0]],
    "extend": lambda args: [Extended(ExtendAnswer.LOST, 0) for _ in args[0]],
    "reserve": lambda _args: [],
    "exchange": lambda args: ([Settled.LOST for _ in args[0]], []),
    "maintain": lambda _args: Maintained(),
    "signals": lambda _args: [],
}


def _harmless(verb: str, args: tuple[Any, ...]) -> Any:
    """What ends a worker soonest, once nothing it does counts any more."""
    if verb not in _HARMLESS:
        raise Disconnected(f"{verb}: the simulation has ended")
    return _HARMLESS[verb](args)
