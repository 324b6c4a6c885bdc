"""An event loop on virtual time, in which simulated processes can be frozen and killed.

Nothing waits: when no callback is ready, the clock moves to the next timer. Each callback belongs
to the process in whose context it was scheduled. A frozen process's callbacks are kept aside until
it thaws, as with SIGSTOP; those of a killed one never run: no `finally`, no cleanup, no goodbye,
as with SIGKILL.
"""

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, ContextVar, copy_context
from typing import Any, Final, Literal, TypeVar, cast

from ropeway.testing.manual_clock import MONO_MS, WALL_MS

T = TypeVar("T")

PROCESS: ContextVar["Process | None"] = ContextVar("ropeway_simulated_process", default=None)
_ROUNDING_MS: Final = 0.001  # sums of seconds fall short of a millisecond by less


class Stuck(Exception):
    """Nothing is ready and no timer is set: something waits for what cannot come."""


class Process:
    """A simulated process: whose callbacks they are.

    Attributes:
        state: "up", "frozen" (SIGSTOP) or "dead" (SIGKILL).

    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.state: Literal["up", "frozen", "dead"] = "up"
        self.kept: list[asyncio.Handle] = []
        self.kept_timers: list[asyncio.TimerHandle] = []

    def __repr__(self) -> str:
        return f"<{self.name} {self.state}>"


class _NoFiles:
    """A selector without files: waiting is moving the clock."""

    def __init__(self, loop: "VirtualLoop") -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise Stuck("nothing is ready and no timer is set")
        self._loop.pass_s(timeout)
        return []

    def close(self) -> None:
        """Nothing is open."""


class VirtualLoop(asyncio.BaseEventLoop):
    """See the module. `tasks` are all that were ever made, in order."""

    # What the base class and its handles keep; typeshed does not show it.
    _ready: "deque[asyncio.Handle]"
    _scheduled: list[asyncio.TimerHandle]

    def __init__(self) -> None:
        super().__init__()
        self._now_s = MONO_MS / 1000
        self._selector = _NoFiles(self)
        self.tasks: list[asyncio.Task[Any]] = []
        self.mishaps: list[BaseException] = []
        self._processes: list[Process] = []
        self.set_exception_handler(self._note_mishap)

    def time(self) -> float:
        """Virtual seconds."""
        return self._now_s

    def pass_s(self, seconds: float) -> None:
        """Move the clock."""
        self._now_s += seconds

    @property
    def now_ms(self) -> int:
        """Virtual time in whole milliseconds."""
        return int(self._now_s * 1000 + _ROUNDING_MS)

    def create_task(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        name: object = None,
        context: Context | None = None,
    ) -> asyncio.Task[T]:
        """As always, but never forgotten: a task of a killed process must not be collected."""
        task = super().create_task(coro, name=name, context=context)
        self.tasks.append(task)
        return task

    def start(self, process: Process, coro: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run `coro`, and all that it starts, as this process."""
        self._processes.append(process)
        context = copy_context()
        context.run(PROCESS.set, process)
        return self.create_task(coro, name=process.name, context=context)

    def outside(self, coro: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run `coro` as no process: what a server does, which no kill of a client stops."""
        return self.create_task(coro, context=Context())

    def freeze(self, process: Process) -> None:
        """Run nothing of this process until `thaw`."""
        process.state = "frozen"
        for place, handle in enumerate(self._ready):
            if _owner(handle) is process:
                process.kept.append(handle)
                self._ready[place] = self._nothing()
        kept = [timer for timer in self._scheduled if _owner(timer) is process]
        for timer in kept:
            _mark(timer, scheduled=False)
        process.kept_timers += sorted(kept, key=lambda timer: timer.when())
        self._scheduled[:] = [timer for timer in self._scheduled if _owner(timer) is not process]
        heapq.heapify(self._scheduled)

    def thaw(self, process: Process) -> None:
        """Let it go on: first what was ready, then the timers that have run out meanwhile."""
        process.state = "up"
        self._ready.extend(process.kept)
        for timer in process.kept_timers:
            if not timer.cancelled():
                _mark(timer, scheduled=True)
                heapq.heappush(self._scheduled, timer)
        process.kept, process.kept_timers = [], []

    def kill(self, process: Process) -> None:
        """Run nothing of it ever again."""
        self.freeze(process)
        process.state = "dead"

    async def bury(self) -> None:
        """End every task that is left, so that none is destroyed while it waits."""
        me = asyncio.current_task()
        for process in self._processes:
            self.thaw(process)
        for _ in range(10):
            left = [task for task in self.tasks if task is not me and not task.done()]
            if not left:
                return
            for task in left:
                task.cancel()
            await asyncio.wait(left, timeout=60)

    def _nothing(self) -> asyncio.Handle:
        handle = asyncio.Handle(_pass, (), self)
        handle.cancel()
        return handle

    def _note_mishap(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.mishaps.append(error if error is not None else RuntimeError(context["message"]))

    # -- what the base class asks of a loop ------------------------------------------------------

    def _call_soon(
        self, callback: Callable[..., object], args: tuple[Any, ...], context: Context | None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        process = _owner(handle)
        if process is None or process.state == "up":
            self._ready.append(handle)
        else:
            process.kept.append(handle)
        return handle

    def _process_events(self, event_list: list[Any]) -> None:
        """There are no files, so there are no events."""

    def _write_to_self(self) -> None:
        """Only one thread: nobody has to be woken."""


class HostClock:
    """The clock of the simulated host; `offset_ms` is what one process has wrong."""

    def __init__(self, loop: VirtualLoop, offset_ms: int = 0) -> None:
        self._loop = loop
        self.offset_ms = offset_ms

    def wall_ms(self) -> int:
        """See `Clock`."""
        return WALL_MS - MONO_MS + self._loop.now_ms + self.offset_ms

    def mono_ms(self) -> int:
        """See `Clock`."""
        return self._loop.now_ms


def _owner(handle: asyncio.Handle) -> Process | None:
    context = cast(Context, handle._context)  # noqa: SLF001
    return context.get(PROCESS)


def _mark(timer: asyncio.TimerHandle, *, scheduled: bool) -> None:
    timer._scheduled = scheduled  # noqa: SLF001


def _pass() -> None:
    """In place of a callback that was taken away."""
