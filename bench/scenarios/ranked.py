"""Priorities: as many jobs of three levels, mixed, wait; how well a worker keeps to their order."""

from collections.abc import Sequence

from bench.arena import Arena, Figures
from bench.ledger import FIRST
from bench.programs import enqueue
from bench.roster import Rival
from bench.scenarios import drain
from bench.scenarios.case import Case


def cases(rivals: Sequence[Rival]) -> list[Case]:
    """One a rival, by its default."""
    return [
        Case(scenario="ranked", rival=one, setting=one.default, concurrency=10, run=_run, once=True)
        for one in rivals
    ]


def _run(case: Case, arena: Arena) -> Figures:
    jobs = min(6_000, arena.size.drain_jobs(case.setting)) // 3 * 3
    enqueue(case.rival, arena.place, setting=case.setting.name, mode="ranked", jobs=jobs)
    with arena.worker(case.setting, case.concurrency, "noop", ranked=True) as worker:
        _, watched = drain.measure(arena, worker, jobs)
    marks = sorted(arena.ledger.marks(), key=lambda mark: mark.start_ns)
    first_third = marks[: jobs // 3]
    high = sum((mark.number - FIRST) % 3 == 2 for mark in first_third)
    figures = drain.rates(arena, jobs, watched)
    return {**figures, "high_in_first_third_percent": 100 * high / len(first_third)}
