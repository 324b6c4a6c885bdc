"""`reserve`: the right jobs, in the right order, never early, each to one worker only."""

import asyncio
from collections import Counter

import pytest

from ropeway.action import MoveJob, RetryJob
from ropeway.broker import JobStore
from ropeway.errors import ConfigError
from ropeway.job import State
from ropeway.outcome import Ack, Bury, Cancel, Release, Retry, Snooze
from ropeway.testing.manual_clock import ManualClock
from ropeway.testing.steps import (
    LEASE_MS,
    QUEUE,
    WORKER,
    act,
    crash,
    enqueue,
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


class ReserveOrderContract:
    """Which job comes first."""

    @pytest.mark.parametrize("wrong", [{"limit": 0}, {"lease_ms": 0}, {"lease_ms": 2**60}])
    async def test_a_limit_or_lease_out_of_range_is_refused(
        self, broker: JobStore, wrong: dict[str, int]
    ) -> None:
        await enqueue(broker)
        asked = {"limit": 1, "lease_ms": 1_000} | wrong
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            await broker.reserve(["default"], worker="w", **asked)

    async def test_a_lease_carries_the_job_and_its_first_attempt(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        job = await enqueue(broker, payload=b"[1]")
        lease = await take_one(broker)
        assert lease.job == (await record_of(broker, job)).job
        assert lease.attempt == 1
        assert lease.expires_at_ms == clock.mono_ms() + LEASE_MS
        assert (lease.crashes, lease.snoozes, lease.saved) == (0, 0, None)

    async def test_the_record_says_who_runs_it_since_when(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        job = await enqueue(broker)
        clock.advance(50)
        lease = await take_one(broker, worker="w9")
        status = await status_of(broker, job)
        assert status.state is State.RUNNING
        assert (status.worker, status.started_at_ms) == ("w9", clock.wall_ms())
        assert (status.attempt, status.token) == (1, lease.token)
        assert status.lease_until_ms == lease.expires_at_ms

    async def test_equal_jobs_come_in_the_order_they_were_enqueued(self, broker: JobStore) -> None:
        jobs = [make_job() for _ in range(5)]
        await put(broker, *jobs)
        assert ids(await take(broker)) == ids(jobs)

    async def test_higher_priority_comes_first(self, broker: JobStore) -> None:
        jobs = {p: await enqueue(broker, priority=p) for p in (3, 10, 0, 7)}
        assert ids(await take(broker)) == [jobs[p].id for p in (10, 7, 3, 0)]

    async def test_among_equal_priorities_the_earlier_due_comes_first(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        late = await enqueue(broker, delay_ms=200)
        early = await enqueue(broker, delay_ms=100)
        clock.advance(150)
        newest = await enqueue(broker)
        clock.advance(150)
        assert ids(await take(broker)) == ids([early, newest, late])

    async def test_at_most_limit_jobs_are_handed_out(self, broker: JobStore) -> None:
        await put(broker, *(make_job() for _ in range(5)))
        assert len(await take(broker, limit=2)) == 2
        assert len(await take(broker, limit=2)) == 2
        assert len(await take(broker, limit=2)) == 1

    async def test_a_job_is_handed_to_one_worker_only(self, broker: JobStore) -> None:
        await put(broker, *(make_job() for _ in range(30)))
        batches = await asyncio.gather(*(take(broker, limit=7, worker=f"w{n}") for n in range(10)))
        taken = [job_id for batch in batches for job_id in ids(batch)]
        assert len(taken) == len(set(taken)) == 30

    async def test_only_the_named_queues_are_served(self, broker: JobStore) -> None:
        await enqueue(broker, queue="a")
        b = await enqueue(broker, queue="b")
        assert ids(await take(broker, "b", "c")) == [b.id]

    async def test_a_sequence_of_queues_is_strict(self, broker: JobStore) -> None:
        low = [await enqueue(broker, queue="low", priority=10) for _ in range(2)]
        high = [await enqueue(broker, queue="high") for _ in range(2)]
        assert ids(await take(broker, "high", "low", limit=3)) == ids([*high, low[0]])

    async def test_tokens_only_grow_even_when_an_attempt_is_given_back(
        self, broker: JobStore
    ) -> None:
        await enqueue(broker)
        tokens: list[int] = []
        for _ in range(4):
            lease = await take_one(broker)
            tokens.append(lease.token)
            await settle(broker, Release(lease=lease))
        assert tokens == sorted(set(tokens))

    async def test_shares_follow_the_weights_in_one_call(self, broker: JobStore) -> None:
        await put(broker, *(make_job(queue=q) for q in ("a", "b") for _ in range(20)))
        leases = await broker.reserve({"a": 3, "b": 1}, worker=WORKER, limit=12, lease_ms=LEASE_MS)
        assert Counter(lease.job.queue for lease in leases) == {"a": 9, "b": 3}

    async def test_shares_follow_the_weights_over_many_small_calls(self, broker: JobStore) -> None:
        await put(broker, *(make_job(queue=q) for q in ("a", "b") for _ in range(20)))
        served: Counter[str] = Counter()
        for _ in range(16):
            leases = await broker.reserve(
                {"a": 3, "b": 1}, worker=WORKER, limit=1, lease_ms=LEASE_MS
            )
            served.update(lease.job.queue for lease in leases)
        assert abs(served["a"] - 12) <= 1
        assert served.total() == 16

    async def test_the_share_of_an_empty_queue_goes_to_the_others(self, broker: JobStore) -> None:
        await put(broker, make_job(queue="a"), *(make_job(queue="b") for _ in range(10)))
        leases = await broker.reserve({"a": 9, "b": 1}, worker=WORKER, limit=8, lease_ms=LEASE_MS)
        assert Counter(lease.job.queue for lease in leases) == {"a": 1, "b": 7}

    async def test_a_call_that_finds_nothing_uses_nobodys_turn_up(self, broker: JobStore) -> None:
        weights = {"a": 2, "b": 1}
        assert await broker.reserve(weights, worker=WORKER, limit=1, lease_ms=LEASE_MS) == []
        jobs = [await enqueue(broker, queue=queue) for queue in weights]
        leases = await broker.reserve(weights, worker=WORKER, limit=1, lease_ms=LEASE_MS)
        assert ids(leases) == [jobs[0].id]

    async def test_a_weight_below_one_is_refused(self, broker: JobStore) -> None:
        with pytest.raises(ConfigError, match="weight"):
            await broker.reserve({"a": 0}, worker=WORKER, limit=1, lease_ms=LEASE_MS)


class ReserveTimeContract:
    """Never early, never overdue, never from a paused queue."""

    async def test_a_delayed_job_never_starts_early(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        job = await enqueue(broker, delay_ms=1_000)
        clock.advance(999)
        await broker.maintain()
        assert await take(broker) == []
        clock.advance(1)
        assert ids(await take(broker)) == [job.id]

    async def test_a_due_job_counts_whether_or_not_maintain_has_run(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        jobs = [await enqueue(broker, delay_ms=100 + n) for n in range(5)]
        clock.advance(10_000)
        assert ids(await take(broker, limit=2)) == ids(jobs[:2])
        assert ids(await take(broker, limit=3)) == ids(jobs[2:])

    async def test_a_due_job_of_high_priority_overtakes_without_maintain(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        await enqueue(broker)
        urgent = await enqueue(broker, delay_ms=100, priority=9)
        clock.advance(100)
        assert ids(await take(broker, limit=1)) == [urgent.id]

    async def test_a_retry_comes_back_when_it_is_due(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        job = await enqueue(broker)
        await settle(broker, Retry(lease=await take_one(broker), delay_ms=500))
        clock.advance(499)
        assert await take(broker) == []
        clock.advance(1)
        lease = await take_one(broker)
        assert (lease.job.id, lease.attempt) == (job.id, 2)

    async def test_a_snoozed_job_comes_back_when_it_is_due(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        await enqueue(broker)
        await settle(broker, Snooze(lease=await take_one(broker), delay_ms=500))
        clock.advance(499)
        assert await take(broker) == []
        clock.advance(1)
        lease = await take_one(broker)
        assert (lease.attempt, lease.snoozes) == (1, 1)

    async def test_a_paused_queue_hands_out_nothing(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        await enqueue(broker)
        await enqueue(broker, delay_ms=10)
        other = await enqueue(broker, queue="other")
        await broker.pause(QUEUE)
        clock.advance(10)
        assert ids(await take(broker, QUEUE, "other")) == [other.id]
        assert await broker.reserve({QUEUE: 1}, worker=WORKER, limit=9, lease_ms=LEASE_MS) == []
        await broker.resume(QUEUE)
        assert len(await take(broker)) == 2

    @pytest.mark.parametrize("field", ["expires_after_ms", "deadline_after_ms"])
    async def test_an_overdue_job_is_never_started(
        self, broker: JobStore, clock: ManualClock, field: str
    ) -> None:
        job = await enqueue(broker, **{field: 100})
        later = await enqueue(broker)
        clock.advance(100)
        assert ids(await take(broker)) == [later.id]
        await settle_time(broker)
        assert await state_of(broker, job) is State.DEAD

    async def test_a_job_may_start_until_it_expires(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        job = await enqueue(broker, expires_after_ms=100)
        clock.advance(99)
        assert ids(await take(broker)) == [job.id]

    async def test_many_overdue_jobs_do_not_hide_a_good_one(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        await put(broker, *(make_job(expires_after_ms=5, priority=9) for _ in range(50)))
        good = await enqueue(broker)
        clock.advance(5)
        taken: list[str] = []
        for _ in range(60):
            taken += ids(await take(broker, limit=1))
            if taken:
                break
        assert taken == [good.id]


class ReserveSuspectContract:
    """A job with two crashes is handed out alone, so that only the guilty spend the last steps."""

    async def test_a_suspect_is_the_only_lease_of_its_call(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        suspect = await enqueue(broker, priority=5)
        await crash(broker, clock)
        await crash(broker, clock)
        others = [await enqueue(broker, priority=p) for p in (9, 5, 1)]
        batches: list[list[str]] = []
        while leases := await take(broker):
            batches.append(ids(leases))
        assert [suspect.id] in batches
        assert sorted(i for batch in batches for i in batch) == sorted(ids([suspect, *others]))

    async def test_two_suspects_come_one_at_a_time(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        jobs = [await enqueue(broker) for _ in range(2)]
        for _ in range(2):
            assert await take(broker)
            clock.advance(LEASE_MS + 1)
            await broker.maintain()
        first, second = await take(broker), await take(broker)
        assert [len(first), len(second)] == [1, 1]
        assert first[0].suspect
        assert sorted(ids([*first, *second])) == sorted(ids(jobs))

    async def test_a_suspect_does_not_wait_for_a_busy_queue_beside_its_own(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        suspect = await enqueue(broker, queue="small")
        for _ in range(2):
            assert await take(broker, "small")
            clock.advance(LEASE_MS + 1)
            await broker.maintain()
        behind = await enqueue(broker, queue="small")
        taken: list[str] = []
        for _ in range(8):
            for _ in range(4):
                await enqueue(broker, queue="busy")
            leases = await broker.reserve(
                {"busy": 3, "small": 1}, worker="w", limit=2, lease_ms=LEASE_MS
            )
            taken += ids(leases)
        assert suspect.id in taken
        assert behind.id in taken

    async def test_one_crash_does_not_make_a_suspect(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        await enqueue(broker)
        await crash(broker, clock)
        await enqueue(broker)
        assert len(await take(broker)) == 2


class OrderingKeyContract:
    """Jobs of one ordering key run one at a time, in the order of enqueueing."""

    async def test_one_job_of_a_key_runs_at_a_time(self, broker: JobStore) -> None:
        jobs = [await enqueue(broker, ordering_key="k") for _ in range(3)]
        for job in jobs:
            (lease,) = await take(broker)
            assert lease.job.id == job.id
            assert await take(broker) == []
            await settle(broker, Ack(lease=lease))

    async def test_keys_do_not_hold_each_other_up(self, broker: JobStore) -> None:
        a = [await enqueue(broker, ordering_key="a") for _ in range(2)]
        b = [await enqueue(broker, ordering_key="b") for _ in range(2)]
        free = await enqueue(broker)
        assert sorted(ids(await take(broker))) == sorted(ids([a[0], b[0], free]))

    async def test_an_ordering_key_belongs_to_its_queue(self, broker: JobStore) -> None:
        await enqueue(broker, queue="a", ordering_key="k")
        await enqueue(broker, queue="b", ordering_key="k")
        assert len(await take(broker, "a", "b")) == 2

    async def test_the_order_of_a_key_beats_priority(self, broker: JobStore) -> None:
        first = await enqueue(broker, ordering_key="k", priority=0)
        await enqueue(broker, ordering_key="k", priority=9)
        assert ids(await take(broker)) == [first.id]

    async def test_a_waiting_follower_says_what_blocks_it(self, broker: JobStore) -> None:
        await enqueue(broker, ordering_key="k")
        follower = await enqueue(broker, ordering_key="k")
        await take(broker)
        status = await status_of(broker, follower)
        assert (status.state, status.blocked_on) == (State.AVAILABLE, "ordering:k")

    async def test_a_retryable_head_holds_its_key(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        head = await enqueue(broker, ordering_key="k")
        await enqueue(broker, ordering_key="k")
        await settle(broker, Retry(lease=await take_one(broker), delay_ms=100))
        assert await take(broker) == []
        clock.advance(100)
        assert ids(await take(broker)) == [head.id]

    async def test_a_snoozed_head_holds_its_key(self, broker: JobStore, clock: ManualClock) -> None:
        head = await enqueue(broker, ordering_key="k")
        await enqueue(broker, ordering_key="k")
        await settle(broker, Snooze(lease=await take_one(broker), delay_ms=100))
        assert await take(broker) == []
        clock.advance(100)
        assert ids(await take(broker)) == [head.id]

    async def test_a_delayed_head_holds_its_key(self, broker: JobStore, clock: ManualClock) -> None:
        head = await enqueue(broker, ordering_key="k", delay_ms=100)
        await enqueue(broker, ordering_key="k")
        assert await take(broker) == []
        clock.advance(100)
        assert ids(await take(broker)) == [head.id]

    async def test_a_head_that_comes_back_waits_for_the_one_that_runs(
        self, broker: JobStore
    ) -> None:
        first = await enqueue(broker, ordering_key="k")
        await enqueue(broker, ordering_key="k")
        await settle(broker, Bury(lease=await take_one(broker)))
        second = await take_one(broker)
        await act(broker, RetryJob(ref=first.ref))
        assert await take(broker) == []
        await settle(broker, Ack(lease=second))
        assert ids(await take(broker)) == [first.id]

    async def test_a_job_moved_to_a_running_key_waits_for_its_turn(self, broker: JobStore) -> None:
        moved = await enqueue(broker, queue="from", ordering_key="k")
        await enqueue(broker, ordering_key="k")
        lease = await take_one(broker)
        await act(broker, MoveJob(ref=moved.ref, queue=QUEUE))
        assert await take(broker) == []
        await settle(broker, Ack(lease=lease))
        assert ids(await take(broker)) == [moved.id]

    async def test_a_crashed_head_runs_again_before_its_followers(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        head = await enqueue(broker, ordering_key="k")
        await enqueue(broker, ordering_key="k")
        await crash(broker, clock)
        assert ids(await take(broker)) == [head.id]

    @pytest.mark.parametrize("outcome", [Bury, Cancel])
    async def test_a_key_goes_on_after_a_failure(
        self, broker: JobStore, outcome: type[Bury | Cancel]
    ) -> None:
        await enqueue(broker, ordering_key="k")
        follower = await enqueue(broker, ordering_key="k")
        await settle(broker, outcome(lease=await take_one(broker)))
        assert ids(await take(broker)) == [follower.id]
