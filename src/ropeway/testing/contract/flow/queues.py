"""Rules of whole queues: their own limits, their bounds, breakers."""

import pytest

from ropeway.broker import EnqueueAnswer, JobStore
from ropeway.errors import ConfigError
from ropeway.flow.rules import Breaker, Limit, LimitRule, OnFull, QueueRule, Rate, Slots
from ropeway.job import Job, JobRef, LimitKey, State, UniqueKey
from ropeway.outcome import Ack, Bury, Release, Retry, Snooze
from ropeway.testing.contract.flow.limits import take_all
from ropeway.testing.manual_clock import ManualClock
from ropeway.testing.steps import (
    bring_to,
    enqueue,
    ids,
    make_job,
    put,
    restart,
    settle,
    settle_time,
    state_of,
    status_of,
    take,
    take_one,
)

OK, FULL, DROPPED = EnqueueAnswer.OK, EnqueueAnswer.FULL, EnqueueAnswer.DROPPED


async def limited(broker: JobStore, *limits: Limit, queue: str = "default") -> None:
    """Declare limits of a whole queue."""
    await broker.declare([QueueRule(name=queue, limits=limits)])


async def bounded(broker: JobStore, length: int, *, on_full: OnFull = "refuse") -> None:
    """Bound the default queue."""
    await broker.declare([QueueRule(name="default", max_length=length, on_full=on_full)])


class QueueLimitContract:
    """Limits that hold for every job of a queue."""

    async def test_no_more_than_its_slots_run_over_all_workers(self, broker: JobStore) -> None:
        await limited(broker, Slots(3))
        await put(broker, *(make_job() for _ in range(9)))
        leases = await take(broker, limit=2, worker="w1") + await take(broker, worker="w2")
        assert len(leases) == 3
        assert await take(broker, worker="w3") == []
        await settle(broker, Ack(lease=leases[0]))
        assert len(await take(broker, worker="w3")) == 1

    async def test_a_full_queue_does_not_hold_up_another(self, broker: JobStore) -> None:
        await limited(broker, Slots(1))
        await put(broker, *(make_job() for _ in range(3)), make_job(queue="other"))
        leases = await take(broker, "default", "other")
        assert [lease.job.queue for lease in leases] == ["default", "other"]

    async def test_starts_of_a_queue_follow_its_rate(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        await limited(broker, Rate(10, 1_000, 2))
        await put(broker, *(make_job() for _ in range(9)))
        counts: list[int] = []
        for _ in range(4):
            counts.append(len(await take(broker)))
            clock.advance(100)
        assert counts == [2, 1, 1, 1]

    async def test_an_operator_changes_a_queue_at_run_time(self, broker: JobStore) -> None:
        await put(broker, *(make_job() for _ in range(9)))
        slow = QueueRule(name="default", limits=(Slots(1),))
        await broker.override([slow])
        assert len(await take(broker)) == 1
        assert await broker.reset([slow]) == 1
        assert len(await take(broker)) == 8

    async def test_one_limit_of_each_kind_is_enough(self, broker: JobStore) -> None:
        with pytest.raises(ConfigError, match="one limit of each kind"):
            await limited(broker, Slots(1), Slots(2))


class BreakerContract:
    """After failures in a row a rest, then one trial."""

    async def test_it_opens_after_failures_in_a_row(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        await limited(broker, Breaker(2, 10_000))
        await put(broker, *(make_job() for _ in range(9)))
        for _ in range(2):
            await settle(broker, Retry(lease=await take_one(broker), delay_ms=3_600_000))
        assert await take(broker) == []
        clock.advance(9_999)
        assert await take(broker) == []

    async def test_a_success_between_failures_keeps_it_closed(self, broker: JobStore) -> None:
        await limited(broker, Breaker(2, 10_000))
        await put(broker, *(make_job() for _ in range(9)))
        for _ in range(3):
            await settle(broker, Retry(lease=await take_one(broker), delay_ms=60_000))
            await settle(broker, Ack(lease=await take_one(broker)))
        assert len(await take(broker, limit=1)) == 1

    async def test_one_is_tried_after_the_cooldown_and_its_success_lets_the_others_go(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        await limited(broker, Breaker(1, 1_000))
        await put(broker, *(make_job() for _ in range(9)))
        await settle(broker, Bury(lease=await take_one(broker)))
        clock.advance(1_000)
        (trial,) = await take(broker)
        assert await take(broker) == []
        await settle(broker, Ack(lease=trial))
        assert len(await take(broker)) == 7

    async def test_a_failed_trial_begins_the_cooldown_anew(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        await limited(broker, Breaker(1, 1_000))
        await put(broker, *(make_job() for _ in range(9)))
        await settle(broker, Bury(lease=await take_one(broker)))
        clock.advance(1_000)
        (trial,) = await take(broker)
        await settle(broker, Retry(lease=trial, delay_ms=60_000))
        clock.advance(999)
        assert await take(broker) == []
        clock.advance(1)
        assert len(await take(broker)) == 1

    async def test_a_trial_that_was_given_back_is_made_again(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        await limited(broker, Breaker(1, 1_000))
        await put(broker, *(make_job() for _ in range(9)))
        await settle(broker, Bury(lease=await take_one(broker)))
        clock.advance(1_000)
        (trial,) = await take(broker)
        await settle(broker, Release(lease=trial))
        (again,) = await take(broker)
        await settle(broker, Snooze(lease=again, delay_ms=60_000))
        assert len(await take(broker)) == 1

    async def test_of_a_task_it_parks_only_the_jobs_of_its_key(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        await broker.declare([LimitRule(name="b", limit=Breaker(1, 1_000))])
        bad = [make_job(limits=(LimitKey("b", "bad"),)) for _ in range(4)]
        await put(broker, *bad)
        await settle(broker, Bury(lease=await take_one(broker)))
        good = await enqueue(broker, limits=(LimitKey("b", "good"),))
        assert ids(await take_all(broker)) == [good.id]
        assert (await status_of(broker, bad[1])).blocked_on == "limit:b:bad"
        clock.advance(1_000)
        (trial,) = await take_all(broker)
        await settle(broker, Ack(lease=trial))
        assert ids(await take_all(broker)) == ids(bad[2:])


class BoundContract:
    """A queue that may not grow without end."""

    async def test_jobs_beyond_the_bound_are_answered_by_position(self, broker: JobStore) -> None:
        await bounded(broker, 2)
        jobs = [make_job() for _ in range(3)]
        answers = await broker.enqueue([*jobs, make_job(queue="other")])
        assert [enqueued.answer for enqueued in answers] == [OK, OK, FULL, OK]
        assert await state_of(broker, jobs[2]) is None

    async def test_pending_scheduled_and_available_jobs_count(self, broker: JobStore) -> None:
        await bounded(broker, 3)
        for state in (State.PENDING, State.SCHEDULED, State.AVAILABLE):
            await bring_to(broker, state)
        assert await put(broker, make_job()) == [FULL]

    @pytest.mark.parametrize("state", [State.RUNNING, State.RETRYABLE, State.DEAD])
    async def test_others_do_not_count(self, broker: JobStore, state: State) -> None:
        await bounded(broker, 1)
        await bring_to(broker, state)
        assert await put(broker, make_job()) == [OK]

    async def test_there_is_room_again_when_one_is_taken(self, broker: JobStore) -> None:
        await bounded(broker, 1)
        await enqueue(broker)
        await take_one(broker)
        assert await put(broker, make_job(), make_job()) == [OK, FULL]

    async def test_what_was_admitted_comes_back_whatever_the_length(self, broker: JobStore) -> None:
        await bounded(broker, 1)
        first = await enqueue(broker)
        lease = await take_one(broker)
        await enqueue(broker)
        await settle(broker, Release(lease=lease))
        then = make_job()
        assert await state_of(broker, first) is State.AVAILABLE
        await settle(broker, Ack(lease=await take_one(broker), then=(then,)))
        assert await state_of(broker, then) is State.AVAILABLE
        assert await put(broker, make_job()) == [FULL]

    async def test_duplicates_are_told_from_full(self, broker: JobStore) -> None:
        await bounded(broker, 1)
        key = UniqueKey(key="k", on_conflict="replace")
        job = await enqueue(broker, unique=key)
        assert await put(broker, job, make_job(unique=key), make_job()) == [
            EnqueueAnswer.DUPLICATE_ID,
            EnqueueAnswer.REPLACED,
            FULL,
        ]

    async def test_a_repeated_call_gets_the_same_answers_from_a_full_queue(
        self, broker: JobStore
    ) -> None:
        await bounded(broker, 1)
        jobs = [make_job(), make_job()]
        first = await broker.enqueue(jobs, call_id="c")
        await take_one(broker)
        assert await broker.enqueue(jobs, call_id="c") == first

    async def test_new_jobs_are_dropped_where_the_rule_says_so(self, broker: JobStore) -> None:
        await bounded(broker, 1, on_full="drop_new")
        assert await put(broker, make_job(), make_job()) == [OK, DROPPED]

    async def test_the_oldest_of_the_lowest_priority_makes_room(self, broker: JobStore) -> None:
        await bounded(broker, 3, on_full="drop_oldest")
        high, old, new = (
            await enqueue(broker, priority=5),
            await enqueue(broker),
            await enqueue(broker),
        )
        assert await put(broker, make_job()) == [OK]
        status = await status_of(broker, old)
        assert (status.state, status.reason) == (State.CANCELLED, "dropped")
        assert [await state_of(broker, job) for job in (high, new)] == [State.AVAILABLE] * 2

    async def test_what_others_wait_for_or_was_started_is_not_dropped(
        self, broker: JobStore
    ) -> None:
        await bounded(broker, 1, on_full="drop_oldest")
        started = await enqueue(broker)
        await settle(broker, Release(lease=await take_one(broker)))
        assert await put(broker, make_job()) == [FULL]
        assert await state_of(broker, started) is State.AVAILABLE

    async def test_a_parent_is_not_dropped(self, broker: JobStore) -> None:
        await bounded(broker, 2, on_full="drop_oldest")
        child = await enqueue(broker, queue="other", parents=("later",))
        parent = make_job(unblocks=(JobRef(child.id, "other"),))
        plain = make_job()
        await put(broker, parent, plain)
        assert await put(broker, make_job()) == [OK]
        assert await state_of(broker, parent) is State.AVAILABLE
        assert await state_of(broker, plain) is State.CANCELLED

    async def test_a_bound_of_nothing_is_refused(self, broker: JobStore) -> None:
        with pytest.raises(ConfigError, match="max_length=0"):
            await bounded(broker, 0)

    async def test_a_full_answer_estimates_when_there_will_be_room(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        await bounded(broker, 20)
        await put(broker, *(make_job() for _ in range(20)))
        (nobody,) = await broker.enqueue([make_job()])
        assert nobody.retry_after_ms is None
        for _ in range(10):  # 10 a second
            clock.advance(100)
            await settle(broker, Ack(lease=await take_one(broker)))
        await put(broker, *(make_job() for _ in range(10)))
        (served,) = await broker.enqueue([make_job()])
        assert served.retry_after_ms is not None
        assert 10 <= served.retry_after_ms <= 10_000

    async def test_the_bound_is_known_after_a_restart(self, broker: JobStore) -> None:
        await bounded(broker, 1)
        await restart(broker)
        answers = await put(broker, make_job(), make_job())
        assert answers == [OK, FULL]


async def drained(broker: JobStore) -> list[Job]:
    """Work the queue off, one by one; the jobs in the order they were handed out."""
    await settle_time(broker)
    order: list[Job] = []
    while leases := await take(broker, limit=1):
        order.append(leases[0].job)
        await settle(broker, Ack(lease=leases[0]))
    return order
