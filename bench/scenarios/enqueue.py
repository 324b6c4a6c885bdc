"""Enqueueing: one caller, 50 callers, a thousand jobs a call; each for a while, nobody working."""

from collections.abc import Sequence
from contextlib import suppress

from bench.arena import Arena, Figures
from bench.programs import Unsupported, enqueue
from bench.roster import Rival
from bench.scenarios.case import Case

JOBS = 200_000  # at most: time ends it


def cases(rivals: Sequence[Rival]) -> list[Case]:
    """One a rival."""
    return [
        Case(scenario="enqueue", rival=one, setting=one.default, concurrency=0, run=_run)
        for one in rivals
    ]


def _run(case: Case, arena: Arena) -> Figures:
    figures: Figures = {}
    for mode in ("single", "concurrent", "bulk"):
        with suppress(Unsupported):
            arena.redis.empty()
            answer = enqueue(
                case.rival,
                arena.place,
                setting=case.setting.name,
                mode=mode,
                jobs=JOBS,
                seconds=arena.size.enqueue_s,
            )
            figures[f"{mode}_per_s"] = answer["jobs"] / answer["seconds"]
    return figures
