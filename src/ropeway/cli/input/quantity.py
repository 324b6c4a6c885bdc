"""Durations, times and sizes as people write them on a command line."""

import re
from datetime import UTC, datetime
from typing import Final

from ropeway.cli.exits import usage

_SECONDS: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_BYTES: Final = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9} | {
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "K": 2**10,
    "M": 2**20,
    "G": 2**30,
}
_NUMBER = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")

DURATION_HELP: Final = "seconds, or 500ms, 30s, 5m, 2h, 1d"


def seconds(text: str, *, name: str) -> float:
    """A duration in seconds, from "90", "1.5s", "500ms", "5m", "2h" or "1d"."""
    number, unit = _split(text)
    if number is None or unit not in _SECONDS:
        raise usage(f"--{name} {text!r} is not a duration: give {DURATION_HELP}")
    return number * _SECONDS[unit]


def per(text: str, *, name: str) -> tuple[int, float]:
    """A number per duration in seconds, from "100/1m", "5/30s" or "10/s"."""
    count, _, time = text.partition("/")
    time = f"1{time.strip()}" if time.strip().isalpha() else time
    if not count.strip().isdecimal() or not time:
        raise usage(f"--{name} {text!r} is not a rate: give a number per time, 100/1m or 10/s")
    return int(count), seconds(time, name=name)


def size_bytes(text: str, *, name: str) -> int:
    """A size in bytes, from "1000000", "512MB" (10^6), "512MiB" or "512M" (2^20)."""
    number, unit = _split(text)
    if number is None or unit.upper() not in _BYTES:
        raise usage(f"--{name} {text!r} is not a size: give bytes, or 512MB, 512MiB, 2GB")
    return int(number * _BYTES[unit.upper()])


def moment(text: str, *, name: str) -> datetime:
    """A time with its zone, from ISO 8601; without a zone it is the local one."""
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError, OSError):
        now = datetime.now(UTC).isoformat(timespec="seconds")
        raise usage(
            f"--{name} {text!r} is not a time: give ISO 8601 such as {now}, or 2030-01-31 09:00 "
            "for local time"
        ) from None


def moment_ms(text: str, *, name: str, now_ms: int) -> int:
    """UTC epoch milliseconds, from a time as in `moment` or from an age as in `seconds`."""
    number, unit = _split(text)
    if number is not None and unit in _SECONDS:
        return now_ms - int(number * _SECONDS[unit] * 1000)
    return int(moment(text, name=name).timestamp() * 1000)


def _split(text: str) -> tuple[float | None, str]:
    found = _NUMBER.fullmatch(text.strip())
    return (None, "") if found is None else (float(found[1]), found[2])
