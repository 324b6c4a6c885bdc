"""`settle`: seven outcomes, written once, by the holder of the current token only."""

import asyncio

import pytest

from ropeway.action import CancelJob
from ropeway.broker import Beat, EnqueueAnswer, ExtendAnswer, JobStore
from ropeway.errors import ConfigError
from ropeway.job import Failure, Lease, Progress, State, UniqueKey
from ropeway.lifecycle import ERRORS_KEPT
from ropeway.outcome import Ack, Bury, Cancel, Crashed, Outcome, Release, Retry, Settled, Snooze
from ropeway.testing.manual_clock import ManualClock
from ropeway.testing.steps import (
    LEASE_MS,
    QUEUE,
    STALE_TOKEN,
    act,
    all_records,
    crash,
    enqueue,
    find_record,
    ids,
    make_job,
    put,
    record_of,
    settle,
    stale,
    state_of,
    status_of,
    take,
    take_one,
    with_token,
)


def outcomes_of(lease: Lease) -> list[Outcome]:
    """One of each kind."""
    return [
        Ack(lease=lease),
        Retry(lease=lease, delay_ms=5),
        Snooze(lease=lease, delay_ms=5),
        Release(lease=lease),
        Bury(lease=lease),
        Cancel(lease=lease),
        Crashed(lease=lease),
    ]


def failure(number: int = 1) -> Failure:
    """A failed attempt, told apart by its number."""
    return Failure(at_ms=number, attempt=number, type="ValueError", message=f"no. {number}")


class SettleOutcomeContract:
    """What each of the seven outcomes writes."""

    async def test_ack_completes_and_keeps_the_result(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        job = await enqueue(broker)
        lease = await take_one(broker)
        clock.advance(5)
        ack = Ack(lease=lease, result=b"\x00\xff", result_codec="msgpack")
        assert await settle(broker, ack) is Settled.OK
        status = await status_of(broker, job)
        assert status.state is State.COMPLETED
        assert (status.result, status.result_codec) == (b"\x00\xff", "msgpack")
        assert status.finished_at_ms == clock.wall_ms()
        assert status.attempt == 1

    async def test_retry_counts_the_attempt_and_keeps_the_failure(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        job = await enqueue(broker)
        retry = Retry(lease=await take_one(broker), delay_ms=700, failure=failure())
        assert await settle(broker, retry) is Settled.OK
        status = await status_of(broker, job)
        assert (status.state, status.attempt) == (State.RETRYABLE, 1)
        assert status.due_ms == clock.wall_ms() + 700
        assert status.errors == (failure(),)

    async def test_an_uncounted_retry_gives_the_attempt_back(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        job = await enqueue(broker)
        await settle(broker, Retry(lease=await take_one(broker), delay_ms=1, counted=False))
        assert (await status_of(broker, job)).attempt == 0
        clock.advance(1)
        assert (await take_one(broker)).attempt == 1

    async def test_snooze_is_never_counted(self, broker: JobStore, clock: ManualClock) -> None:
        job = await enqueue(broker)
        for number in (1, 2, 3):
            lease = await take_one(broker)
            assert (lease.attempt, lease.snoozes) == (1, number - 1)
            await settle(broker, Snooze(lease=lease, delay_ms=10, reason="unknown_task"))
            status = await status_of(broker, job)
            assert (status.state, status.attempt) == (State.SCHEDULED, 0)
            assert (status.snoozes, status.reason) == (number, "unknown_task")
            assert status.due_ms == clock.wall_ms() + 10
            clock.advance(10)

    async def test_a_counted_retry_ends_the_row_of_snoozes(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        job = await enqueue(broker)
        await settle(broker, Snooze(lease=await take_one(broker), delay_ms=1))
        clock.advance(1)
        await settle(broker, Retry(lease=await take_one(broker), delay_ms=1))
        assert (await status_of(broker, job)).snoozes == 0

    async def test_release_hands_the_job_back_at_its_old_place(self, broker: JobStore) -> None:
        jobs = [await enqueue(broker) for _ in range(3)]
        before = await status_of(broker, jobs[0])
        lease = await take_one(broker)
        assert await settle(broker, Release(lease=lease)) is Settled.OK
        after = await status_of(broker, jobs[0])
        assert (after.state, after.attempt) == (State.AVAILABLE, 0)
        assert (after.due_ms, after.seq, after.rank) == (before.due_ms, before.seq, before.rank)
        assert ids(await take(broker)) == ids(jobs)

    async def test_bury_keeps_the_dead_with_its_reason(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        job = await enqueue(broker)
        bury = Bury(lease=await take_one(broker), failure=failure(), reason="attempts")
        assert await settle(broker, bury) is Settled.OK
        status = await status_of(broker, job)
        assert (status.state, status.reason) == (State.DEAD, "attempts")
        assert status.errors == (failure(),)
        assert status.finished_at_ms == clock.wall_ms()

    async def test_cancel_ends_the_job_on_purpose(self, broker: JobStore) -> None:
        job = await enqueue(broker)
        assert await settle(broker, Cancel(lease=await take_one(broker), reason="gone"))
        status = await status_of(broker, job)
        assert (status.state, status.reason) == (State.CANCELLED, "gone")

    async def test_the_newest_failures_are_kept_and_the_list_is_bounded(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        job = await enqueue(broker)
        for number in range(ERRORS_KEPT + 3):
            lease = await take_one(broker)
            await settle(broker, Retry(lease=lease, delay_ms=1, failure=failure(number)))
            clock.advance(1)
        errors = (await status_of(broker, job)).errors
        assert [e.attempt for e in errors] == list(range(3, ERRORS_KEPT + 3))

    async def test_crashed_hands_the_job_back_at_once_and_counts_a_crash(
        self, broker: JobStore
    ) -> None:
        job = await enqueue(broker)
        await enqueue(broker)
        lease = await take_one(broker)
        assert await settle(broker, Crashed(lease=lease)) is Settled.OK
        status = await status_of(broker, job)
        assert (status.state, status.attempt) == (State.AVAILABLE, 0)
        assert [crash.token for crash in status.crashes] == [lease.token]
        assert (await take_one(broker)).job.id == job.id, "it is back at its old place"

    async def test_a_crash_that_the_holder_told_itself_is_not_taken_back(
        self, broker: JobStore
    ) -> None:
        job = await enqueue(broker)
        lease = await take_one(broker)
        await settle(broker, Crashed(lease=lease))
        (late,) = await broker.extend([Beat(lease=lease)], lease_ms=1_000)
        assert late.answer is ExtendAnswer.LOST
        assert await settle(broker, Crashed(lease=lease)) is Settled.ALREADY
        assert len((await status_of(broker, job)).crashes) == 1

    async def test_crashed_buries_the_job_when_its_budget_is_spent(self, broker: JobStore) -> None:
        job = await enqueue(broker, crash_max=1)
        await settle(broker, Crashed(lease=await take_one(broker)))
        await settle(broker, Crashed(lease=await take_one(broker)))
        status = await status_of(broker, job)
        assert (status.state, status.reason) == (State.DEAD, "crashed_worker")

    async def test_a_cancel_asked_for_meanwhile_is_honoured_unless_the_job_ended(
        self, broker: JobStore
    ) -> None:
        expected = {
            Ack: State.COMPLETED,
            Retry: State.CANCELLED,
            Snooze: State.CANCELLED,
            Release: State.CANCELLED,
            Bury: State.DEAD,
            Cancel: State.CANCELLED,
            Crashed: State.CANCELLED,
        }
        for position, (kind, state) in enumerate(expected.items()):
            job = await enqueue(broker)
            lease = await take_one(broker)
            await act(broker, CancelJob(ref=job.ref, reason="enough"))
            assert await settle(broker, outcomes_of(lease)[position]) is Settled.OK
            status = await status_of(broker, job)
            assert status.state is state, kind
            if state is State.CANCELLED:
                assert status.reason == "enough", kind


class SettleFenceContract:
    """Only the current token counts."""

    @pytest.mark.parametrize("kind", range(7))
    async def test_an_unknown_token_is_lost_and_changes_nothing(
        self, broker: JobStore, kind: int
    ) -> None:
        job = await enqueue(broker)
        lease = await take_one(broker)
        before = await record_of(broker, job)
        for token in (lease.token + 1, lease.token - 1 or -1, STALE_TOKEN):
            outcome = outcomes_of(with_token(lease, token))[kind]
            assert await settle(broker, outcome) is Settled.LOST
        assert await record_of(broker, job) == before

    async def test_an_unknown_job_is_lost(self, broker: JobStore) -> None:
        assert await settle(broker, Ack(lease=stale(make_job()))) is Settled.LOST

    async def test_a_token_counts_for_its_own_job_only(self, broker: JobStore) -> None:
        first, second = await enqueue(broker), await enqueue(broker)
        held = await take_one(broker)
        wrong = Lease(job=second, attempt=1, token=held.token, expires_at_ms=0)
        assert await settle(broker, Ack(lease=wrong)) is Settled.LOST
        assert await state_of(broker, first) is State.RUNNING
        assert await state_of(broker, second) is State.AVAILABLE

    @pytest.mark.parametrize("kind", range(7))
    async def test_the_token_that_settled_gets_already(self, broker: JobStore, kind: int) -> None:
        job = await enqueue(broker)
        lease = await take_one(broker)
        assert await settle(broker, outcomes_of(lease)[kind]) is Settled.OK
        before = await record_of(broker, job)
        for outcome in outcomes_of(lease):
            assert await settle(broker, outcome) is Settled.ALREADY
        assert await record_of(broker, job) == before

    async def test_a_settled_job_without_a_record_is_lost(self, broker: JobStore) -> None:
        await enqueue(broker, retention_ms=0)
        lease = await take_one(broker)
        assert await settle(broker, Ack(lease=lease)) is Settled.OK
        assert await settle(broker, Ack(lease=lease)) is Settled.LOST

    async def test_a_stale_worker_cannot_settle_the_next_attempt(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        job = await enqueue(broker)
        old = await crash(broker, clock)
        new = await take_one(broker, worker="w2")
        assert await settle(broker, Bury(lease=old)) is Settled.LOST
        assert await state_of(broker, job) is State.RUNNING
        assert await settle(broker, Ack(lease=new)) is Settled.OK

    async def test_an_expired_lease_nobody_took_back_still_settles(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        job = await enqueue(broker)
        lease = await take_one(broker)
        clock.advance(LEASE_MS * 3)
        assert await settle(broker, Ack(lease=lease)) is Settled.OK
        assert await state_of(broker, job) is State.COMPLETED

    async def test_leases_of_one_reserve_are_settled_one_by_one(self, broker: JobStore) -> None:
        jobs = [await enqueue(broker) for _ in range(3)]
        a, b, c = await take(broker)
        assert await settle(broker, Ack(lease=b)) is Settled.OK
        assert [await state_of(broker, job) for job in jobs] == [
            State.RUNNING,
            State.COMPLETED,
            State.RUNNING,
        ]
        assert await broker.settle([Ack(lease=a), Ack(lease=c)]) == [Settled.OK, Settled.OK]

    async def test_answers_come_by_position_and_outcomes_are_independent(
        self, broker: JobStore
    ) -> None:
        jobs = [await enqueue(broker) for _ in range(3)]
        a, b, c = await take(broker)
        answers = await broker.settle(
            [Ack(lease=a), Ack(lease=with_token(b, STALE_TOKEN)), Bury(lease=c), Ack(lease=a)]
        )
        assert answers == [Settled.OK, Settled.LOST, Settled.OK, Settled.ALREADY]
        states = [await state_of(broker, job) for job in jobs]
        assert states == [State.COMPLETED, State.RUNNING, State.DEAD]

    async def test_a_repeat_in_one_call_is_lost_when_the_record_is_gone(
        self, broker: JobStore
    ) -> None:
        await enqueue(broker, retention_ms=0)
        ack = Ack(lease=await take_one(broker))
        assert await broker.settle([ack, ack]) == [Settled.OK, Settled.LOST]

    async def test_of_many_concurrent_settles_one_counts(self, broker: JobStore) -> None:
        await enqueue(broker)
        lease = await take_one(broker)
        ends = [Ack(lease=lease, then=(make_job(queue="next"),)) for _ in range(10)]
        answers = await asyncio.gather(*(settle(broker, end) for end in ends))
        assert sorted(answers) == [Settled.ALREADY] * 9 + [Settled.OK]
        assert len(await all_records(broker)) == 2

    async def test_many_workers_at_once_run_each_job_once(self, broker: JobStore) -> None:
        jobs = [make_job() for _ in range(120)]
        await put(broker, *jobs)
        done: list[str] = []

        async def work(name: str) -> None:
            while leases := await take(broker, limit=7, worker=name):
                answers = await broker.settle([Ack(lease=lease) for lease in leases])
                assert set(answers) == {Settled.OK}
                done.extend(ids(leases))

        await asyncio.gather(*(work(f"w{n}") for n in range(5)))
        assert sorted(done) == sorted(ids(jobs))
        (info,) = await broker.queues()
        assert {s: n for s, n in info.counts.items() if n} == {State.COMPLETED: len(jobs)}

    async def test_a_lost_lease_is_judged_by_what_the_call_has_made_of_its_job(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        job = await enqueue(broker)
        lost = await crash(broker, clock)
        held = await take_one(broker)
        answers = await broker.settle([Ack(lease=held), Ack(lease=lost)])
        assert answers == [Settled.OK, Settled.LOST]
        status = await status_of(broker, job)
        assert (status.state, len(status.crashes)) == (State.COMPLETED, 1)

    async def test_nothing_to_settle_is_fine(self, broker: JobStore) -> None:
        assert await broker.settle([]) == []


class SettleStepContract:
    """What happens in the same atomic step."""

    async def test_then_jobs_exist_once_the_job_is_completed(self, broker: JobStore) -> None:
        await enqueue(broker)
        nexts = (make_job(queue="next"), make_job(queue="next", delay_ms=1_000))
        await settle(broker, Ack(lease=await take_one(broker), then=nexts))
        assert [await state_of(broker, job) for job in nexts] == [
            State.AVAILABLE,
            State.SCHEDULED,
        ]
        assert ids(await take(broker, "next")) == [nexts[0].id]

    async def test_a_lost_ack_enqueues_nothing(self, broker: JobStore) -> None:
        await enqueue(broker)
        lease = await take_one(broker)
        after = make_job(queue="next")
        await settle(broker, Ack(lease=with_token(lease, STALE_TOKEN), then=(after,)))
        assert await find_record(broker, after) is None

    async def test_a_repeated_ack_enqueues_nothing_twice(self, broker: JobStore) -> None:
        await enqueue(broker)
        ack = Ack(lease=await take_one(broker), then=(make_job(queue="next"),))
        assert await settle(broker, ack) is Settled.OK
        assert await settle(broker, ack) is Settled.ALREADY
        assert len(await all_records(broker)) == 2

    async def test_a_bad_then_job_refuses_the_whole_call(self, broker: JobStore) -> None:
        jobs = [await enqueue(broker) for _ in range(2)]
        first, second = await take(broker)
        bad = Ack(lease=second, then=(make_job(), make_job(priority=99)))
        with pytest.raises(ConfigError):
            await broker.settle([Ack(lease=first), bad])
        assert [await state_of(broker, job) for job in jobs] == [State.RUNNING] * 2
        assert len(await all_records(broker)) == 2

    async def test_a_then_job_that_exists_is_left_alone(self, broker: JobStore) -> None:
        known = await enqueue(broker, queue="next")
        before = await record_of(broker, known)
        await enqueue(broker)
        assert await settle(broker, Ack(lease=await take_one(broker), then=(known,))) is Settled.OK
        assert await record_of(broker, known) == before

    async def test_a_then_job_can_take_over_the_unique_key(self, broker: JobStore) -> None:
        await enqueue(broker, unique=UniqueKey(key="k"))
        successor = make_job(unique=UniqueKey(key="k"))
        await settle(broker, Ack(lease=await take_one(broker), then=(successor,)))
        assert await state_of(broker, successor) is State.AVAILABLE
        assert await put(broker, make_job(unique=UniqueKey(key="k"))) == [
            EnqueueAnswer.DUPLICATE_KEY
        ]

    async def test_retention_0_removes_the_record_at_ack(self, broker: JobStore) -> None:
        job = await enqueue(broker, retention_ms=0)
        await settle(broker, Ack(lease=await take_one(broker)))
        assert await find_record(broker, job) is None
        assert await broker.queues() == []

    async def test_progress_and_saved_end_as_the_outcome_says(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        job = await enqueue(broker)
        lease = await take_one(broker)
        beat = Beat(lease=lease, progress=Progress(0.5, "half"), saved=b"page 7")
        await broker.extend([beat], lease_ms=LEASE_MS)
        await settle(broker, Retry(lease=lease, delay_ms=1))
        clock.advance(1)
        again = await take_one(broker)
        assert again.saved == b"page 7"
        await settle(broker, Ack(lease=again))
        assert (await status_of(broker, job)).saved is None

    async def test_counters_follow_each_settle(self, broker: JobStore) -> None:
        for _ in range(7):
            await enqueue(broker)
        leases = await take(broker)
        for position, lease in enumerate(leases):
            await settle(broker, outcomes_of(lease)[position])
        (info,) = await broker.queues()
        assert info.name == QUEUE
        assert {s: n for s, n in info.counts.items() if n} == {
            State.COMPLETED: 1,
            State.RETRYABLE: 1,
            State.SCHEDULED: 1,
            State.AVAILABLE: 2,  # released, and crashed
            State.DEAD: 1,
            State.CANCELLED: 1,
        }

    async def test_exchange_settles_then_reserves(self, broker: JobStore) -> None:
        first, second = await enqueue(broker), await enqueue(broker)
        lease = await take_one(broker)
        answers, leases = await broker.exchange(
            [Ack(lease=lease), Ack(lease=stale(first))],
            [QUEUE],
            worker="w2",
            limit=5,
            lease_ms=LEASE_MS,
        )
        assert answers == [Settled.OK, Settled.LOST]
        assert ids(leases) == [second.id]
        assert (await status_of(broker, second)).worker == "w2"

    async def test_exchange_hands_out_what_it_released(self, broker: JobStore) -> None:
        job = await enqueue(broker)
        lease = await take_one(broker)
        _, leases = await broker.exchange(
            [Release(lease=lease)], [QUEUE], worker="w2", limit=1, lease_ms=LEASE_MS
        )
        assert ids(leases) == [job.id]
        assert leases[0].token > lease.token
