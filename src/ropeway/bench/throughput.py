"""`ropeway bench throughput`: enqueue in three ways, then let one worker run what waits."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final
from uuid import uuid4

from ropeway.app import Ropeway
from ropeway.bench.figures import Answer, Figures
from ropeway.bench.ledger import Ledger
from ropeway.bench.repeating import repeated
from ropeway.bench.serving import Check, serving
from ropeway.bench.tasks import LEDGER_FILE, Subject, TaskName, usage_in
from ropeway.broker import Filter
from ropeway.errors import ConfigError
from ropeway.job import UNFINISHED, State
from ropeway.task import Task
from ropeway.worker.options import Concurrency

PHASE_MAX_S: Final = 5.0
"""How long one by one and concurrent callers may take; what is left is enqueued in bulk."""
LOOK_S: Final = 0.002
LOOK_FAR_S: Final = 0.02
STALLED_S: Final = 60.0


@dataclass(frozen=True, kw_only=True)
class Load:
    """What to measure.

    Of the jobs a tenth is enqueued one by one, three tenths by concurrent callers.
    """

    url: str
    jobs: int = 100_000
    concurrency: int = 50  # of the worker
    task: TaskName = "noop"
    callers: int = 50
    batch: int = 1_000  # jobs a call in bulk
    repeat: int = 1

    def __post_init__(self) -> None:
        for name, least in (
            ("jobs", 10),
            ("concurrency", 1),
            ("callers", 1),
            ("batch", 1),
            ("repeat", 1),
        ):
            if getattr(self, name) < least:
                raise ConfigError(f"--{name} {getattr(self, name)}: give {least} or more")


async def throughput(load: Load) -> Answer:
    """Run the load as often as it says. Rates are jobs per second.

    Raises:
        ConfigError: a setting or the URL cannot be meant.
        RopewayError: the broker or the worker failed.
    """
    shape = {"jobs": load.jobs, "task": load.task, "callers": load.callers, "batch": load.batch}
    return await repeated("throughput", load, shape, partial(_run, load))


async def _run(load: Load, subject: Subject, place: Path) -> Figures:
    queue = f"bench-{uuid4().hex[:12]}"
    with Ledger.create(place / LEDGER_FILE, jobs=load.jobs) as ledger:
        try:
            figures = await _enqueue(load, subject.tasks[load.task].opts(queue=queue))
            run = Drain(load.url, load.jobs, load.concurrency, queue, place)
            figures |= await drain(run, subject.app, ledger)
        finally:
            await subject.app.queues.purge(queue)
        return figures | {"lost": ledger.missing(), "repeated": ledger.repeated()}


# -- enqueueing ------------------------------------------------------------------------------


async def _enqueue(load: Load, task: Task[[int], int]) -> Figures:
    """Enqueue every number once, by three ways of calling."""
    numbers = iter(range(load.jobs))
    one_by_one = await _callers(task, islice(numbers, load.jobs // 10), callers=1)
    concurrent = await _callers(task, islice(numbers, load.jobs * 3 // 10), callers=load.callers)
    left = list(numbers)
    began_s = time.perf_counter()
    for start in range(0, len(left), load.batch):
        await task.enqueue_many(left[start : start + load.batch])
    bulk = len(left) / (time.perf_counter() - began_s)
    return {
        "enqueue_single_per_s": one_by_one,
        "enqueue_concurrent_per_s": concurrent,
        "enqueue_bulk_per_s": bulk,
    }


async def _callers(task: Task[[int], int], numbers: Iterator[int], *, callers: int) -> float:
    """So many callers, each with one call at a time; jobs per second."""
    began_s = time.perf_counter()
    give_up_s = began_s + PHASE_MAX_S

    async def call() -> int:
        done = 0
        while time.perf_counter() < give_up_s and (number := next(numbers, None)) is not None:
            await task.enqueue(number)
            done += 1
        return done

    async with asyncio.TaskGroup() as group:
        counts = [group.create_task(call()) for _ in range(callers)]
    return sum(count.result() for count in counts) / (time.perf_counter() - began_s)


# -- draining --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drain:
    """A queue to be worked off: how many jobs, by a worker of which concurrency, from where."""

    url: str
    jobs: int
    concurrency: Concurrency
    queue: str
    place: Path


async def drain(run: Drain, app: Ropeway[Ledger], ledger: Ledger) -> Figures:
    """Let one worker run everything; from the first start until the store has no job left to do."""
    queue, place = run.queue, run.place
    served = serving(app, url=run.url, queue=queue, concurrency=run.concurrency, place=place)
    async with served as check:
        await _until_done(app, queue, ledger, check)
        ended_ns = time.monotonic_ns()
        completed = await app.jobs.count(Filter(queue=queue, states=frozenset({State.COMPLETED})))
    seconds = (ended_ns - ledger.first_start_ns()) / 1e9
    usage = usage_in(place)
    return {
        "drain_per_s": run.jobs / seconds,
        "cpu_us_per_job": usage.cpu_s * 1e6 / run.jobs,
        "rss_mb": usage.rss_bytes / 1e6,
        "records_kept": completed,
    }


async def _until_done(app: Ropeway[Ledger], queue: str, ledger: Ledger, check: Check) -> None:
    """Wait until no job of the queue is unfinished, or nothing has moved for a minute.

    While jobs are yet to begin, only the ledger is looked at, which costs the store nothing.
    """
    unfinished = Filter(queue=queue, states=UNFINISHED)
    moved_s = time.monotonic()
    before = -1
    while True:
        check()
        missing = ledger.missing()
        if missing == 0 and await app.jobs.count(unfinished) == 0:
            return
        now_s = time.monotonic()
        if missing != before:
            before, moved_s = missing, now_s
        elif now_s - moved_s > STALLED_S:
            return
        await asyncio.sleep(LOOK_S if missing == 0 else LOOK_FAR_S)
