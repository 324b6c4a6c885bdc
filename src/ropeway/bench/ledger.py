"""What the handlers did, by their own word: when each job began first, and how often it began.

A file of fixed size, mapped by the worker and by the bench. A mark is two stores into memory,
which costs about a microsecond, and belongs to the kernel at once: the death of a worker loses
none.
"""

import mmap
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_BYTES_PER_JOB: Final = 9  # eight for the time, one for the count
_COUNT_MAX: Final = 255


class Ledger:
    """Marks by job number, 0 to `jobs` - 1. A context manager: it closes the file.

    Times are nanoseconds of `time.monotonic_ns`, which all processes of a host share.
    """

    __slots__ = ("_counts", "_map", "_starts", "jobs")

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self.jobs: int = len(self._map) // _BYTES_PER_JOB
        whole = memoryview(self._map)
        self._starts = whole[: 8 * self.jobs].cast("q")
        self._counts = whole[8 * self.jobs :]

    @classmethod
    def create(cls, path: Path, *, jobs: int) -> Self:
        """A new ledger in which no job has begun."""
        with path.open("wb") as file:
            file.truncate(jobs * _BYTES_PER_JOB)
        return cls(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._starts.release()
        self._counts.release()

    def mark(self, number: int) -> None:
        """Job `number` begins. Its handler calls this first."""
        count = self._counts[number]
        if count == 0:
            self._starts[number] = time.monotonic_ns()
        if count < _COUNT_MAX:
            self._counts[number] = count + 1

    def start_ns(self, number: int) -> int:
        """When job `number` began first; 0 if it did not."""
        return self._starts[number]

    def first_start_ns(self) -> int:
        """When the first of all jobs began; 0 if none did."""
        return min(filter(None, self._starts), default=0)

    def missing(self) -> int:
        """How many jobs have not begun."""
        return bytes(self._counts).count(0)

    def repeated(self) -> int:
        """How many jobs began more than once."""
        counts = bytes(self._counts)
        return self.jobs - counts.count(0) - counts.count(1)
