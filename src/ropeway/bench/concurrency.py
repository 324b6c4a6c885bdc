"""`ropeway bench concurrency`: four kinds of work with fixed numbers of slots and with "auto"."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final
from uuid import uuid4

from ropeway.bench.figures import Answer, Figures
from ropeway.bench.ledger import Ledger
from ropeway.bench.repeating import repeated
from ropeway.bench.tasks import LEDGER_FILE, WORK_KINDS, Subject, WorkKind
from ropeway.bench.throughput import Drain, drain
from ropeway.errors import ConfigError
from ropeway.worker.options import Concurrency

FIXED: Final = (1, 4, 16, 64, 256, 1_024)
SETTINGS: Final[tuple[Concurrency, ...]] = (*FIXED, "auto")
BATCH: Final = 1_000

JOBS_PER_S: Final[Mapping[WorkKind, int]] = {
    "noop": 60_000,
    "io": 40_000,
    "cpu": 2_000,
    "mixed": 5_000,
}
"""About what a worker does of each kind at its best, so that all kinds take about as long."""
JOBS_PER_S_AND_SLOT: Final[Mapping[WorkKind, int]] = {
    "noop": 60_000,
    "io": 100,
    "cpu": 2_000,
    "mixed": 270,
}
"""What a slot does alone: with few slots, fewer jobs take the same time."""


@dataclass(frozen=True, kw_only=True)
class ConcurrencyLoad:
    """What to measure: so many seconds of work of each kind and setting, in rounds."""

    url: str
    seconds: float = 2.0
    rounds: int = 3
    repeat: int = 1

    def __post_init__(self) -> None:
        if self.seconds <= 0:
            raise ConfigError(f"--seconds {self.seconds}: give more than 0")
        if self.rounds < 1:
            raise ConfigError(f"--rounds {self.rounds}: give 1 or more")

    @property
    def concurrency(self) -> str:
        """Of the worker: all that are measured."""
        return ",".join(map(str, SETTINGS))

    def jobs(self, kind: WorkKind, setting: Concurrency) -> int:
        """How many jobs of a kind take about `seconds`."""
        rate = JOBS_PER_S[kind]
        if setting != "auto":
            rate = min(rate, JOBS_PER_S_AND_SLOT[kind] * setting)
        return max(10, round(rate * self.seconds))


async def concurrency(load: ConcurrencyLoad) -> Answer:
    """Drain each kind of work with each setting in turns; rates per second and their ratios.

    `ratio_KIND_SETTING` is a setting's rate to that of the fixed setting with the highest median,
    the median over the rounds of their ratios in one round. `geomean_SETTING` is the geometric mean
    of these over the kinds.

    Raises:
        ConfigError: a setting or the URL cannot be meant.
        RopewayError: the broker or the worker failed.
    """
    shape = {"seconds": load.seconds, "rounds": load.rounds}
    return await repeated("concurrency", load, shape, partial(_run, load))


async def _run(load: ConcurrencyLoad, subject: Subject, place: Path) -> Figures:
    rates: dict[tuple[WorkKind, Concurrency], list[float]] = {}
    lost = again = 0.0
    for at in range(load.rounds):
        first = at * 3 % len(SETTINGS)  # the next round begins with another setting
        for kind in WORK_KINDS:
            for setting in (*SETTINGS[first:], *SETTINGS[:first]):
                figures = await _measure(load, subject, kind, setting, place)
                lost += figures["lost"]
                again += figures["repeated"]
                rates.setdefault((kind, setting), []).append(figures["drain_per_s"])
    return {**_compared(rates), "lost": lost, "repeated": again}


def _compared(rates: Mapping[tuple[WorkKind, Concurrency], list[float]]) -> Figures:
    """Medians, their ratios to the best fixed setting of the kind, and the means of these."""
    found: Figures = {}
    ratios: dict[tuple[WorkKind, Concurrency], float] = {}
    for kind in WORK_KINDS:
        medians = {at: statistics.median(rates[kind, at]) for at in SETTINGS}
        best = rates[kind, max(FIXED, key=medians.__getitem__)]
        for at in SETTINGS:
            pairs = zip(rates[kind, at], best, strict=True)
            ratios[kind, at] = statistics.median(mine / other for mine, other in pairs)
            found[f"{kind}_{at}_per_s"] = medians[at]
            found[f"ratio_{kind}_{at}"] = ratios[kind, at]
    for at in SETTINGS:
        found[f"geomean_{at}"] = statistics.geometric_mean(ratios[kind, at] for kind in WORK_KINDS)
    return found


async def _measure(
    load: ConcurrencyLoad, subject: Subject, kind: WorkKind, setting: Concurrency, place: Path
) -> Figures:
    jobs = load.jobs(kind, setting)
    queue = f"bench-{kind}-{uuid4().hex[:8]}"
    tasks = [task.opts(queue=queue) for task in subject.work[kind]]
    with Ledger.create(place / LEDGER_FILE, jobs=jobs) as ledger:
        try:
            for start in range(0, jobs, BATCH):
                numbers = range(start, min(jobs, start + BATCH))
                calls = [tasks[number % len(tasks)].s(number) for number in numbers]
                await subject.app.enqueue_many(calls)
            drained = await drain(Drain(load.url, jobs, setting, queue, place), subject.app, ledger)
        finally:
            await subject.app.queues.purge(queue)
        return {
            "drain_per_s": drained["drain_per_s"],
            "lost": ledger.missing(),
            "repeated": ledger.repeated(),
        }
