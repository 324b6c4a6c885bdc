"""A long run in one process that shows whether anything grows.

    python -m ropeway.testing.soak "sqlite:///soak.db?durability=fast" --jobs 1000000

One app enqueues and one worker runs no-op jobs, in rounds. Between two rounds all is at rest, and
what the process holds is written down: a leak is a difference between rounds.
"""

import argparse
import asyncio
import gc
import sys
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import linear_regression
from typing import Any, Final

import msgspec

from ropeway.app import Ropeway
from ropeway.errors import ConfigError
from ropeway.worker import Worker, WorkerOptions
from ropeway.worker.maintainer import memory_bytes
from ropeway.worker.process.main import loop_factory

BATCH: Final = 500
OUTSTANDING_MAX: Final = 5_000
"""Jobs that wait or run at a time: the backlog must not look like a leak."""
SETTLED_S: Final = 0.5
"""From the last handler's end until its outcome is stored and the worker is idle."""
STUCK_S: Final = 120.0
WARM_JOBS: Final = 50_000
"""Caches, pools and kept records fill up in the beginning; growth is measured after so many."""
SLOPE_JOBS: Final = 100_000


class Sample(msgspec.Struct, frozen=True):
    """What the process holds after so many jobs; sizes in bytes."""

    jobs: int
    rss_bytes: int
    descriptors: int
    threads: int
    tasks: int
    database_bytes: int
    wal_max_bytes: int  # the largest seen so far


async def soak(
    url: str,
    *,
    jobs: int,
    every: int = WARM_JOBS,
    retention_s: float | None = None,
    report: Callable[[Sample], None] | None = None,
) -> list[Sample]:
    """Run `jobs` no-op jobs through one worker.

    Args:
        url: of a broker that nothing else uses meanwhile.
        jobs: how many in all.
        every: jobs in a round.
        retention_s: how long completed records are kept, in seconds; None: as by default.
        report: called with each sample as it is taken.

    Returns:
        One sample after each round.

    Raises:
        ConfigError: `jobs` or `every` is less than 1.
        TimeoutError: no job has ended for two minutes.
    """
    if jobs < 1 or every < 1:
        raise ConfigError(f"soak: jobs={jobs}, every={every}: give whole numbers over 0")
    app = Ropeway(url, defaults={} if retention_s is None else {"retention": retention_s})
    progress = _Progress()

    @app.task
    async def noop(number: int) -> int:
        progress.done += 1
        return number

    database = _Database(url)
    samples: list[Sample] = []
    async with app, _working(app):
        for began in range(0, jobs, every):
            end = min(began + every, jobs)
            for first in range(began, end, BATCH):
                await noop.enqueue_many(range(first, min(first + BATCH, end)))
                await progress.reaches(first + BATCH - OUTSTANDING_MAX)
                database.look()
            await progress.reaches(end)
            await asyncio.sleep(SETTLED_S)
            samples.append(_sample(end, database))
            if report is not None:
                report(samples[-1])
    return samples


def slope_bytes(samples: list[Sample], *, after: int = WARM_JOBS) -> float:
    """How many bytes the process grew per 100,000 jobs, from job `after` on (least squares).

    Raises:
        ConfigError: fewer than two samples are left.
    """
    warm = [sample for sample in samples if sample.jobs >= after]
    if len(warm) < 2:
        raise ConfigError(f"the slope after {after} jobs needs two samples; run more jobs")
    line = linear_regression([s.jobs for s in warm], [s.rss_bytes for s in warm])
    return line.slope * SLOPE_JOBS


def descriptors() -> int:
    """How many files, sockets and pipes this process has open."""
    return sum(1 for _ in Path("/dev/fd").iterdir())


class _Progress:
    """How many jobs have ended."""

    def __init__(self) -> None:
        self.done = 0

    async def reaches(self, wanted: int) -> None:
        """Wait for so many. Raises TimeoutError when none has ended for two minutes."""
        loop = asyncio.get_running_loop()
        seen, seen_at = self.done, loop.time()
        while self.done < wanted:
            await asyncio.sleep(0.002)
            if self.done > seen:
                seen, seen_at = self.done, loop.time()
            elif loop.time() - seen_at > STUCK_S:
                raise TimeoutError(f"{seen} of {wanted} jobs ended, and none for {STUCK_S:.0f} s")


class _Database:
    """The files of a SQLite broker; other brokers have none here."""

    def __init__(self, url: str) -> None:
        name = url.removeprefix("sqlite:///").partition("?")[0]
        self._path = Path(name) if name != url else None
        self.wal_max_bytes = 0

    @property
    def bytes(self) -> int:
        """The size of the database without its WAL."""
        return 0 if self._path is None else _size(self._path)

    def look(self) -> None:
        """Note the size of the WAL."""
        if self._path is not None:
            wal = self._path.with_name(f"{self._path.name}-wal")
            self.wal_max_bytes = max(self.wal_max_bytes, _size(wal))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _sample(jobs: int, database: _Database) -> Sample:
    gc.collect()
    return Sample(
        jobs=jobs,
        rss_bytes=memory_bytes(),
        descriptors=descriptors(),
        threads=threading.active_count(),
        tasks=len(asyncio.all_tasks()),
        database_bytes=database.bytes,
        wal_max_bytes=database.wal_max_bytes,
    )


@asynccontextmanager
async def _working(app: Ropeway[Any]) -> AsyncGenerator[None]:
    """One worker on this loop, as `ropeway worker` makes it."""
    worker = Worker(
        app.store,
        app.definitions,
        options=WorkerOptions(),
        broker_factory=app.new_store if app.store.capabilities.shared else None,
    )
    running = asyncio.create_task(worker.run())
    try:
        yield
    finally:
        worker.stop()
        await running


def _show(sample: Sample) -> None:
    sizes = (sample.rss_bytes, sample.database_bytes, sample.wal_max_bytes)
    rss, database, wal = (size / 2**20 for size in sizes)
    _say(
        f"{sample.jobs:>9} jobs  rss {rss:7.1f} MB  descriptors {sample.descriptors}  threads"
        f" {sample.threads}  tasks {sample.tasks}  database {database:.1f} MB  wal {wal:.1f} MB"
    )


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Run from the command line; prints a line a round and the slope at the end."""
    parser = argparse.ArgumentParser(prog="python -m ropeway.testing.soak")
    parser.add_argument("url", help="of a broker, e.g. memory:// or sqlite:///soak.db")
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--every", type=int, default=WARM_JOBS, help="jobs between two samples")
    parser.add_argument("--after", type=int, default=WARM_JOBS, help="where the slope begins")
    parser.add_argument("--retention", type=float, help="seconds; default: as for any task")
    given = parser.parse_args()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        samples = runner.run(
            soak(
                given.url,
                jobs=given.jobs,
                every=given.every,
                retention_s=given.retention,
                report=_show,
            )
        )
    slope = slope_bytes(samples, after=given.after)
    _say(f"slope {slope / 2**20:+.2f} MB per 100,000 jobs after the first {given.after}")


if __name__ == "__main__":
    main()
