"""The well-known public method: 20,000 jobs enqueued one after the other, then ten workers.

The seconds from the start of the workers' command to the last job, its own start included; with
fewer than all jobs done in time, what all would take at that rate.
"""

import time
from collections.abc import Sequence

from bench.arena import Arena, Figures
from bench.programs import Failed, enqueue
from bench.roster import Rival
from bench.scenarios.case import Case


def cases(rivals: Sequence[Rival]) -> list[Case]:
    """One a rival, by its default."""
    return [
        Case(
            scenario="classic", rival=one, setting=one.default, concurrency=10, run=_run, once=True
        )
        for one in rivals
    ]


def _run(case: Case, arena: Arena) -> Figures:
    jobs = arena.size.classic_jobs
    answer = enqueue(
        case.rival,
        arena.place,
        setting=case.setting.name,
        mode="single",
        jobs=jobs,
        seconds=arena.size.patience_s / 2,
    )
    wanted = answer["jobs"]
    start_s = time.monotonic()
    with arena.worker(case.setting, case.concurrency, "noop") as worker:
        # One more has warmed the producer up.
        seen = arena.watch(worker, lambda records: records > wanted, arena.size.patience_s)
    done = min(seen.records - 1, wanted)
    last_ns = max((mark.start_ns for mark in arena.ledger.marks()), default=0)
    if not last_ns or done < 1:
        raise Failed(f"no job ran: {seen.why}")
    seconds = last_ns / 1e9 - start_s
    return {
        "jobs": jobs,
        "enqueue_s": answer["seconds"] / wanted * jobs,
        "process_s": seconds / done * jobs,
        "jobs_run": done,
    }
