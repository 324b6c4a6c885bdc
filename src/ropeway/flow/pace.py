"""How fast a queue is served, for an estimate of when it will have room."""

import math
from typing import Final

import msgspec

MEMORY_MS: Final = 30_000
"""What happened so long ago counts a third of what happens now."""


class Pace(msgspec.Struct, gc=False):
    """Starts of a queue's jobs, exponentially forgotten."""

    n: float = 0.0
    since_ms: int = 0
    at_ms: int = 0

    def note(self, n: int, now_ms: int) -> None:
        """So many jobs were started now."""
        if not self.since_ms:
            self.since_ms = self.at_ms = now_ms
        self.n = self.n * math.exp((self.at_ms - now_ms) / MEMORY_MS) + n
        self.at_ms = now_ms

    def wait_ms(self, places: int, now_ms: int) -> int | None:
        """Until so many places are free; None when nothing was started for long.

        The weights of what was seen sum up to MEMORY_MS * (1 - e^(-seen / MEMORY_MS)).
        """
        left = self.n * math.exp((self.at_ms - now_ms) / MEMORY_MS)
        if left < 0.05:
            return None
        seen_ms = MEMORY_MS * (1 - math.exp((self.since_ms - now_ms) / MEMORY_MS))
        return max(1, math.ceil(places * max(seen_ms, 1.0) / left))
