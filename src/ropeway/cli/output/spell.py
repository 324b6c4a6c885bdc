"""Times, durations, sizes and counts in words."""

import time


def now_ms() -> int:
    """UTC epoch milliseconds by this machine's clock, for relative times."""
    return time.time_ns() // 1_000_000


def ago(at_ms: int | None, *, now: int) -> str:
    """Turn a time into "3s ago", "in 12m" or "now"; "-" for None."""
    if at_ms is None:
        return "-"
    span_ms = at_ms - now
    if abs(span_ms) < 1000:
        return "now"
    return f"in {duration(span_ms)}" if span_ms > 0 else f"{duration(-span_ms)} ago"


_UNITS = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000))


def duration(span_ms: int) -> str:
    """The largest unit, and the next one while it still matters: "950ms", "42s", "4m59s", "3d"."""
    for place, (unit, size_ms) in enumerate(_UNITS):
        count, rest_ms = divmod(span_ms, size_ms)
        if count >= 10 or (count and unit == "s"):
            return f"{count}{unit}"
        if count:
            finer, finer_ms = _UNITS[place + 1]
            more = rest_ms // finer_ms
            return f"{count}{unit}{more}{finer}" if more else f"{count}{unit}"
    return f"{span_ms}ms"


def stamp(at_ms: int | None) -> str:
    """Local date and time to the second; "" for None."""
    if at_ms is None:
        return ""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_ms / 1000))


def clock(at_ms: int) -> str:
    """Local time of day to the millisecond."""
    seconds, ms = divmod(at_ms, 1000)
    return f"{time.strftime('%H:%M:%S', time.localtime(seconds))}.{ms:03d}"


def size(count: int) -> str:
    """Bytes as a person reads them."""
    return f"{count} B" if count < 10_000 else f"{count / 1000:,.0f} kB"


def count_of(number: int, noun: str) -> str:
    """A number with its noun: "1 job", "1,200 jobs"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
