"""Durations at the edge: seconds or `timedelta` outside, integer milliseconds inside."""

import math
from datetime import timedelta

from ropeway.errors import ConfigError

DURATION_MAX_MS = 100 * 366 * 24 * 3600 * 1000
"""The longest duration that is accepted: 100 years. Sums with the time stay far inside 64 bits."""


def to_ms(value: float | timedelta, *, name: str, minimum_ms: int = 0) -> int:
    """Turn a duration given by a user into whole milliseconds.

    Fractions of a millisecond are rounded up, so that nothing happens earlier than asked;
    noise of binary fractions (below a nanosecond) is not a fraction: 1.1 s is 1100 ms.

    Args:
        value: seconds (int or float) or a `timedelta`.
        name: the option's name as the user wrote it, for the error message.
        minimum_ms: the smallest duration allowed, in milliseconds.

    Returns:
        Milliseconds, from `minimum_ms` to `DURATION_MAX_MS`.

    Raises:
        ConfigError: not a duration, NaN, infinite, below the minimum or over 100 years.

    """
    # Annotations do not bind a caller without a type checker, hence the runtime check.
    if isinstance(value, bool) or not isinstance(value, (int, float, timedelta)):  # pyright: ignore[reportUnnecessaryIsInstance]
        kind = type(value).__name__
        raise ConfigError(f"{name}={value!r} is a {kind}: give seconds (a number) or a timedelta")
    # `total_seconds` is exact to the microsecond up to 270 years.
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if not -math.inf < seconds < math.inf:  # false for NaN too
        raise ConfigError(f"{name}={value!r}: a duration must be a finite number of seconds")
    if seconds > DURATION_MAX_MS // 1000:
        raise ConfigError(f"{name}={value!r}: a duration must be at most 100 years")
    if seconds * 1000 < minimum_ms:
        least = f"at least {minimum_ms / 1000:g} s" if minimum_ms else "zero or more"
        raise ConfigError(f"{name}={value!r}: this duration must be {least}")
    return math.ceil(round(seconds * 1000, 6))
