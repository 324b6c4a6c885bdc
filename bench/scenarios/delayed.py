"""Delayed jobs: how late, or early, the handler starts of a job that was to wait two seconds."""

from collections.abc import Sequence

from bench.arena import Arena, Figures
from bench.ledger import percentile
from bench.programs import Failed, enqueue
from bench.roster import Rival
from bench.scenarios.case import Case
from bench.scenarios.latency import lags, until_ready

JOBS = 200
RATE = 200
DELAY = "2000ms"
PATIENCE_S = 20


def cases(rivals: Sequence[Rival]) -> list[Case]:
    """One a rival, by its default."""
    return [
        Case(
            scenario="delayed", rival=one, setting=one.default, concurrency=10, run=_run, once=True
        )
        for one in rivals
    ]


def _run(case: Case, arena: Arena) -> Figures:
    name = case.rival.delayed or case.setting.name
    setting = type(case.setting)(name=name, concurrency=10, ack=case.setting.ack, rate=0)
    sent = arena.place.folder / "sent"
    with arena.worker(setting, case.concurrency, "noop") as worker:
        until_ready(case.rival, setting, arena, worker)
        skip = arena.ledger.count()
        enqueue(
            case.rival,
            arena.place,
            setting=name,
            mode="delayed",
            delay=DELAY,
            rate=RATE,
            jobs=JOBS,
            sent=sent,
        )
        seen = arena.watch(worker, lambda records: records >= skip + JOBS, PATIENCE_S)
    late_ms = sorted(lags(arena, sent, skip))
    if not late_ms:
        raise Failed(f"no delayed job ran: {seen.why}")
    return {
        "p50_ms": percentile(late_ms, 0.5),
        "p99_ms": percentile(late_ms, 0.99),
        "earliest_ms": late_ms[0],
        "in_time_percent": 100 * len(late_ms) / JOBS,
    }
