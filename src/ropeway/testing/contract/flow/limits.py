"""Limits: never more than they allow, never a slot that leaks, never a job held up for nothing."""

import asyncio
from collections.abc import Callable

import pytest

from ropeway.action import CancelJob, DeleteJob, EditJob, MoveJob
from ropeway.broker import Beat, JobStore, KeyInfo
from ropeway.errors import ConfigError, Unsupported
from ropeway.flow.rules import LimitRule, Rate, Scope, Slots
from ropeway.job import Job, Lease, LimitKey, State
from ropeway.outcome import Ack, Bury, Cancel, Crashed, Outcome, Release, Retry, Settled, Snooze
from ropeway.testing.manual_clock import ManualClock
from ropeway.testing.steps import (
    LEASE_MS,
    act,
    enqueue,
    find_record,
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

SOON_S = 3.0  # real seconds: far more than any wake-up takes
ENDS: list[Callable[[Lease], Outcome]] = [
    lambda lease: Ack(lease=lease),
    lambda lease: Retry(lease=lease, delay_ms=60_000),
    lambda lease: Snooze(lease=lease, delay_ms=60_000),
    lambda lease: Bury(lease=lease),
    lambda lease: Cancel(lease=lease),
]


def under(name: str, key: str = "") -> tuple[LimitKey, ...]:
    """The limits of a job that has one."""
    return (LimitKey(name, key),)


async def slots(broker: JobStore, name: str, n: int, *, scope: Scope = "queue") -> None:
    """Declare a concurrency limit."""
    await broker.declare([LimitRule(name=name, limit=Slots(n), scope=scope)])


async def app_slots(broker: JobStore, name: str, n: int) -> bool:
    """Declare a limit over all queues; False where nobody counts over all: then it is refused."""
    if broker.capabilities.app_limits:
        await slots(broker, name, n, scope="app")
        return True
    before = await broker.rules()
    with pytest.raises(Unsupported):
        await slots(broker, name, n, scope="app")
    assert await broker.rules() == before
    return False


async def rate(broker: JobStore, name: str, n: int, period_ms: int, *, burst: int = 1) -> None:
    """Declare a rate limit."""
    await broker.declare([LimitRule(name=name, limit=Rate(n, period_ms, burst))])


async def key_of(broker: JobStore, name: str, key: str = "") -> KeyInfo | None:
    """What the store says of one key of a limit; None when nothing holds it or waits for it."""
    found = await broker.keys(name, key=key)
    assert len(found) <= 1
    return found[0] if found else None


async def take_all(broker: JobStore, *queues: str, calls: int = 50) -> list[Lease]:
    """Reserve until nothing comes; a call looks at a bounded number of jobs that are refused."""
    found: list[Lease] = []
    for _ in range(calls):
        found += await take(broker, *queues)
    return found


class ConcurrencyContract:
    """At most so many at a time."""

    async def test_a_limit_that_nobody_declared_is_refused(self, broker: JobStore) -> None:
        job = make_job(limits=under("nobody"))
        with pytest.raises(ConfigError, match="nobody"):
            await broker.enqueue([make_job(), job])
        assert await take(broker) == []

    async def test_no_more_than_its_slots_run(self, broker: JobStore) -> None:
        await slots(broker, "s", 2)
        jobs = [make_job(limits=under("s")) for _ in range(5)]
        await put(broker, *jobs)
        assert ids(await take_all(broker)) == ids(jobs[:2])

    async def test_those_that_wait_stay_available_and_say_why(self, broker: JobStore) -> None:
        await slots(broker, "s", 1)
        jobs = [make_job(limits=under("s", "k")) for _ in range(3)]
        await put(broker, *jobs)
        await take_all(broker)
        status = await status_of(broker, jobs[1])
        assert (status.state, status.blocked_on) == (State.AVAILABLE, "limit:s:k")
        (queue,) = await broker.queues()
        assert (queue.counts[State.AVAILABLE], queue.counts[State.RUNNING]) == (2, 1)

    async def test_keys_are_counted_each_by_itself(self, broker: JobStore) -> None:
        await slots(broker, "s", 1)
        jobs = [make_job(limits=under("s", key)) for key in ("a", "a", "b", "b", "c")]
        await put(broker, *jobs)
        assert ids(await take_all(broker)) == ids([jobs[0], jobs[2], jobs[4]])

    @pytest.mark.parametrize("order", ["mixed first", "alone first"])
    async def test_jobs_with_other_limits_besides_count_for_the_key_too(
        self, broker: JobStore, order: str
    ) -> None:
        await slots(broker, "s", 2)
        await rate(broker, "r", 100, 1_000, burst=100)
        mixed = [make_job(limits=(*under("s"), *under("r"))) for _ in range(3)]
        alone = [make_job(limits=under("s")) for _ in range(3)]
        pairs = (
            zip(mixed, alone, strict=True)
            if order == "mixed first"
            else zip(alone, mixed, strict=True)
        )
        jobs = [job for pair in pairs for job in pair]
        await put(broker, *jobs)
        assert ids(await take_all(broker)) == ids(jobs[:2])

    async def test_a_full_key_does_not_hold_up_other_jobs(self, broker: JobStore) -> None:
        await slots(broker, "s", 1)
        await put(broker, *(make_job(limits=under("s", "hot"), priority=9) for _ in range(500)))
        other = await enqueue(broker)
        await take_one(broker)
        found: list[Lease] = []
        for _ in range(20):
            found += await take(broker, limit=1)
        assert ids(found) == [other.id]

    @pytest.mark.parametrize("end", ENDS)
    async def test_a_slot_comes_back_with_the_end_of_a_run(
        self, broker: JobStore, end: Callable[[Lease], Outcome]
    ) -> None:
        await slots(broker, "s", 1)
        jobs = [make_job(limits=under("s")) for _ in range(3)]
        await put(broker, *jobs)
        (first,) = await take_all(broker)
        await settle(broker, end(first))
        assert ids(await take_all(broker)) == ids([jobs[1]])

    @pytest.mark.parametrize("end", [Release, Crashed])
    async def test_a_job_that_is_given_back_gives_its_slot_back(
        self, broker: JobStore, end: type[Outcome]
    ) -> None:
        await slots(broker, "s", 1)
        await put(broker, *(make_job(limits=under("s")) for _ in range(3)))
        for _ in range(3):
            (lease,) = await take_all(broker)
            await settle(broker, end(lease=lease))
        assert len(await take_all(broker)) == 1

    async def test_a_slot_comes_back_with_an_expired_lease(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        await slots(broker, "s", 1)
        jobs = [make_job(limits=under("s"), crash_max=0) for _ in range(2)]
        await put(broker, *jobs)
        await take_all(broker)
        clock.advance(LEASE_MS + 1)
        await settle_time(broker)
        assert ids(await take_all(broker)) == [jobs[1].id]

    async def test_a_slot_comes_back_from_an_abandoned_worker(self, broker: JobStore) -> None:
        await slots(broker, "s", 1)
        await put(broker, *(make_job(limits=under("s")) for _ in range(2)))
        await take_all(broker)
        await broker.abandon(["worker-1"])
        assert len(await take_all(broker)) == 1

    async def test_a_stale_word_gives_no_slot_back(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        await slots(broker, "s", 2)
        await put(broker, *(make_job(limits=under("s"), crash_max=0) for _ in range(9)))
        lost, held = await take_all(broker)
        clock.advance(LEASE_MS // 2)
        await broker.extend([Beat(lease=held)], lease_ms=10 * LEASE_MS)
        clock.advance(LEASE_MS)
        await settle_time(broker)
        assert await settle(broker, Ack(lease=lost)) is Settled.LOST
        assert len(await take_all(broker)) == 1
        assert await settle(broker, Ack(lease=held)) is Settled.OK
        assert await settle(broker, Ack(lease=held)) is Settled.ALREADY
        assert len(await take_all(broker)) == 1

    async def test_those_that_wait_come_back_in_the_order_of_the_queue(
        self, broker: JobStore
    ) -> None:
        await slots(broker, "s", 1)
        jobs = [make_job(limits=under("s"), priority=p) for p in (1, 5, 3, 5)]
        await put(broker, *jobs)
        order: list[str] = []
        for _ in jobs:
            (lease,) = await take_all(broker)
            order.append(lease.job.id)
            await settle(broker, Ack(lease=lease))
        assert order == [jobs[at].id for at in (1, 3, 2, 0)]

    async def test_all_limits_of_a_job_are_taken_or_none(self, broker: JobStore) -> None:
        await slots(broker, "a", 1)
        await slots(broker, "b", 1)
        both = (LimitKey("a"), LimitKey("b"))
        first = await enqueue(broker, limits=under("b"))
        second = await enqueue(broker, limits=both)
        third = await enqueue(broker, limits=under("a"))
        assert ids(await take_all(broker)) == ids([first, third])
        assert (await status_of(broker, second)).blocked_on in {"limit:a:", "limit:b:"}

    async def test_a_job_of_several_limits_starts_when_all_have_room(
        self, broker: JobStore
    ) -> None:
        await slots(broker, "a", 1)
        await slots(broker, "b", 1)
        await enqueue(broker, limits=under("a"))
        await enqueue(broker, limits=under("b"))
        both = await enqueue(broker, limits=(LimitKey("a"), LimitKey("b")))
        leases = await take_all(broker)
        for lease in leases:
            assert await take_all(broker) == []
            await settle(broker, Ack(lease=lease))
        assert ids(await take_all(broker)) == [both.id]

    async def test_each_queue_counts_by_itself(self, broker: JobStore) -> None:
        await slots(broker, "own", 1)
        for queue in ("x", "y", "x", "y"):
            await enqueue(broker, queue=queue, limits=under("own"))
        leases = await take_all(broker, "x", "y")
        assert sorted(lease.job.queue for lease in leases) == ["x", "y"]

    async def test_a_limit_of_the_app_counts_over_all_queues(self, broker: JobStore) -> None:
        if not await app_slots(broker, "shared", 1):
            return
        for queue in ("x", "y"):
            await enqueue(broker, queue=queue, limits=under("shared"))
        (first,) = await take_all(broker, "x", "y")
        await settle(broker, Ack(lease=first))
        (other,) = await take_all(broker, "x", "y")
        assert {first.job.queue, other.job.queue} == {"x", "y"}

    async def test_an_end_in_one_queue_wakes_who_waits_for_another(self, broker: JobStore) -> None:
        if not await app_slots(broker, "shared", 1):
            return
        for queue in ("x", "y"):
            await enqueue(broker, queue=queue, limits=under("shared"))
        lease = await take_one(broker, "x")
        waiting = asyncio.create_task(
            broker.reserve(("y",), worker="w", limit=1, lease_ms=1_000, wait_ms=20_000)
        )
        await asyncio.sleep(0.05)
        await settle(broker, Ack(lease=lease))
        assert len(await asyncio.wait_for(waiting, SOON_S)) == 1

    async def test_slots_are_known_after_a_restart(self, broker: JobStore) -> None:
        await slots(broker, "s", 1)
        jobs = [make_job(limits=under("s")) for _ in range(2)]
        await put(broker, *jobs)
        (lease,) = await take_all(broker)
        await restart(broker)
        assert await take_all(broker) == []
        await settle(broker, Ack(lease=lease))
        assert ids(await take_all(broker)) == [jobs[1].id]

    async def test_the_keys_of_a_limit_tell_who_holds_and_how_many_wait(
        self, broker: JobStore
    ) -> None:
        await slots(broker, "s", 1)
        jobs = [make_job(limits=under("s", "k")) for _ in range(3)]
        await put(broker, *jobs)
        await take_all(broker)
        info = await key_of(broker, "s", "k")
        assert info is not None
        assert (info.queue, info.used, info.parked) == ("default", 1, 2)
        assert info.running == (jobs[0].ref,)
        assert await broker.keys("other") == []


class ParkedContract:
    """A job that waits for a limit is an available job like any other."""

    @pytest.fixture
    async def parked(self, broker: JobStore) -> Job:
        """A job that waits for the only slot of `s`; the holder is taken."""
        await slots(broker, "s", 1)
        await enqueue(broker, limits=under("s"))
        job = await enqueue(broker, limits=under("s"), expires_after_ms=5_000)
        await take_all(broker)
        assert (await status_of(broker, job)).blocked_on == "limit:s:"
        return job

    async def test_it_can_be_cancelled(self, broker: JobStore, parked: Job) -> None:
        await act(broker, CancelJob(ref=parked.ref))
        status = await status_of(broker, parked)
        assert (status.state, status.blocked_on) == (State.CANCELLED, None)
        info = await key_of(broker, "s")
        assert info is not None
        assert info.parked == 0

    async def test_it_can_be_deleted(self, broker: JobStore, parked: Job) -> None:
        await act(broker, DeleteJob(ref=parked.ref))
        assert await find_record(broker, parked) is None
        info = await key_of(broker, "s")
        assert info is not None
        assert info.parked == 0

    async def test_an_edit_that_lifts_the_limit_lets_it_go(
        self, broker: JobStore, parked: Job
    ) -> None:
        await act(broker, EditJob(ref=parked.ref, job=make_job(id=parked.id, limits=())))
        assert ids(await take_all(broker)) == [parked.id]

    async def test_in_another_queue_it_counts_there(self, broker: JobStore, parked: Job) -> None:
        await act(broker, MoveJob(ref=parked.ref, queue="elsewhere"))
        assert ids(await take_all(broker, "elsewhere")) == [parked.id]

    async def test_it_expires_in_time(
        self, broker: JobStore, clock: ManualClock, parked: Job
    ) -> None:
        clock.advance(5_001)
        await settle_time(broker)
        assert await state_of(broker, parked) is State.DEAD
        info = await key_of(broker, "s")
        assert info is not None
        assert info.parked == 0

    async def test_a_cancelled_one_does_not_keep_the_next_from_its_slot(
        self, broker: JobStore
    ) -> None:
        await slots(broker, "s", 1)
        jobs = [make_job(limits=under("s")) for _ in range(3)]
        await put(broker, *jobs)
        (lease,) = await take_all(broker)
        await settle(broker, Ack(lease=lease))
        await act(broker, CancelJob(ref=jobs[1].ref))
        assert ids(await take_all(broker)) == [jobs[2].id]


class RateContract:
    """At most so many starts per time."""

    async def test_starts_are_evenly_spaced(self, broker: JobStore, clock: ManualClock) -> None:
        await rate(broker, "r", 10, 1_000)
        jobs = [make_job(limits=under("r")) for _ in range(4)]
        await put(broker, *jobs)
        started: list[tuple[int, str]] = []
        for at in range(0, 400, 20):
            started += [(at, lease.job.id) for lease in await take(broker)]
            clock.advance(20)
        assert started == list(zip((0, 100, 200, 300), ids(jobs), strict=True))

    async def test_a_burst_comes_at_once_and_is_paid_for(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        await rate(broker, "r", 10, 1_000, burst=3)
        await put(broker, *(make_job(limits=under("r")) for _ in range(9)))
        counts: list[int] = []
        for _ in range(4):
            counts.append(len(await take(broker)))
            clock.advance(100)
        assert counts == [3, 1, 1, 1]

    async def test_an_idle_key_saves_up_no_more_than_a_burst(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        await rate(broker, "r", 10, 1_000, burst=2)
        await enqueue(broker, limits=under("r"))
        await take(broker)
        clock.advance(60_000)
        await put(broker, *(make_job(limits=under("r")) for _ in range(9)))
        assert len(await take(broker)) == 2

    async def test_a_token_is_spent_although_the_job_is_given_back(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        await rate(broker, "r", 1, 1_000)
        await enqueue(broker, limits=under("r"))
        await settle(broker, Release(lease=await take_one(broker)))
        assert await take(broker) == []
        clock.advance(1_000)
        assert len(await take(broker)) == 1

    async def test_keys_have_rates_of_their_own(self, broker: JobStore) -> None:
        await rate(broker, "r", 1, 1_000)
        jobs = [make_job(limits=under("r", key)) for key in ("a", "a", "b")]
        await put(broker, *jobs)
        assert ids(await take(broker)) == ids([jobs[0], jobs[2]])

    async def test_maintain_tells_when_the_next_may_start(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        await rate(broker, "r", 1, 2_000)
        await put(broker, *(make_job(limits=under("r")) for _ in range(2)))
        await take(broker)
        info = await key_of(broker, "r")
        assert info is not None
        assert info.opens_at_ms == clock.wall_ms() + 2_000

    async def test_a_rate_far_above_the_load_holds_nothing_up(self, broker: JobStore) -> None:
        await rate(broker, "r", 1_000, 1, burst=100_000)
        jobs = [make_job(limits=under("r")) for _ in range(200)]
        await put(broker, *jobs)
        assert len(await take(broker, limit=200)) == 200


class RulesContract:
    """Rules: said by the code, changed by operators, never half."""

    @pytest.mark.parametrize(
        "limit",
        [Slots(0), Slots(-1), Rate(0, 1, 1), Rate(1, 0, 1), Rate(1, 1, 0), Rate(2000, 1, 1)],
    )
    async def test_a_limit_that_cannot_be_meant_is_refused(
        self, broker: JobStore, limit: Slots | Rate
    ) -> None:
        fine = LimitRule(name="fine", limit=Slots(1))
        with pytest.raises(ConfigError, match="wrong"):
            await broker.declare([fine, LimitRule(name="wrong", limit=limit)])
        assert await broker.rules() == []

    async def test_a_new_word_of_the_code_counts_at_once(self, broker: JobStore) -> None:
        await slots(broker, "s", 1)
        await put(broker, *(make_job(limits=under("s")) for _ in range(5)))
        assert len(await take_all(broker)) == 1
        await slots(broker, "s", 3)
        assert len(await take_all(broker)) == 2

    async def test_a_limit_that_is_counted_in_another_way_lets_those_go_that_wait(
        self, broker: JobStore
    ) -> None:
        await slots(broker, "s", 1)
        jobs = [make_job(limits=under("s"), queue=queue) for queue in ("x", "x", "y")]
        await put(broker, *jobs)
        (lease, _) = await take_all(broker, "x", "y")
        if not await app_slots(broker, "s", 2):
            return
        assert await take_all(broker, "x", "y") == []
        await settle(broker, Ack(lease=lease))
        assert ids(await take_all(broker, "x", "y")) == [jobs[1].id]

    async def test_an_override_counts_until_it_is_reset(self, broker: JobStore) -> None:
        await slots(broker, "s", 1)
        more = LimitRule(name="s", limit=Slots(4))
        await broker.override([more])
        await slots(broker, "s", 2)
        await put(broker, *(make_job(limits=under("s")) for _ in range(9)))
        leases = await take_all(broker)
        assert len(leases) == 4
        (info,) = await broker.rules()
        assert (info.rule, info.declared) == (more, LimitRule(name="s", limit=Slots(2)))
        assert await broker.reset([more]) == 1
        await broker.settle([Ack(lease=lease) for lease in leases])
        assert len(await take_all(broker)) == 2
        assert await broker.reset([more]) == 0

    async def test_an_override_is_known_after_a_restart(self, broker: JobStore) -> None:
        await slots(broker, "s", 1)
        await broker.override([LimitRule(name="s", limit=Slots(2))])
        await restart(broker)
        (info,) = await broker.rules()
        assert info.override == LimitRule(name="s", limit=Slots(2))

    async def test_an_override_of_what_nobody_declared_is_refused(self, broker: JobStore) -> None:
        with pytest.raises(ConfigError, match="unheard"):
            await broker.override([LimitRule(name="unheard", limit=Slots(2))])

    async def test_fewer_slots_than_are_in_use_are_refused_unless_forced(
        self, broker: JobStore
    ) -> None:
        await slots(broker, "s", 3)
        await put(broker, *(make_job(limits=under("s", "k")) for _ in range(5)))
        leases = await take_all(broker)
        fewer = LimitRule(name="s", limit=Slots(1))
        with pytest.raises(ConfigError, match="3"):
            await broker.override([fewer])
        await broker.override([fewer], force=True)
        for lease in leases[:2]:
            await settle(broker, Ack(lease=lease))
            assert await take_all(broker) == []
        await settle(broker, Ack(lease=leases[2]))
        assert len(await take_all(broker)) == 1
