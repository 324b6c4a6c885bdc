"""`ropeway bench latency`: from the call of `enqueue` to the start of the handler, at a given rate.

The worker is idle but for these jobs. Jobs are sent at fixed times whether or not earlier calls
have returned, so that a slow moment is not hidden by the producer waiting for it.
"""

import asyncio
import time
from array import array
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final
from uuid import uuid4

from ropeway.bench.figures import Answer, Figures, percentile
from ropeway.bench.ledger import Ledger
from ropeway.bench.repeating import repeated
from ropeway.bench.serving import Check, serving
from ropeway.bench.tasks import LEDGER_FILE, Subject, TaskName
from ropeway.errors import ConfigError, RopewayError
from ropeway.task import Task

WARM_UP: Final = 20
"""Jobs before the measured ones: the worker imports, opens and prepares with the first."""
PATIENCE_S: Final = 60.0


@dataclass(frozen=True, kw_only=True)
class Pace:
    """What to measure: `rate` jobs a second for so many `seconds`."""

    url: str
    rate: float = 200.0
    seconds: float = 10.0
    concurrency: int = 50  # of the worker
    task: TaskName = "noop"
    repeat: int = 1

    def __post_init__(self) -> None:
        if self.rate <= 0 or self.seconds <= 0 or self.jobs < 1:
            raise ConfigError(
                f"--rate {self.rate:g} for --seconds {self.seconds:g} gives no job; give more"
            )
        for name in ("concurrency", "repeat"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name} {getattr(self, name)}: give 1 or more")

    @property
    def jobs(self) -> int:
        """How many jobs are measured."""
        return int(self.rate * self.seconds)


async def latency(pace: Pace) -> Answer:
    """Measure as often as `pace` says. Percentiles are by nearest rank over all jobs of a run.

    Raises:
        ConfigError: a setting or the URL cannot be meant.
        RopewayError: the broker or the worker failed.
    """
    shape = {"jobs": pace.jobs, "rate": pace.rate, "seconds": pace.seconds, "task": pace.task}
    return await repeated("latency", pace, shape, partial(_run, pace))


async def _run(pace: Pace, subject: Subject, place: Path) -> Figures:
    queue = f"bench-{uuid4().hex[:12]}"
    task = subject.tasks[pace.task].opts(queue=queue)
    with Ledger.create(place / LEDGER_FILE, jobs=WARM_UP + pace.jobs) as ledger:
        served = serving(
            subject.app, url=pace.url, queue=queue, concurrency=pace.concurrency, place=place
        )
        try:
            async with served as check:
                for number in range(WARM_UP):
                    await task.enqueue(number)
                    await _until_begun(ledger, number, check)
                sent = Sent(task, first=WARM_UP, jobs=pace.jobs)
                reached = await sent.at(pace.rate)
                await _until_all_begun(ledger, check)
        finally:
            await subject.app.queues.purge(queue)
        return _figures(sent, ledger, reached)


class Sent:
    """Sends jobs at a rate, and notes when each call began and returned."""

    def __init__(self, task: Task[[int], int], *, first: int, jobs: int) -> None:
        self._task = task
        self.first = first
        self.called_ns: array[int] = array("q", bytes(8 * jobs))
        self.returned_ns: array[int] = array("q", bytes(8 * jobs))

    async def at(self, rate: float) -> float:
        """Send all of them; the rate that was reached."""
        began_s = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for place in range(len(self.called_ns)):
                wait_s = began_s + place / rate - time.monotonic()
                if wait_s > 0:
                    await asyncio.sleep(wait_s)
                group.create_task(self._send(place))
            return len(self.called_ns) / (time.monotonic() - began_s + 1 / rate)

    async def _send(self, place: int) -> None:
        self.called_ns[place] = time.monotonic_ns()
        await self._task.enqueue(self.first + place)
        self.returned_ns[place] = time.monotonic_ns()


def _figures(sent: Sent, ledger: Ledger, reached: float) -> Figures:
    calls = list(enumerate(sent.called_ns))
    started = [
        (start_ns - called_ns) / 1e6
        for place, called_ns in calls
        if (start_ns := ledger.start_ns(sent.first + place))
    ]
    stored = sorted((sent.returned_ns[place] - called_ns) / 1e6 for place, called_ns in calls)
    if not started:
        raise RopewayError(f"none of {len(calls)} jobs began within {PATIENCE_S:g} s")
    started.sort()
    return {
        "p50_ms": percentile(started, 0.50),
        "p90_ms": percentile(started, 0.90),
        "p99_ms": percentile(started, 0.99),
        "max_ms": started[-1],
        "enqueue_p50_ms": percentile(stored, 0.50),
        "enqueue_p99_ms": percentile(stored, 0.99),
        "rate_reached_per_s": reached,
        "lost": ledger.missing(),
        "repeated": ledger.repeated(),
    }


async def _until_begun(ledger: Ledger, number: int, check: Check) -> None:
    give_up_s = time.monotonic() + PATIENCE_S
    while not ledger.start_ns(number):
        check()
        if time.monotonic() > give_up_s:
            raise RopewayError(f"the worker began no job within {PATIENCE_S:g} s")
        await asyncio.sleep(0.005)


async def _until_all_begun(ledger: Ledger, check: Check) -> None:
    give_up_s = time.monotonic() + PATIENCE_S
    while ledger.missing() and time.monotonic() < give_up_s:
        check()
        await asyncio.sleep(0.02)
