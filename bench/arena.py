"""One measurement's surroundings: an empty store, a folder of its own, the rival's server."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from bench.ledger import Ledger
from bench.programs import Failed, Place, Worker, cpu_seconds, sampled_memory
from bench.roster import Rival, Setting
from bench.servers import Faktory, Fsync, Store

Figures = dict[str, float]
"""Measured once, by name; the unit ends the name."""

LOOK_S: Final = 0.005
SAMPLE_S: Final = 0.4


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is measured; the drains are sized by the rate that a setting is expected to have."""

    drain_s: float = 2.5
    enqueue_s: float = 1.5
    pace_s: float = 2.0
    crash_jobs: int = 2_000
    crash_cap_s: float = 120.0
    classic_jobs: int = 20_000
    patience_s: float = 60.0
    jobs: int = 0  # of a drain, of all rivals alike, when it is not 0

    def drain_jobs(self, setting: Setting) -> int:
        """How many for one drain."""
        return self.jobs or max(300, int(setting.rate * self.drain_s) // 100 * 100)


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What holds for all measurements of a run."""

    folder: Path
    fsync: Fsync
    size: Size
    ropeway_url: str = ""


@dataclass(frozen=True)
class Arena:
    """An empty store and its servers."""

    rival: Rival
    place: Place
    redis: Store
    servers: tuple[psutil.Process, ...]
    size: Size
    only_waits: Callable[[], None]  # to be called when the rest of a measurement is waiting

    @property
    def ledger(self) -> Ledger:
        """Of the handlers of this measurement."""
        return Ledger(self.place.folder / "ledger")

    @property
    def in_redis(self) -> bool:
        """Whether the jobs are in the Redis of the run: Ropeway may be given another store."""
        return self.place.url.startswith(("redis:", "tcp:"))

    def worker(
        self, setting: Setting, concurrency: int, task: str, *, ranked: bool = False
    ) -> Worker:
        """Not started yet."""
        return Worker(
            self.rival,
            self.place,
            setting=setting.name,
            concurrency=concurrency,
            task=task,
            ledger=self.ledger.path,
            ranked=ranked,
        )

    def used(self, worker: Worker) -> "Used":
        """By worker and servers up to now."""
        info = self.redis.info()
        return Used(
            worker_s=cpu_seconds(worker.tree()),
            redis_s=float(info["used_cpu_user"]) + float(info["used_cpu_sys"]),
            server_s=cpu_seconds(list(self.servers)),
            net_bytes=int(info["total_net_input_bytes"]) + int(info["total_net_output_bytes"]),
            commands=int(info["total_commands_processed"]),
            reads=int(info["total_reads_processed"]),
            records=self.ledger.count(),
        )

    def watch(self, worker: Worker, enough: Callable[[int], bool], patience_s: float) -> "Watched":
        """Wait until `enough` of the number of records, or that nothing moves, or too long."""
        start_s = moved_s = time.monotonic()
        records, sampled_s, peak = 0, 0.0, 0
        while True:
            worker.check()
            now_s, before = time.monotonic(), records
            records = self.ledger.count()
            if enough(records):
                return Watched(records, max(peak, sampled_memory(worker.tree())), why="")
            if now_s - sampled_s > SAMPLE_S:
                sampled_s, peak = now_s, max(peak, sampled_memory(worker.tree()))
            moved_s = now_s if records != before else moved_s
            if now_s - start_s > patience_s:
                return Watched(records, peak, why=f"stopped after {patience_s:g} s")
            if now_s - moved_s > patience_s / 2:
                return Watched(records, peak, why=f"stood still for {patience_s / 2:g} s")
            time.sleep(LOOK_S)


@dataclass(frozen=True)
class Watched:
    """What was seen of a worker: records, bytes at the peak, and why it was not enough."""

    records: int
    peak: int
    why: str


@dataclass(frozen=True, kw_only=True)
class Used:
    """Counters of worker and servers at one moment."""

    worker_s: float
    redis_s: float
    server_s: float
    net_bytes: int
    commands: int
    reads: int
    records: int


@contextmanager
def arena(
    rival: Rival,
    conditions: Conditions,
    redis: Store,
    only_waits: Callable[[], None] = lambda: None,
) -> Iterator[Arena]:
    """Empty the store, start what the rival needs; afterwards remove the measurement's files."""
    folder = Path(tempfile.mkdtemp(dir=conditions.folder))
    try:
        redis.empty()
        with ExitStack() as stack:
            servers: tuple[psutil.Process, ...] = ()
            store, url = redis, redis.url
            if rival.server == "faktory":
                try:
                    server = stack.enter_context(Faktory(folder, conditions.fsync))
                except OSError as error:
                    raise Failed(f"its server does not start: {error.strerror}") from None
                servers, store, url = (server.process,), server.store, server.url
            elif rival.kind == "ropeway" and conditions.ropeway_url:
                url = conditions.ropeway_url.replace("{place}", str(folder))
            place = Place(folder=folder, url=url)
            yield Arena(rival, place, store, servers, conditions.size, only_waits)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
