"""Percentiles of measured times."""

from collections.abc import Sequence


def percentile(ordered: Sequence[float], fraction: float) -> float:
    """The smallest value that at least this fraction of them does not exceed (nearest rank)."""
    rank = -int(-fraction * len(ordered) // 1)  # rounded up
    return ordered[max(0, rank - 1)]
