"""`ropeway bench flow`: what limits and fair turns cost, beside the same jobs without them."""

import statistics
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final
from uuid import uuid4

from ropeway.bench.figures import Answer, Figures
from ropeway.bench.ledger import Ledger
from ropeway.bench.repeating import repeated
from ropeway.bench.tasks import FLOW_KINDS, KEY_SLOTS, LEDGER_FILE, FlowKind, Subject
from ropeway.bench.throughput import Drain, drain
from ropeway.errors import ConfigError

KEYS: Final = 1_000


@dataclass(frozen=True, kw_only=True)
class FlowLoad:
    """What to measure: so many jobs of each kind, in rounds of one queue a kind."""

    url: str
    jobs: int = 20_000
    concurrency: int = 200  # of the worker: fair jobs are not fetched ahead of free handlers
    batch: int = 1_000  # jobs a call
    rounds: int = 3
    repeat: int = 1

    def __post_init__(self) -> None:
        for name, least in (("jobs", 10), ("concurrency", 1), ("batch", 1), ("rounds", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"--{name} {getattr(self, name)}: give {least} or more")


async def flow(load: FlowLoad) -> Answer:
    """Enqueue and drain jobs of every kind in turns; rates per second and their ratios.

    A ratio is the median over the rounds of a kind's rate to that of plain jobs in its round.

    Raises:
        ConfigError: a setting or the URL cannot be meant.
        RopewayError: the broker or the worker failed.
    """
    shape = {
        "jobs": load.jobs,
        "rounds": load.rounds,
        "keys": KEYS,
        "slots_per_key": KEY_SLOTS,
        "batch": load.batch,
    }
    return await repeated("flow", load, shape, partial(_run, load))


async def _run(load: FlowLoad, subject: Subject, place: Path) -> Figures:
    rates: dict[FlowKind, list[Figures]] = {kind: [] for kind in FLOW_KINDS}
    lost = again = 0.0
    for at in range(load.rounds):
        # The next round begins with another kind: none is always the first after a pause.
        for kind in (*FLOW_KINDS[at % 4 :], *FLOW_KINDS[: at % 4]):
            figures = await _measure(load, subject, kind, place)
            lost += figures.pop("lost")
            again += figures.pop("repeated")
            rates[kind].append(figures)
    found: Figures = {}
    for kind in FLOW_KINDS:
        for what in ("drain", "enqueue"):
            found[f"{what}_{kind}_per_s"] = statistics.median(run[what] for run in rates[kind])
    for kind in FLOW_KINDS[1:]:
        found[f"ratio_{kind}"] = _ratio("drain", rates[kind], rates["plain"])
        found[f"ratio_{kind}_enqueue"] = _ratio("enqueue", rates[kind], rates["plain"])
    return {**found, "lost": lost, "repeated": again}


def _ratio(what: str, some: list[Figures], plain: list[Figures]) -> float:
    pairs = zip(some, plain, strict=True)
    return statistics.median(mine[what] / other[what] for mine, other in pairs)


async def _measure(load: FlowLoad, subject: Subject, kind: FlowKind, place: Path) -> Figures:
    queue = f"bench-{kind}-{uuid4().hex[:8]}"
    task = subject.flow[kind].opts(queue=queue)
    with Ledger.create(place / LEDGER_FILE, jobs=load.jobs) as ledger:
        try:
            began_s = time.perf_counter()
            for start in range(0, load.jobs, load.batch):
                numbers = range(start, min(load.jobs, start + load.batch))
                calls = [task.s(number, f"key-{number % KEYS}") for number in numbers]
                await subject.app.enqueue_many(calls)
            enqueue = load.jobs / (time.perf_counter() - began_s)
            run = Drain(load.url, load.jobs, load.concurrency, queue, place)
            drained = await drain(run, subject.app, ledger)
        finally:
            await subject.app.queues.purge(queue)
        return {
            "enqueue": enqueue,
            "drain": drained["drain_per_s"],
            "lost": ledger.missing(),
            "repeated": ledger.repeated(),
        }
