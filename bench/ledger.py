"""What the handlers wrote: one record of 16 bytes a job, or two for a job that may be killed.

Start (nanoseconds of the clock that all processes of a host share), number, length in microseconds.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

FIRST: Final = 1_000_000  # number of the first job; smaller ones warm up
RECORD: Final = struct.Struct("<qII")
BEGUN: Final = 0xFFFFFFFF


class Mark(NamedTuple):
    """A job that has ended or, with the length `BEGUN`, only begun."""

    start_ns: int
    number: int
    length_us: int


@dataclass(frozen=True)
class Ledger:
    """A file of records, which need not exist yet."""

    path: Path

    def count(self) -> int:
        """How many records there are."""
        try:
            return self.path.stat().st_size // RECORD.size
        except FileNotFoundError:
            return 0

    def marks(self, skip: int = 0) -> Iterator[Mark]:
        """All of them from the one numbered `skip`, without those of jobs that warmed up."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(skip * RECORD.size)
            data = file.read()
        whole = len(data) // RECORD.size * RECORD.size
        for record in RECORD.iter_unpack(memoryview(data)[:whole]):
            if record[1] >= FIRST:
                yield Mark(*record)


@dataclass(frozen=True)
class Span:
    """What a number of jobs took together: from the first start to the last end."""

    jobs: int  # different ones
    records: int
    seconds: float

    @classmethod
    def of(cls, marks: list[Mark]) -> "Span":
        """From records of jobs that ended."""
        if not marks:
            return cls(0, 0, 0.0)
        first_ns = min(mark.start_ns for mark in marks)
        last_ns = max(mark.start_ns + mark.length_us * 1000 for mark in marks)
        numbers = {mark.number for mark in marks}
        return cls(len(numbers), len(marks), (last_ns - first_ns) / 1e9)


def percentile(ordered: list[float], fraction: float) -> float:
    """The smallest value that at least this fraction of them does not exceed."""
    rank = -int(-fraction * len(ordered) // 1)  # rounded up
    return ordered[max(0, rank - 1)]
