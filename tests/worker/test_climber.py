"""How the number of slots is found: the pure climber, with simulated work on a virtual clock."""

import functools
from dataclasses import replace
from random import Random

import pytest
from simulated_work import CPU, IO, NOOP, Kind, Work, rate_of

from ropeway.worker.autopilot.climber import Climber
from ropeway.worker.autopilot.guards import LAG_MAX_S, LagGuard
from ropeway.worker.autopilot.window import Look

FIXED = (1, 4, 16, 64, 256, 1_024)
DOWNSTREAM = Kind(waits_s=0.01, servers=20)
"""Somebody who serves 20 of these at a time: 2,000 a second, however many ask."""
SLOW = Kind(waits_s=1.0)
LOADS = {
    "noop": (NOOP,),
    "io": (IO,),
    "cpu": (CPU,),
    "mixed": (NOOP, IO, CPU),
    "downstream": (DOWNSTREAM,),
    "slow": (SLOW,),
}


def at_work(*kinds: Kind, start: int = 32, most: int = 1_024, memory_max_bytes: int = 0) -> Work:
    return Work(Climber(start=start, most=most, memory_max_bytes=memory_max_bytes), kinds)


@functools.cache
def best_of(kinds: tuple[Kind, ...]) -> float:
    return max(rate_of(kinds, limit) for limit in FIXED)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("load", LOADS)
def test_each_load_ends_within_a_tenth_of_its_best_fixed_setting(load: str, seed: int) -> None:
    work = at_work(*LOADS[load])
    work.random = Random(seed)
    work.run(8)
    assert work.run(8) >= 0.9 * best_of(LOADS[load])


@pytest.mark.parametrize("load", ["noop", "io", "cpu", "mixed"])
@pytest.mark.parametrize("noise", [0.5, 1.0])
def test_jobs_that_take_very_different_times_do_not_mislead_it(load: str, noise: float) -> None:
    kinds = tuple(replace(kind, noise=noise) for kind in LOADS[load])
    work = at_work(*kinds)
    work.run(6)
    assert work.run(6) >= 0.9 * best_of(kinds)


def test_jobs_that_wait_10_ms_get_hundreds_of_slots_within_a_tenth_of_a_second() -> None:
    work = at_work(replace(IO, computes_s=0.000_01))
    work.run(0.1)
    assert work.climber.limit >= 512


def test_threads_that_compute_get_few_slots() -> None:
    work = at_work(CPU)
    work.run(10)
    assert work.climber.settled <= 4
    assert max(work.limits) <= 64


def test_a_service_that_serves_20_at_a_time_is_not_asked_by_hundreds() -> None:
    work = at_work(DOWNSTREAM)
    work.run(10)
    assert 16 <= work.climber.settled <= 64
    assert max(work.limits) <= 128


def test_jobs_that_end_at_their_first_step_say_nothing_about_slots() -> None:
    work = at_work(NOOP)
    work.run(5)
    assert not work.changes


@pytest.mark.parametrize("load", LOADS)
def test_once_settled_it_only_tries_the_neighbours_and_ever_more_seldom(load: str) -> None:
    work = at_work(*LOADS[load])
    work.run(20)
    settled = work.climber.settled
    work.limits.clear()
    work.changes.clear()
    work.run(20)
    assert settled / 4 <= min(work.limits) <= max(work.limits) <= settled * 4
    assert len(work.changes) <= 12


def test_it_never_leaves_its_bounds() -> None:
    work = at_work(SLOW, most=100)
    work.run(20)
    assert work.climber.settled == 100
    assert max(work.limits) == 100
    work = at_work(CPU, start=1)
    work.run(5)
    assert min(work.limits) == 1


def test_without_boldness_it_climbs_by_two() -> None:
    work = Work(Climber(start=2, most=64, bold=False), (IO,))
    work.run(2)
    assert work.climber.settled == 64
    steps = [change.limit for _, change in work.changes]
    assert steps[:5] == [4, 8, 16, 32, 64]


# -- when there is nothing to do -------------------------------------------------------------


def test_an_empty_queue_is_no_reason_for_any_number() -> None:
    work = at_work(IO)
    work.run(2)
    settled = work.climber.settled
    work.backlog = 0
    work.run(10)
    assert work.climber.limit == settled
    assert work.climber.next_look_s >= 0.05


def test_a_trial_that_runs_out_of_jobs_is_taken_back() -> None:
    work = at_work(IO)
    work.backlog = 80  # enough to begin it, and not to tell
    work.run(3)
    assert [change.settled for _, change in work.changes] == [32, 32]
    assert work.climber.limit == 32


def test_a_trickle_of_jobs_changes_nothing() -> None:
    work = at_work(IO)
    work.backlog = 0
    for _ in range(200):
        work.backlog += 3
        work.run(0.05)
    assert work.climber.limit == 32
    assert not work.changes


def test_bursts_with_rests_between_them_reach_the_same_number() -> None:
    work = at_work(SLOW)
    for _ in range(8):
        work.backlog = 4_000
        work.run(20)
    assert work.climber.settled == 1_024


# -- when the jobs change --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "then"), [("io", "cpu"), ("cpu", "io"), ("noop", "io"), ("io", "mixed")]
)
def test_other_jobs_get_their_own_number_within_seconds(first: str, then: str) -> None:
    work = at_work(*LOADS[first])
    work.run(6)
    work.kinds = LOADS[then]
    work.run(8)
    assert work.run(6) >= 0.9 * best_of(LOADS[then])


def test_slots_that_a_busy_process_cannot_fill_are_dropped() -> None:
    work = at_work(SLOW)
    work.run(10)
    climber = work.climber
    assert climber.limit == 1_024
    at_s, ended, cpu_s = work.now_s, work.ended, work.cpu_s
    for _ in range(40):  # threads compute, and the loop seldom gets to begin one more
        at_s, ended, cpu_s = at_s + 0.05, ended + 100, cpu_s + 0.05
        climber.look(Look(at_s=at_s, ended=ended, busy=100, waiting=500, cpu_s=cpu_s, lag_s=0.04))
    assert climber.settled <= 100


def test_jobs_that_hold_no_slot_leave_a_busy_process_its_slots() -> None:
    work = at_work(SLOW)
    work.run(10)
    work.kinds = (NOOP,)
    work.run(10)
    assert work.climber.settled == 1_024


# -- guards ----------------------------------------------------------------------------------


def test_near_the_memory_limit_nothing_grows() -> None:
    work = at_work(IO, memory_max_bytes=1_000)
    work.memory_bytes = 850
    work.run(5)
    assert max(work.limits) == 32
    assert work.climber.may_fetch_ahead


def test_short_of_memory_slots_are_halved_until_it_stops_growing() -> None:
    work = at_work(SLOW, memory_max_bytes=10_000)
    work.run(10)
    assert work.climber.limit == 1_024
    work.memory_bytes = 9_000
    work.run(2)
    assert work.climber.limit == 512
    assert not work.climber.may_fetch_ahead
    assert "memory is short" in work.changes[-1][1].why
    work.run(30)
    assert work.climber.settled >= 256  # it does not fall for memory alone
    work.memory_bytes = 9_500
    work.run(2)
    assert work.climber.settled <= 256
    work.memory_bytes = 1_000
    work.run(60)
    assert work.climber.settled == 1_024
    assert work.climber.may_fetch_ahead


def test_a_late_loop_gets_fewer_slots() -> None:
    work = at_work(SLOW)
    work.run(10)
    for _ in range(6):  # as late as there are slots
        work.lag_s = work.climber.limit / 1_000
        work.run(1)
    assert work.climber.settled <= 256
    assert any("ms late" in change.why for _, change in work.changes)


def test_a_handler_that_blocks_the_loop_costs_others_their_slots_once() -> None:
    work = at_work(SLOW)
    work.run(10)
    work.lag_s = 1.0  # whatever the number of slots is
    work.run(60)
    assert work.climber.settled >= 256


def test_the_lag_guard_speaks_again_only_where_it_helped_or_matters_got_worse() -> None:
    guard = LagGuard()

    def late(lag_s: float, at_s: float) -> bool:
        look = Look(at_s=at_s, ended=0, busy=0, waiting=0, cpu_s=0, lag_s=lag_s)
        return [guard.objects(look) for _ in range(3)][-1]

    assert not late(LAG_MAX_S / 2, 0)
    assert late(1.0, 1)
    assert not late(0.9, 2)  # no better: it is not the slots
    assert late(2.0, 3)
    assert late(1.0, 4)  # it helped, and is not enough
    assert not late(0.0, 40)
    assert late(1.0, 41)  # long ago, and forgotten


def test_one_late_look_is_no_reason() -> None:
    work = at_work(SLOW)
    work.run(10)
    work.lag_s = 1.0
    work.run(0.06)
    work.lag_s = 0.0
    work.run(1)
    assert work.climber.settled == 1_024


# -- words -----------------------------------------------------------------------------------


def test_each_change_says_why_with_figures() -> None:
    work = at_work(IO)
    work.run(1)
    kept = [change for _, change in work.changes if change.settled != 32]
    assert kept[0].why.startswith("more bring more, 32 gave ")
    assert kept[0].seen is not None
    assert "jobs/s, CPU " in str(kept[0].seen)
    work = at_work(CPU)
    work.run(3)
    assert any(change.why.startswith("fewer bring as much") for _, change in work.changes)
