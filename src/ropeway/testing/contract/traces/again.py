"""A job that comes again comes whole, and costs no other."""

import asyncio

import pytest

from ropeway.action import RetryJob, RunNow
from ropeway.broker import Beat, EnqueueAnswer, JobStore
from ropeway.job import Lease, State, UniqueKey
from ropeway.outcome import Ack, Bury, Outcome, Release, Retry, Settled, Snooze
from ropeway.testing.manual_clock import ManualClock
from ropeway.testing.steps import (
    HOUR_MS,
    LEASE_MS,
    act,
    bring_to,
    crash,
    enqueue,
    ids,
    make_job,
    put,
    record_of,
    restart,
    settle,
    settle_time,
    state_of,
    take,
    take_one,
)

KEY = UniqueKey(key="k", window_ms=HOUR_MS)
PAYLOADS = (
    b'{"list":[],"big":12345678901234567,"small":1e-320,"text":"\\u0000\xc3\xa9"}',
    b"",
    bytes(range(256)),
)


def handed_back(lease: Lease) -> tuple[Outcome, ...]:
    """Every outcome after which the job can be had again; the last one asks for an operator."""
    return (
        Retry(lease=lease, delay_ms=10),
        Snooze(lease=lease, delay_ms=10),
        Release(lease=lease),
        Bury(lease=lease),
    )


class AgainContract:
    """A job that comes again is the same job, and costs no other."""

    async def test_equal_jobs_are_two_jobs(self, broker: JobStore) -> None:
        await broker.enqueue([make_job(payload=b"same"), make_job(payload=b"same")])
        await enqueue(broker, payload=b"same")
        assert len(await take(broker)) == 3

    @pytest.mark.parametrize("payload", PAYLOADS, ids=["json", "empty", "binary"])
    async def test_a_payload_comes_through_every_wait_as_it_was(
        self, broker: JobStore, clock: ManualClock, payload: bytes
    ) -> None:
        job = await enqueue(broker, payload=payload, delay_ms=100, headers={"h": "\x00é"})
        clock.advance(100)
        for number in range(4):
            await settle(broker, handed_back(await take_one(broker))[number])
            clock.advance(10)
            await broker.maintain()
        await act(broker, RetryJob(ref=job.ref))
        await crash(broker, clock)
        again = (await take_one(broker)).job
        assert (again.payload, again.headers) == (payload, job.headers)
        assert (await record_of(broker, job)).job.payload == payload

    async def test_every_job_that_is_due_can_be_had_in_one_call(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        jobs = [make_job(delay_ms=1 + n % 7) for n in range(300)]
        await broker.enqueue(jobs)
        clock.advance(7)
        assert len(await take(broker, limit=300)) == 300

    @pytest.mark.parametrize("end", ["retry", "snooze", "release", "crash"])
    async def test_a_unique_job_is_no_duplicate_of_itself(
        self, broker: JobStore, clock: ManualClock, end: str
    ) -> None:
        job = await enqueue(broker, unique=KEY)
        if end == "crash":
            await crash(broker, clock)
        else:
            retry, snooze, release, _ = handed_back(await take_one(broker))
            ends = {"retry": retry, "snooze": snooze, "release": release}
            await settle(broker, ends[end])
            clock.advance(10)
        assert ids(await take(broker)) == [job.id]
        assert await put(broker, make_job(unique=KEY)) == [EnqueueAnswer.DUPLICATE_KEY]

    async def test_a_job_that_always_fails_does_not_hold_up_the_others(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        bad = await enqueue(broker)
        good = [await enqueue(broker) for _ in range(3)]
        served: list[str] = []
        for _ in range(4):
            clock.advance(1)
            lease = await take_one(broker)
            served.append(lease.job.id)
            if lease.job.id == bad.id:
                await settle(broker, Retry(lease=lease, delay_ms=0))
            else:
                await settle(broker, Ack(lease=lease))
        assert served == ids([bad, *good])

    async def test_the_batch_of_one_worker_does_not_lock_out_another(
        self, broker: JobStore
    ) -> None:
        jobs = [await enqueue(broker) for _ in range(10)]
        first = await take(broker, limit=5)
        second = await take(broker, limit=5, worker="worker-2")
        assert ids([*first, *second]) == ids(jobs)

    async def test_of_a_batch_only_what_was_settled_is_done(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        jobs = [make_job() for _ in range(50)]
        await broker.enqueue(jobs)
        leases = await take(broker)
        await broker.settle([Ack(lease=lease) for lease in leases[:5]])
        await restart(broker)
        clock.advance(LEASE_MS + 1)
        await settle_time(broker)
        assert ids(await take(broker)) == ids(jobs[5:])

    async def test_a_job_taken_again_is_safe_from_its_former_lease(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        job = await enqueue(broker)
        await crash(broker, clock)
        lease = await take_one(broker, lease_ms=3 * LEASE_MS)
        clock.advance(2 * LEASE_MS)
        assert (await broker.maintain()).expired == 0
        assert await settle(broker, Ack(lease=lease)) is Settled.OK
        assert await state_of(broker, job) is State.COMPLETED

    async def test_a_healthy_job_is_never_taken_back_for_its_age(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        await enqueue(broker)
        lease = await take_one(broker)
        for _ in range(50):
            clock.advance(LEASE_MS - 1)
            await enqueue(broker, queue="other")  # new traffic, which others may look at
            await broker.extend([Beat(lease=lease)], lease_ms=LEASE_MS)
            assert (await broker.maintain()).expired == 0
        assert await settle(broker, Ack(lease=lease)) is Settled.OK

    @pytest.mark.parametrize("how", ["run now", "retry", "release", "crash", "due"])
    async def test_the_age_of_a_queue_counts_jobs_that_came_back(
        self, broker: JobStore, clock: ManualClock, how: str
    ) -> None:
        if how == "run now":
            job, _ = await bring_to(broker, State.SCHEDULED)
            await act(broker, RunNow(ref=job.ref))
        elif how == "retry":
            job, _ = await bring_to(broker, State.DEAD)
            await act(broker, RetryJob(ref=job.ref))
        elif how == "release":
            await enqueue(broker)
            await settle(broker, Release(lease=await take_one(broker)))
        elif how == "crash":
            await enqueue(broker)
            await crash(broker, clock)
        else:
            await enqueue(broker, delay_ms=5)
            clock.advance(5)
            await broker.maintain()
        clock.advance(5_000)
        (info,) = await broker.queues()
        assert info.oldest_due_ms is not None
        assert clock.wall_ms() - info.oldest_due_ms >= 5_000

    async def test_a_waiter_of_a_child_learns_that_its_parent_failed(
        self, broker: JobStore
    ) -> None:
        parents = [await enqueue(broker) for _ in range(3)]
        child = await enqueue(broker, queue="then", parents=tuple(ids(parents)))
        waiting = asyncio.create_task(broker.wait([child.ref], timeout_ms=5_000))
        await asyncio.sleep(0)
        first, second, third = await take(broker)
        await broker.settle([Ack(lease=first), Bury(lease=second), Ack(lease=third)])
        await settle_time(broker)
        (record,) = await waiting
        assert record is not None
        assert record.status.state is State.CANCELLED
