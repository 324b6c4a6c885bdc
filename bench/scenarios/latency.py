"""Latency: from the call that enqueues to the start of the handler, of a worker with time."""

import struct
from collections.abc import Sequence
from pathlib import Path

from bench.arena import Arena, Figures
from bench.ledger import FIRST, percentile
from bench.programs import Failed, Worker, enqueue
from bench.roster import Rival, Setting
from bench.scenarios.case import Case

RATES = (200, 2_000)
HOPELESS = 10  # times the rate of a setting: its queue would only grow
ALSO = {("asynq", "best"), ("arq", "best"), ("rq", "simple")}  # that poll more often, or fork less


def cases(rivals: Sequence[Rival]) -> list[Case]:
    """By the default of each rival, and by its best setting where polling is what makes it slow."""
    return [
        Case(scenario="latency", rival=one, setting=setting, concurrency=10, run=_run)
        for one in rivals
        for setting in one.settings
        if setting is one.default or (one.name, setting.name) in ALSO
    ]


def _run(case: Case, arena: Arena) -> Figures:
    figures: Figures = {}
    with arena.worker(case.setting, case.concurrency, "noop") as worker:
        until_ready(case.rival, case.setting, arena, worker)
        for rate in RATES:
            if rate > HOPELESS * case.setting.rate:
                continue
            skip = arena.ledger.count()
            jobs = int(rate * arena.size.pace_s)
            sent = arena.place.folder / "sent"
            answer = enqueue(
                case.rival,
                arena.place,
                setting=case.setting.name,
                mode="paced",
                rate=rate,
                jobs=jobs,
                sent=sent,
            )
            wanted = skip + jobs + 20  # with those that warmed up
            seen = arena.watch(worker, lambda records, w=wanted: records >= w, 30)
            lags_ms = sorted(lag_ms for lag_ms in lags(arena, sent, skip))
            if not lags_ms:
                raise Failed(f"no job ran at {rate} jobs/s: {seen.why}")
            figures[f"at_{rate}_p50_ms"] = percentile(lags_ms, 0.5)
            figures[f"at_{rate}_p99_ms"] = percentile(lags_ms, 0.99)
            figures[f"at_{rate}_reached_per_s"] = answer["jobs"] / answer["seconds"]
    return figures


def until_ready(rival: Rival, setting: Setting, arena: Arena, worker: Worker) -> None:
    """Let the worker run a first job, so that its own start is not measured."""
    enqueue(rival, arena.place, setting=setting.name, mode="single", jobs=0)
    if not arena.watch(worker, lambda records: records > 0, 30).records:
        raise Failed("its worker began no job within 30 s")


def lags(arena: Arena, sent: Path, skip: int) -> list[float]:
    """Milliseconds from the time in the file `sent` to the first start of each job that ran."""
    data = sent.read_bytes()
    times = struct.unpack(f"<{len(data) // 8}q", data)
    starts: dict[int, int] = {}
    for mark in arena.ledger.marks(skip):
        starts.setdefault(mark.number, mark.start_ns)
    return [(start_ns - times[number - FIRST]) / 1e6 for number, start_ns in starts.items()]
