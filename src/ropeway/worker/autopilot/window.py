"""What is seen of a worker: looks at its counters, and the figures of the time between them."""

from dataclasses import dataclass
from typing import Final

WARM_S: Final = 0.01
"""How long jobs are counted at least while each step about doubles the throughput."""
FINE_S: Final = 0.15
"""How long they are counted where differences are small: 10 ms of threads vary by 20 %."""
IDLE_CPU: Final = 0.5
"""Cores. A process that uses less waits for something else: big steps are worth trying."""
BUSY_CPU: Final = 0.75
"""Cores. A process that uses more gains little from more slots: measure for longer."""
BUSY_LAG_S: Final = 0.02
"""A loop that is so late on average waits for a core, or for the interpreter."""
WARM_JOBS: Final = 16
FINE_JOBS: Final = 64


@dataclass(frozen=True, slots=True)
class Look:
    """A worker's counters at one moment.

    Attributes:
        at_s: on a clock that never steps.
        ended: runs that have ended since the start.
        busy: slots that are taken now.
        waiting: jobs here that wait for a slot.
        cpu_s: CPU time of the process since its start, of all its threads.
        lag_s: how much later than asked for the event loop gave this moment.
        memory_bytes: of the process; 0 while nobody has asked.

    """

    at_s: float
    ended: int
    busy: int
    waiting: int
    cpu_s: float
    lag_s: float = 0.0
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Figures:
    """What a window has shown.

    Attributes:
        rate: jobs that ended per second.
        cpu: cores that the process used; one is all that Python code can use.
        full: the share of looks at which every slot was taken, or about to be.
        supplied: the share of looks at which there were jobs for every slot.
        busy_max: slots that were taken, at most.
        lag_s: of the loop, the mean.
        seconds: how long the window was.
        memory_bytes: of the process at its end.

    """

    rate: float
    cpu: float
    full: float
    supplied: float
    busy_max: int
    lag_s: float
    seconds: float
    memory_bytes: int

    @property
    def is_busy(self) -> bool:
        """Whether the process computes all the time, or would if the host let it."""
        return self.cpu > BUSY_CPU or self.lag_s > BUSY_LAG_S

    def __str__(self) -> str:
        """Short, for a line in the log."""
        text = f"{self.rate:,.0f} jobs/s, CPU {self.cpu:.0%}, loop lag {self.lag_s * 1000:.0f} ms"
        return f"{text}, {self.memory_bytes / 1e6:,.0f} MB" if self.memory_bytes else text


class Window:
    """The looks since `first`, which is not counted itself."""

    __slots__ = ("_busy_max", "_first", "_full", "_lag_s", "_last", "_looks", "_supplied")

    def __init__(self, first: Look) -> None:
        self._first = self._last = first
        self._looks = self._full = self._supplied = self._busy_max = 0
        self._lag_s = 0.0

    def add(self, look: Look, *, limit: int) -> None:
        """Count one more; `limit` is the number of slots."""
        self._last = look
        self._looks += 1
        # While jobs wait here, the loop is about to give them the free ones.
        self._full += look.busy >= limit or (look.waiting > 0 and 2 * look.busy >= limit)
        self._supplied += look.busy >= limit or look.waiting > 0
        self._busy_max = max(self._busy_max, look.busy)
        self._lag_s += look.lag_s

    @property
    def seconds(self) -> float:
        """How long it is by now."""
        return self._last.at_s - self._first.at_s

    @property
    def ended(self) -> int:
        """Jobs that have ended in it by now."""
        return self._last.ended - self._first.ended

    @property
    def _cpu(self) -> float:
        return (self._last.cpu_s - self._first.cpu_s) / max(self.seconds, 1e-9)

    def tells(self, *, turn: int, fine: bool, patience: int = 1) -> bool:
        """Whether it is long enough: every slot had its turn, twice where it has to be `fine`.

        `patience` is by how much longer than usual a fine one has to be.

        A process that computes all the time ends its jobs one after the other, so that turns do
        not matter: a thousand threads would take half a minute for theirs.
        """
        if not fine:
            return self.seconds >= WARM_S and self.ended >= max(WARM_JOBS, turn)
        if self.seconds < patience * FINE_S:
            return False
        if self._cpu > BUSY_CPU:
            return self.ended >= FINE_JOBS
        return self.ended >= max(WARM_JOBS if self._cpu < IDLE_CPU else FINE_JOBS, 2 * turn)

    def figures(self) -> Figures:
        """What it shows; at least one look was added."""
        seconds = max(self.seconds, 1e-9)
        return Figures(
            rate=self.ended / seconds,
            cpu=self._cpu,
            full=self._full / self._looks,
            supplied=self._supplied / self._looks,
            busy_max=self._busy_max,
            lag_s=self._lag_s / self._looks,
            seconds=self.seconds,
            memory_bytes=self._last.memory_bytes,
        )
