"""Batches: jobs gather by key and are handed out together, each with a lease of its own."""

import pytest

from ropeway.action import CancelJob
from ropeway.broker import JobStore
from ropeway.errors import ConfigError
from ropeway.flow.rules import GroupRule
from ropeway.job import Job, Lease, State, UniqueKey
from ropeway.outcome import Ack, Release, Retry, Settled
from ropeway.testing.manual_clock import ManualClock
from ropeway.testing.steps import (
    LEASE_MS,
    QUEUE,
    WORKER,
    act,
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
)

RULE = GroupRule(name="test.task", size=3, within_ms=5_000, grace_ms=1_000)


async def batch(broker: JobStore, *queues: str) -> list[Lease]:
    """The next batch that is ready."""
    return await broker.reserve_group(queues or (QUEUE,), worker=WORKER, lease_ms=LEASE_MS)


def member(key: str = "k", **fields: object) -> Job:
    """A job that gathers with others."""
    return make_job(group_key=key, **fields)


async def gather(broker: JobStore, *jobs: Job) -> None:
    """Enqueue jobs of the test task, whose batches have a rule."""
    await broker.declare([RULE])
    await put(broker, *jobs)


class GroupContract:
    """When a batch is ready, and what is in it."""

    async def test_gathering_jobs_are_available_and_not_handed_out_one_by_one(
        self, broker: JobStore
    ) -> None:
        job = member()
        await gather(broker, job)
        assert await take(broker) == []
        status = await status_of(broker, job)
        assert (status.state, status.blocked_on) == (State.AVAILABLE, "group:k")

    async def test_a_full_batch_is_ready_at_once(self, broker: JobStore) -> None:
        jobs = [member() for _ in range(4)]
        await gather(broker, *jobs)
        leases = await batch(broker)
        assert ids(leases) == ids(jobs[:3])
        assert [lease.attempt for lease in leases] == [1, 1, 1]
        assert await batch(broker) == []

    async def test_a_batch_is_ready_when_none_has_come_for_the_grace_period(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        first, second = member(), member()
        await gather(broker, first)
        clock.advance(900)
        await gather(broker, second)
        clock.advance(999)
        assert await batch(broker) == []
        clock.advance(1)
        assert ids(await batch(broker)) == ids([first, second])

    async def test_a_batch_is_ready_when_its_first_has_waited_long_enough(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        await broker.declare([GroupRule(name="test.task", size=99, within_ms=2_000, grace_ms=900)])
        for _ in range(4):
            await put(broker, member())
            clock.advance(500)
        assert len(await batch(broker)) == 4

    async def test_keys_and_tasks_make_batches_of_their_own(self, broker: JobStore) -> None:
        await broker.declare([GroupRule(name="other", size=2, within_ms=5_000, grace_ms=5_000)])
        mine = [member("a") for _ in range(3)]
        others = [member("a", task="other") for _ in range(2)]
        await gather(broker, mine[0], others[0], member("b"), mine[1], others[1], mine[2])
        batches = [ids(await batch(broker)) for _ in range(3)]
        assert sorted(batches[:2]) == sorted([ids(mine), ids(others)])
        assert batches[2] == []

    async def test_each_job_is_settled_by_itself(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        jobs = [member() for _ in range(3)]
        await gather(broker, *jobs)
        done, again, back = await batch(broker)
        assert await settle(broker, Ack(lease=done)) is Settled.OK
        assert await settle(broker, Retry(lease=again, delay_ms=500)) is Settled.OK
        assert await settle(broker, Release(lease=back)) is Settled.OK
        states = [await state_of(broker, job) for job in jobs]
        assert states == [State.COMPLETED, State.RETRYABLE, State.AVAILABLE]
        clock.advance(500)
        await settle_time(broker)
        clock.advance(1_000)
        assert sorted(ids(await batch(broker))) == sorted(ids(jobs[1:]))

    async def test_a_lost_batch_gathers_again(self, broker: JobStore, clock: ManualClock) -> None:
        jobs = [member() for _ in range(3)]
        await gather(broker, *jobs)
        await batch(broker)
        clock.advance(LEASE_MS + 1)
        await settle_time(broker)
        assert await take(broker) == []
        assert ids(await batch(broker)) == ids(jobs)

    async def test_a_delayed_job_gathers_when_it_is_due(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        job = member(delay_ms=3_000)
        await gather(broker, job)
        clock.advance(2_999)
        assert await batch(broker) == []
        clock.advance(1_001)
        await settle_time(broker)
        clock.advance(1_000)
        assert ids(await batch(broker)) == [job.id]

    async def test_a_cancelled_job_is_not_in_the_batch(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        jobs = [member() for _ in range(2)]
        await gather(broker, *jobs)
        await act(broker, CancelJob(ref=jobs[0].ref))
        clock.advance(1_000)
        assert ids(await batch(broker)) == [jobs[1].id]

    async def test_an_overdue_job_is_not_in_the_batch(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        late, fine = member(expires_after_ms=500), member()
        await gather(broker, late, fine)
        clock.advance(1_000)
        assert ids(await batch(broker)) == [fine.id]
        assert await state_of(broker, late) is State.DEAD

    async def test_a_paused_queue_gives_no_batch(self, broker: JobStore) -> None:
        await gather(broker, *(member() for _ in range(3)))
        await broker.pause(QUEUE)
        assert await batch(broker) == []
        await broker.resume(QUEUE)
        assert len(await batch(broker)) == 3

    async def test_a_job_of_a_task_without_a_rule_is_a_batch_by_itself(
        self, broker: JobStore
    ) -> None:
        await gather(broker, member(task="unknown"), member(task="unknown"))
        assert [len(await batch(broker)) for _ in range(3)] == [1, 1, 0]

    async def test_what_gathers_is_known_after_a_restart(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        await gather(broker, *(member() for _ in range(2)))
        await restart(broker)
        clock.advance(1_000)
        assert len(await batch(broker)) == 2

    async def test_a_waiting_call_gets_the_batch_that_becomes_full(self, broker: JobStore) -> None:
        await gather(broker, *(member() for _ in range(3)))
        waiting = broker.reserve_group([QUEUE], worker=WORKER, lease_ms=LEASE_MS, wait_ms=10_000)
        assert len(await waiting) == 3

    @pytest.mark.parametrize("field", [{"unique": UniqueKey(key="u")}, {"ordering_key": "o"}])
    async def test_what_contradicts_gathering_is_refused(
        self, broker: JobStore, field: dict[str, object]
    ) -> None:
        with pytest.raises(ConfigError, match="group_key"):
            await enqueue(broker, group_key="k", **field)
