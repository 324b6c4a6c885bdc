"""The ledger: one file, one line an event, written by every process and read by none of them.

A line is one `write` on a descriptor opened with O_APPEND: lines of many processes never mix, and
belong to the kernel at once, so that the death of a writer loses none.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

What = Literal[
    "up",  # a worker is about to fetch its first job
    "ask",  # a producer is about to enqueue
    "ack",  # the broker has answered; `detail` is the id of the job that exists
    "cancel",  # a cancel was answered; `detail` is the answer
    "start",  # a handler begins
    "end",  # a handler returns
    "fail",  # a handler raises
    "stop",  # a handler was cancelled by its worker
    "die",  # a handler is about to kill its process
    "fault",  # the nemesis strikes `pid`; `until_s` is when it was over
    "stall",  # a process noticed that it was not running, from `at_s` to `until_s`
    "away",  # a write to the store took from `at_s` to `until_s`
    "pause",  # the pause of a queue was answered
    "resume",  # a queue is about to be resumed
]


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line. `at_s` is `time.monotonic()`, which all processes of a host share."""

    what: What
    at_s: float
    wall_s: float
    pid: int  # of the worker, also where the handler has a process of its own
    job: str = ""
    kind: str = ""  # of the job, or of the fault
    key: str = ""  # unique or ordering key, queue, or the number of the strike
    token: int = 0
    attempt: int = 0
    work_ms: int = 0
    delay_s: float = 0  # asked for: not before so long after `at_s`
    until_s: float = 0
    detail: str = ""

    def line(self) -> str:
        """The event as it stands in the file."""
        return msgspec.json.encode(self).decode()


_decoder = msgspec.json.Decoder(Event)


class Ledger:
    """Appends events for one process. `pid` is written into each that does not say another."""

    def __init__(self, path: Path, *, pid: int | None = None) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._pid = os.getpid() if pid is None else pid

    def note(self, what: What, **fields: str | float) -> None:
        """Write one event; times and process are filled in unless given."""
        known = {"at_s": time.monotonic(), "wall_s": time.time(), "pid": self._pid}
        event = msgspec.convert({**known, **fields, "what": what}, Event)
        os.write(self._fd, msgspec.json.encode(event) + b"\n")

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


class Tail:
    """Reads a ledger while it grows."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._rest = b""

    def new(self) -> Iterator[Event]:
        """The events since the last call."""
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        yield from map(_decoder.decode, lines)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read(path: Path) -> list[Event]:
    """All events by time."""
    tail = Tail(path)
    try:
        return sorted(tail.new(), key=lambda event: event.at_s)
    finally:
        tail.close()
