"""Draining: jobs wait, a worker starts; from the first start of a handler to the last end."""

import time
from collections.abc import Sequence

from bench.arena import Arena, Figures, Used, Watched
from bench.ledger import Span
from bench.programs import Failed, Worker, enqueue
from bench.roster import Rival
from bench.scenarios.case import Case

SETTLE_S = 0.1  # for the acknowledgements of the last jobs


def cases(rivals: Sequence[Rival]) -> list[Case]:
    """No-op jobs, by every setting of every rival."""
    return [
        Case(scenario="drain", rival=one, setting=setting, concurrency=setting.concurrency, run=run)
        for one in rivals
        for setting in one.settings
    ]


def sleep_cases(rivals: Sequence[Rival]) -> list[Case]:
    """Jobs that wait for a millisecond, 100 at once where the rival can."""
    return [_busy("sleep1ms", one, one.busy[1]) for one in rivals]


def cpu_cases(rivals: Sequence[Rival]) -> list[Case]:
    """Plain functions that compute for some 100 microseconds, 10 at once."""
    return [_busy("cpu", one, 10) for one in rivals]


def _busy(task: str, rival: Rival, concurrency: int) -> Case:
    setting = rival.setting(rival.busy[0])
    return Case(scenario=task, rival=rival, setting=setting, concurrency=concurrency, run=run)


def run(case: Case, arena: Arena) -> Figures:
    """Fill, then drain."""
    task = "noop" if case.scenario == "drain" else case.scenario
    jobs = arena.size.drain_jobs(case.setting)
    if task == "cpu":
        jobs = min(jobs, 20_000)  # 100 us each are two seconds of one core
    empty_bytes = int(arena.redis.info()["used_memory"])
    enqueue(case.rival, arena.place, setting=case.setting.name, mode="fill", jobs=jobs)
    waiting_bytes = int(arena.redis.info()["used_memory"]) - empty_bytes
    with arena.worker(case.setting, case.concurrency, task) as worker:
        used, watched = measure(arena, worker, jobs)
    figures = rates(arena, jobs, watched) | used
    if task == "noop" and arena.in_redis:
        figures["bytes_waiting"] = waiting_bytes / jobs
    return figures


def measure(arena: Arena, worker: Worker, jobs: int) -> tuple[Figures, Watched]:
    """Wait until all jobs have run; what that took of worker and servers, a job."""
    patience_s = arena.size.patience_s
    started = arena.watch(worker, lambda records: records > 0, patience_s)
    if not started.records:
        raise Failed(f"its worker began no job: {started.why}")
    before = arena.used(worker)
    watched = arena.watch(worker, lambda records: records >= jobs, patience_s)
    time.sleep(SETTLE_S)
    after = arena.used(worker)
    used = _a_job(before, after)
    if not arena.in_redis:
        used = {"worker_us": used["worker_us"]} if used else {}
    return {**used, "rss_mb": watched.peak / 1e6}, watched


def rates(arena: Arena, jobs: int, watched: Watched) -> Figures:
    """Jobs a second, and whether every job ran once."""
    span = Span.of(list(arena.ledger.marks()))
    if not span.seconds:
        raise Failed(f"{span.jobs} of {jobs} jobs ran: {watched.why}")
    return {
        "per_s": span.jobs / span.seconds,
        "jobs": jobs,
        "missing": jobs - span.jobs,
        "repeated": span.records - span.jobs,
    }


def _a_job(before: Used, after: Used) -> Figures:
    jobs = after.records - before.records
    if jobs < 100:  # over before it could be watched
        return {}
    return {
        "worker_us": (after.worker_s - before.worker_s) * 1e6 / jobs,
        "redis_us": (after.redis_s - before.redis_s) * 1e6 / jobs,
        "server_us": (after.server_s - before.server_s) * 1e6 / jobs,
        "net_bytes": (after.net_bytes - before.net_bytes) / jobs,
        "commands": (after.commands - before.commands) / jobs,
        "round_trips": (after.reads - before.reads) / jobs,
    }
