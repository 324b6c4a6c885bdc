"""Where time comes from: a wall clock for schedules, a monotonic one for leases and timeouts."""

from time import monotonic_ns, time_ns
from typing import Protocol


class Clock(Protocol):
    """The two clocks that brokers and workers read. Tests pass one that they move by hand."""

    def wall_ms(self) -> int:
        """Milliseconds since the Unix epoch, UTC. May step when the host's clock is set."""
        ...

    def mono_ms(self) -> int:
        """Milliseconds on a clock that never steps; shared by all processes of this host."""
        ...


class SystemClock:
    """The host's clocks."""

    def wall_ms(self) -> int:
        """See `Clock`."""
        return time_ns() // 1_000_000

    def mono_ms(self) -> int:
        """See `Clock`."""
        return monotonic_ns() // 1_000_000


SYSTEM_CLOCK = SystemClock()


class ForwardClock:
    """A wall clock that never runs backwards: max(the latest time seen, the clock's).

    Schedules are kept by it, so that a host clock set back delays nothing twice and reorders
    nothing. `floor_ms` carries the latest time across restarts.
    """

    def __init__(self, clock: Clock, *, floor_ms: int = 0) -> None:
        self._clock = clock
        self._latest_ms = floor_ms

    def now_ms(self) -> int:
        """The time now, in milliseconds since the epoch, never less than the last answer."""
        now_ms = self._clock.wall_ms()
        self._latest_ms = max(self._latest_ms, now_ms)
        return self._latest_ms
