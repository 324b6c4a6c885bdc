"""A clock that moves only when told to, so that no test sleeps."""

WALL_MS = 1_750_000_000_000  # 15 June 2025: any fixed day, far from zero
MONO_MS = 5_000_000  # differs from the wall clock by far, so that mixing them up shows


class ManualClock:
    """A `ropeway.clock.Clock` moved by hand.

    Args:
        wall_ms: where the wall clock starts, in ms since the Unix epoch.
        mono_ms: where the monotonic clock starts, in ms.
    """

    def __init__(self, *, wall_ms: int = WALL_MS, mono_ms: int = MONO_MS) -> None:
        self._wall_ms = wall_ms
        self._mono_ms = mono_ms

    def wall_ms(self) -> int:
        """Milliseconds since the Unix epoch, UTC."""
        return self._wall_ms

    def mono_ms(self) -> int:
        """Milliseconds on a clock that never steps."""
        return self._mono_ms

    def advance(self, ms: int) -> None:
        """Let `ms` milliseconds pass, on both clocks.

        Raises:
            ValueError: `ms` is negative; only the wall clock can go back, see `step_wall`.
        """
        if ms < 0:
            raise ValueError(f"time cannot pass backwards ({ms} ms); use step_wall")
        self._wall_ms += ms
        self._mono_ms += ms

    def step_wall(self, ms: int) -> None:
        """Set the wall clock forward or back by `ms`, as an operator or NTP does."""
        self._wall_ms += ms
