"""SIGKILL to every process of the worker, five times, while it runs jobs of 20 milliseconds.

A new worker starts at once. Then it may work until every job has ended, or up to the cap.
"""

import time
from collections.abc import Sequence
from typing import Final

from bench.arena import Arena, Figures
from bench.ledger import BEGUN, percentile
from bench.programs import Worker, enqueue
from bench.roster import Rival, Setting
from bench.scenarios.case import Case

KILLS: Final = 5
STALLED_S: Final = 15.0
PHASE_S: Final = 60.0  # at most, from one kill to the next
LOOK_S: Final = 0.02
LOOK_CLOSELY_S: Final = 0.002
MIDDLE_S: Final = 3.0
SLOW_RATE: Final = 100  # jobs a second: below, fewer jobs


def cases(rivals: Sequence[Rival]) -> list[Case]:
    """One a rival and way of acknowledging."""
    chosen: list[Case] = []
    for one in rivals:
        acks: set[str] = set()
        for setting in one.settings:
            if setting.ack not in acks:
                acks.add(setting.ack)
                chosen.append(_case(one, setting))
    return chosen


def _case(rival: Rival, setting: Setting) -> Case:
    return Case(
        scenario="crash",
        rival=rival,
        setting=setting,
        concurrency=10,
        run=_run,
        once=True,
        apart=True,
    )


def _run(case: Case, arena: Arena) -> Figures:
    size = arena.size
    jobs = size.crash_jobs if case.setting.rate >= SLOW_RATE else size.crash_jobs // 5
    enqueue(case.rival, arena.place, setting=case.setting.name, mode="fill", jobs=jobs)
    watch = _Watch(arena)
    killed_ns: list[int] = []
    for kill in range(1, KILLS + 1):
        with arena.worker(case.setting, case.concurrency, "slow") as worker:
            watch.until(worker, jobs * kill // (KILLS + 1), STALLED_S, at_most_s=PHASE_S)
            watch.until_in_the_middle(worker)
            worker.kill()
            killed_ns.append(time.monotonic_ns())
    arena.only_waits()
    with arena.worker(case.setting, case.concurrency, "slow") as worker:
        watch.until(worker, jobs, size.crash_cap_s, at_most_s=size.crash_cap_s)
    return _figures(arena, jobs, killed_ns)


class _Watch:
    """Counts the jobs that have ended, reading each record once."""

    def __init__(self, arena: Arena) -> None:
        self._ledger = arena.ledger
        self._read = 0
        self._ended: set[int] = set()
        self._open: set[int] = set()

    def until(self, worker: Worker, wanted: int, stalled_s: float, *, at_most_s: float) -> None:
        """Wait for so many jobs that have ended, or until none has for that long."""
        moved_s = time.monotonic()
        give_up_s = moved_s + at_most_s
        while (now_s := time.monotonic()) < give_up_s and now_s - moved_s < stalled_s:
            worker.check()
            before = len(self._ended)
            self._look()
            if len(self._ended) >= wanted:
                return
            if len(self._ended) != before:
                moved_s = time.monotonic()
            time.sleep(LOOK_S)

    def until_in_the_middle(self, worker: Worker) -> None:
        """Wait until a job has begun just now: one that polls may have none at a given moment."""
        self._open.clear()
        give_up_s = time.monotonic() + MIDDLE_S
        while not self._open and time.monotonic() < give_up_s:
            worker.check()
            time.sleep(LOOK_CLOSELY_S)
            self._look()

    def _look(self) -> None:
        marks = list(self._ledger.marks(self._read))
        self._read += len(marks)
        for mark in marks:
            if mark.length_us == BEGUN:
                self._open.add(mark.number)
            else:
                self._ended.add(mark.number)
                self._open.discard(mark.number)


def _figures(arena: Arena, jobs: int, killed_ns: list[int]) -> Figures:
    begun: dict[int, list[int]] = {}
    ended: dict[int, list[int]] = {}
    for mark in arena.ledger.marks():
        if mark.length_us == BEGUN:
            begun.setdefault(mark.number, []).append(mark.start_ns)
        else:
            ended.setdefault(mark.number, []).append(mark.start_ns)
    interrupted = 0
    back_s: list[float] = []
    for number, starts in begun.items():
        for start_ns in set(starts) - set(ended.get(number, ())):
            interrupted += 1
            kill_ns = next((at for at in killed_ns if at > start_ns), start_ns)
            later = [start for start in starts if start > kill_ns]
            back_s += [(min(later) - kill_ns) / 1e9] if later else []
    back_s.sort()
    figures = {
        "jobs": float(jobs),
        "interrupted": float(interrupted),
        "run_again": float(len(back_s)),
        "missing": float(jobs - len(ended)),
        "repeated": float(sum(len(times) - 1 for times in ended.values())),
    }
    if back_s:
        figures |= {"again_p50_s": percentile(back_s, 0.5), "again_max_s": back_s[-1]}
    return figures
