"""`maintain`: what time asks for, each part within its limit, from any number of processes."""

import asyncio
from typing import Any

import pytest

from ropeway.action import BuryJob, CancelJob
from ropeway.broker import JobStore, Maintained
from ropeway.job import State
from ropeway.lifecycle import CRASH_WINDOW_MS, RETENTION_MS
from ropeway.outcome import Ack, Cancel, Release, Retry
from ropeway.testing.manual_clock import ManualClock
from ropeway.testing.steps import (
    HOUR_MS,
    LEASE_MS,
    act,
    all_records,
    bring_to,
    crash,
    enqueue,
    find_record,
    ids,
    make_job,
    put,
    record_of,
    settle,
    settle_time,
    state_of,
    status_of,
    take,
    take_one,
)


class MaintainContract:
    """Promotion, expiry, and the answer's figures."""

    async def test_an_idle_store_has_nothing_to_do(self, broker: JobStore) -> None:
        assert await broker.maintain() == Maintained()

    async def test_due_jobs_become_available(self, broker: JobStore, clock: ManualClock) -> None:
        due = await enqueue(broker, delay_ms=100)
        later = await enqueue(broker, delay_ms=101)
        clock.advance(100)
        assert (await broker.maintain()).promoted == 1
        assert await state_of(broker, due) is State.AVAILABLE
        assert await state_of(broker, later) is State.SCHEDULED

    async def test_an_expired_lease_is_taken_back(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        job = await enqueue(broker)
        before = await status_of(broker, job)
        lease = await take_one(broker)
        clock.advance(LEASE_MS - 1)
        assert (await broker.maintain()).expired == 0
        clock.advance(1)
        assert (await broker.maintain()).expired == 1
        after = await status_of(broker, job)
        assert (after.state, after.attempt) == (State.AVAILABLE, 0)
        assert [tuple(c) for c in after.crashes] == [(lease.token, clock.wall_ms())]
        assert (after.due_ms, after.seq) == (before.due_ms, before.seq)

    async def test_a_crashed_job_is_back_at_its_old_place(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        jobs = [await enqueue(broker) for _ in range(3)]
        await crash(broker, clock)
        leases = await take(broker)
        assert ids(leases) == ids(jobs)
        assert (leases[0].attempt, leases[0].crashes) == (1, 1)

    async def test_concurrent_calls_do_each_thing_once(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        jobs = [make_job(delay_ms=10) for _ in range(30)]
        await put(broker, *jobs)
        await put(broker, *(make_job(queue="held") for _ in range(20)))
        assert len(await take(broker, "held")) == 20
        clock.advance(LEASE_MS + 1)
        done = await asyncio.gather(*(broker.maintain() for _ in range(5)))
        assert sum(d.promoted for d in done) == 30
        assert sum(d.expired for d in done) == 20
        assert all(len(r.status.crashes) < 2 for r in await all_records(broker))

    async def test_each_part_keeps_its_own_limit_and_says_that_there_is_more(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        await put(broker, *(make_job(queue="held") for _ in range(5)))
        assert len(await take(broker, "held")) == 5
        await put(broker, *(make_job(queue="due", delay_ms=10) for _ in range(5)))
        await put(broker, *(make_job(queue="late", expires_after_ms=10) for _ in range(5)))
        clock.advance(LEASE_MS + 1)
        rounds = [await broker.maintain(limit=2) for _ in range(3)]
        assert [r.promoted for r in rounds] == [2, 2, 1]
        assert [r.expired for r in rounds] == [2, 2, 1]
        assert [r.buried for r in rounds] == [2, 2, 1]
        assert [r.more for r in rounds[:2]] == [True, True]
        assert not (await broker.maintain(limit=2)).more

    async def test_a_limit_holds_for_all_queues_together(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        for queue in ("a", "b"):
            await put(broker, *(make_job(queue=queue, delay_ms=10) for _ in range(2)))
        clock.advance(10)
        rounds = [await broker.maintain(limit=3) for _ in range(2)]
        assert [r.promoted for r in rounds] == [3, 1]

    async def test_one_call_goes_through_its_parts_in_order(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        parent = await enqueue(broker, expires_after_ms=500)
        child = await enqueue(broker, queue="children", parents=(parent.id,))
        await take_one(broker)
        clock.advance(LEASE_MS + 1)
        done = await broker.maintain()
        assert (done.expired, done.buried, done.cascaded) == (1, 1, 1)
        assert await state_of(broker, parent) is State.DEAD
        assert await state_of(broker, child) is State.CANCELLED

    async def test_it_tells_when_it_is_needed_next(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        assert (await broker.maintain()).next_ms is None
        await enqueue(broker, delay_ms=60_000)
        assert (await broker.maintain()).next_ms == 60_000
        await enqueue(broker)
        await take_one(broker)
        assert (await broker.maintain()).next_ms == LEASE_MS
        clock.advance(4_000)
        assert (await broker.maintain()).next_ms == LEASE_MS - 4_000

    async def test_the_next_time_is_that_of_the_first_job_in_any_queue(
        self, broker: JobStore
    ) -> None:
        for queue, delay_ms in (("a", 300), ("b", 100), ("c", 200)):
            await enqueue(broker, queue=queue)
            lease = await take_one(broker, queue)
            await settle(broker, Retry(lease=lease, delay_ms=delay_ms))
        await enqueue(broker, queue="b", delay_ms=400)
        assert (await broker.maintain()).next_ms == 100

    async def test_what_a_limit_left_over_is_needed_at_once(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        await put(broker, *(make_job(delay_ms=10) for _ in range(3)))
        clock.advance(20)
        assert (await broker.maintain(limit=2)).next_ms == 0


class CrashBudgetContract:
    """Crashes have a budget of their own."""

    async def test_the_fourth_crash_buries_the_job(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        job = await enqueue(broker)
        for _ in range(3):
            await crash(broker, clock)
            assert await state_of(broker, job) is State.AVAILABLE
        await crash(broker, clock)
        status = await status_of(broker, job)
        assert (status.state, status.reason) == (State.DEAD, "crashed_worker")
        assert len(status.crashes) == 4
        assert status.finished_at_ms == clock.wall_ms()

    async def test_a_budget_of_0_never_runs_again_after_a_crash(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        job = await enqueue(broker, crash_max=0)
        await crash(broker, clock)
        assert await state_of(broker, job) is State.DEAD

    async def test_crashes_of_more_than_a_day_ago_do_not_count(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        job = await enqueue(broker)
        for _ in range(3):
            await crash(broker, clock)
        clock.advance(CRASH_WINDOW_MS)
        await crash(broker, clock)
        status = await status_of(broker, job)
        assert (status.state, len(status.crashes)) == (State.AVAILABLE, 1)

    async def test_a_crash_that_was_none_is_not_charged(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        job = await enqueue(broker)
        for _ in range(5):
            lease = await crash(broker, clock)
            await settle(broker, Ack(lease=lease))
        assert await state_of(broker, job) is State.AVAILABLE

    async def test_a_release_does_not_cost_a_crash(self, broker: JobStore) -> None:
        job = await enqueue(broker, crash_max=0)
        await settle(broker, Release(lease=await take_one(broker)))
        assert (await status_of(broker, job)).crashes == ()

    async def test_a_crash_of_a_job_asked_to_stop_cancels_it(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        job = await enqueue(broker)
        await take_one(broker)
        await act(broker, CancelJob(ref=job.ref))
        clock.advance(LEASE_MS + 1)
        await broker.maintain()
        assert await state_of(broker, job) is State.CANCELLED


class OverdueContract:
    """Jobs that were not started in time."""

    @pytest.mark.parametrize(
        ("field", "reason"), [("expires_after_ms", "expired"), ("deadline_after_ms", "deadline")]
    )
    @pytest.mark.parametrize(
        "state", [State.PENDING, State.SCHEDULED, State.AVAILABLE, State.RETRYABLE]
    )
    async def test_an_overdue_waiting_job_ends_dead(
        self, broker: JobStore, clock: ManualClock, field: str, reason: str, state: State
    ) -> None:
        limits: dict[str, Any] = {field: 500}
        job, _ = await bring_to(broker, state, **limits)
        clock.advance(499)
        assert (await broker.maintain()).buried == 0
        clock.advance(1)
        assert (await broker.maintain()).buried == 1
        status = await status_of(broker, job)
        assert (status.state, status.reason) == (State.DEAD, reason)
        assert status.finished_at_ms == clock.wall_ms()

    async def test_a_running_job_is_not_buried_for_its_time_to_start(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        job, _ = await bring_to(broker, State.RUNNING, expires_after_ms=500)
        clock.advance(600)
        await broker.maintain()
        assert await state_of(broker, job) is State.RUNNING

    async def test_an_overdue_job_that_comes_back_is_buried_then(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        job, lease = await bring_to(broker, State.RUNNING, expires_after_ms=500)
        clock.advance(600)
        await broker.maintain()
        await settle(broker, Release(lease=lease))
        assert await take(broker) == []
        clock.advance(2_000)
        await settle_time(broker)
        assert await state_of(broker, job) is State.DEAD


class RetentionContract:
    """Records of final jobs are kept as long as promised, then pruned."""

    @pytest.mark.parametrize("state", [State.COMPLETED, State.CANCELLED, State.DEAD])
    async def test_a_record_is_kept_for_its_time(
        self, broker: JobStore, clock: ManualClock, state: State
    ) -> None:
        job, _ = await bring_to(broker, state)
        clock.advance(RETENTION_MS[state] - 1)
        assert (await broker.maintain()).pruned == 0
        assert await state_of(broker, job) is state
        clock.advance(1)
        assert (await broker.maintain()).pruned == 1
        assert await find_record(broker, job) is None

    @pytest.mark.parametrize("state", [State.COMPLETED, State.CANCELLED])
    async def test_a_job_may_ask_for_another_time(
        self, broker: JobStore, clock: ManualClock, state: State
    ) -> None:
        job, _ = await bring_to(broker, state, retention_ms=3 * 24 * HOUR_MS)
        clock.advance(3 * 24 * HOUR_MS - 1)
        await broker.maintain()
        assert await state_of(broker, job) is state
        clock.advance(1)
        await broker.maintain()
        assert await find_record(broker, job) is None

    async def test_the_dead_are_kept_for_an_operator_whatever_the_job_asked(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        job, _ = await bring_to(broker, State.DEAD, retention_ms=0)
        clock.advance(24 * HOUR_MS)
        await broker.maintain()
        assert await state_of(broker, job) is State.DEAD

    async def test_retention_0_removes_a_cancelled_record_at_once(self, broker: JobStore) -> None:
        _, lease = await bring_to(broker, State.RUNNING, retention_ms=0)
        waiting = await enqueue(broker, retention_ms=0, delay_ms=9)
        await settle(broker, Cancel(lease=lease))
        await act(broker, CancelJob(ref=waiting.ref))
        assert await all_records(broker) == []

    async def test_pruning_keeps_its_limit(self, broker: JobStore, clock: ManualClock) -> None:
        await put(broker, *(make_job() for _ in range(5)))
        await broker.settle([Ack(lease=lease) for lease in await take(broker)])
        clock.advance(RETENTION_MS[State.COMPLETED])
        rounds = [await broker.maintain(limit=2) for _ in range(3)]
        assert [r.pruned for r in rounds] == [2, 2, 1]
        assert [r.more for r in rounds[:2]] == [True, True]
        assert await broker.queues() == []

    async def test_an_unfinished_job_is_never_pruned(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        waiting = await enqueue(broker, delay_ms=400 * 24 * HOUR_MS)
        clock.advance(399 * 24 * HOUR_MS)
        await settle_time(broker)
        assert await state_of(broker, waiting) is State.SCHEDULED

    async def test_the_record_of_a_parent_outlives_its_children(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        parent = await enqueue(broker, queue="parents", retention_ms=0)
        other = await enqueue(broker, queue="others")
        child = await enqueue(broker, parents=(parent.id, other.id))
        await settle(broker, Ack(lease=await take_one(broker, "parents"), result=b"1"))
        clock.advance(24 * HOUR_MS)
        await settle_time(broker)
        assert (await status_of(broker, parent)).result == b"1"
        await act(broker, BuryJob(ref=child.ref))
        clock.advance(60_000)
        await settle_time(broker)
        assert await find_record(broker, parent) is None


class ClockStepContract:
    """The host's clock may be set; nothing runs early, twice, or never."""

    async def test_a_clock_set_back_keeps_available_jobs_available(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        job = await enqueue(broker)
        clock.step_wall(-24 * HOUR_MS)
        await broker.maintain()
        assert ids(await take(broker)) == [job.id]

    async def test_a_clock_set_back_starts_nothing_early(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        await enqueue(broker, delay_ms=1_000)
        clock.step_wall(-HOUR_MS)
        clock.advance(999)
        await broker.maintain()
        assert await take(broker) == []

    async def test_a_clock_set_back_does_not_reorder(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        first = await enqueue(broker)
        clock.step_wall(-HOUR_MS)
        second = await enqueue(broker)
        created = [(await record_of(broker, job)).job.created_at_ms for job in (first, second)]
        assert created == sorted(created)
        assert ids(await take(broker)) == ids([first, second])

    @pytest.mark.parametrize("step_ms", [-24 * HOUR_MS, 24 * HOUR_MS])
    async def test_a_lease_does_not_care_how_the_clock_is_set(
        self, broker: JobStore, clock: ManualClock, step_ms: int
    ) -> None:
        await enqueue(broker)
        await take_one(broker)
        clock.step_wall(step_ms)
        assert (await broker.maintain()).expired == 0
        clock.advance(LEASE_MS + 1)
        assert (await broker.maintain()).expired == 1
