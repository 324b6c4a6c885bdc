"""Reasons to have fewer jobs in flight that no throughput outweighs: a late loop, little memory."""

from typing import Final

from ropeway.worker.autopilot.window import Look

LAG_MAX_S: Final = 0.25
"""Half of what the watchdog warns of."""
LATE_LOOKS: Final = 3
"""One late look is a handler that blocks; so many in a row are a loop with too much to do."""
LAG_GAIN: Final = 0.75
"""With half the slots the lag must fall at least to this, else the slots are not to blame."""
LAG_FORGET_S: Final = 30.0
MEMORY_FULL: Final = 0.8
"""Of the limit at which the process is replaced: from here on nothing grows."""
MEMORY_SHORT: Final = 0.9
"""From here on the slots are halved, for as long as the process goes on growing."""
MEMORY_STEP: Final = 0.02
MEMORY_REST_S: Final = 1.0


class LagGuard:
    """Says when the event loop is late because of the number of slots.

    A handler that blocks the loop makes it late too, however few the slots are. So it objects again
    only where its last objection helped, or the loop has become later than ever.
    """

    def __init__(self) -> None:
        self._late: list[float] = []
        self._before_s: float | None = None  # the lag at the last objection
        self._late_at_s = 0.0

    def objects(self, look: Look) -> bool:
        """Whether there should be fewer slots."""
        if look.lag_s < LAG_MAX_S:
            self._late.clear()
            if look.at_s - self._late_at_s > LAG_FORGET_S:
                self._before_s = None
            return False
        self._late_at_s = look.at_s
        self._late.append(look.lag_s)
        if len(self._late) < LATE_LOOKS:
            return False
        lag_s, before_s = min(self._late), self._before_s
        self._late.clear()
        if before_s is not None and LAG_GAIN < lag_s / before_s < 1 / LAG_GAIN:
            return False
        self._before_s = lag_s
        return True


class MemoryGuard:
    """Says when the process gets near its limit.

    Args:
        limit_bytes: 0: there is none.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._shrunk_at_bytes = 0
        self._shrunk_at_s = 0.0
        self._used = 0

    @property
    def allows_growth(self) -> bool:
        """Whether there is memory for more jobs."""
        return not self._limit or self._used < MEMORY_FULL * self._limit

    @property
    def is_short(self) -> bool:
        """Whether nothing should be fetched ahead."""
        return self._limit > 0 and self._used >= MEMORY_SHORT * self._limit

    def objects(self, look: Look) -> bool:
        """Whether there should be fewer slots.

        Python seldom gives memory back, so once there are fewer slots only growth counts.
        """
        self._used = look.memory_bytes
        if not self.is_short:
            self._shrunk_at_bytes = 0
            return False
        if self._used < self._shrunk_at_bytes + MEMORY_STEP * self._limit:
            return False
        if self._shrunk_at_bytes and look.at_s < self._shrunk_at_s + MEMORY_REST_S:
            return False
        self._shrunk_at_bytes, self._shrunk_at_s = self._used, look.at_s
        return True
