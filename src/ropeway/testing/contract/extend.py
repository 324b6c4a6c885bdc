"""`extend`: prolongs from now, carries progress and cursors, tells the holder what it must know."""

from ropeway.action import CancelJob
from ropeway.broker import Beat, ExtendAnswer, Extended, JobStore
from ropeway.job import Progress, State
from ropeway.outcome import Ack, Settled
from ropeway.testing.manual_clock import ManualClock
from ropeway.testing.steps import (
    LEASE_MS,
    QUEUE,
    STALE_TOKEN,
    act,
    crash,
    enqueue,
    make_job,
    record_of,
    settle,
    stale,
    state_of,
    status_of,
    take,
    take_one,
    with_token,
)


async def extend(broker: JobStore, *beats: Beat, lease_ms: int = LEASE_MS) -> list[Extended]:
    """Prolong leases."""
    return await broker.extend(beats, lease_ms=lease_ms)


class ExtendContract:
    """What every store keeps while jobs run."""

    async def test_a_lease_is_prolonged_from_now(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        job = await enqueue(broker)
        lease = await take_one(broker)
        clock.advance(4_000)
        (answer,) = await extend(broker, Beat(lease=lease), lease_ms=7_000)
        assert answer == Extended(ExtendAnswer.OK, clock.mono_ms() + 7_000)
        assert (await status_of(broker, job)).lease_until_ms == clock.mono_ms() + 7_000
        clock.advance(6_999)
        assert (await broker.maintain()).expired == 0
        clock.advance(2)
        assert (await broker.maintain()).expired == 1

    async def test_an_extended_lease_may_also_become_shorter(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        await enqueue(broker)
        lease = await take_one(broker)
        await extend(broker, Beat(lease=lease), lease_ms=100)
        clock.advance(101)
        assert (await broker.maintain()).expired == 1

    async def test_a_stale_token_is_lost_and_writes_nothing(self, broker: JobStore) -> None:
        job = await enqueue(broker)
        lease = await take_one(broker)
        before = await record_of(broker, job)
        beat = Beat(lease=with_token(lease, lease.token + 1), progress=Progress(1.0), saved=b"x")
        (answer,) = await extend(broker, beat, lease_ms=99_000)
        assert answer.answer is ExtendAnswer.LOST
        assert await record_of(broker, job) == before

    async def test_an_unknown_or_settled_job_is_lost(self, broker: JobStore) -> None:
        await enqueue(broker)
        lease = await take_one(broker)
        await settle(broker, Ack(lease=lease))
        answers = await extend(broker, Beat(lease=lease), Beat(lease=stale(make_job())))
        assert [a.answer for a in answers] == [ExtendAnswer.LOST, ExtendAnswer.LOST]

    async def test_an_expired_lease_nobody_took_back_can_be_prolonged(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        await enqueue(broker)
        lease = await take_one(broker)
        clock.advance(LEASE_MS * 2)
        (answer,) = await extend(broker, Beat(lease=lease))
        assert answer.answer is ExtendAnswer.OK
        assert (await broker.maintain()).expired == 0

    async def test_a_holder_is_told_that_its_job_shall_stop(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        job = await enqueue(broker)
        lease = await take_one(broker)
        await act(broker, CancelJob(ref=job.ref))
        clock.advance(1_000)
        (answer,) = await extend(broker, Beat(lease=lease))
        assert answer == Extended(ExtendAnswer.CANCEL_REQUESTED, clock.mono_ms() + LEASE_MS)
        assert await state_of(broker, job) is State.RUNNING

    async def test_a_holder_is_told_that_its_queue_is_paused(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        await enqueue(broker)
        await enqueue(broker, queue="other")
        leases = await take(broker, QUEUE, "other")
        await broker.pause(QUEUE)
        clock.advance(1_000)
        answers = await extend(broker, *(Beat(lease=lease) for lease in leases))
        assert [a.answer for a in answers] == [ExtendAnswer.PAUSED, ExtendAnswer.OK]
        assert answers[0].expires_at_ms == clock.mono_ms() + LEASE_MS
        await broker.resume(QUEUE)
        (answer,) = await extend(broker, Beat(lease=leases[0]))
        assert answer.answer is ExtendAnswer.OK

    async def test_beats_are_answered_by_position(self, broker: JobStore) -> None:
        await enqueue(broker)
        await enqueue(broker)
        a, b = await take(broker)
        answers = await extend(
            broker, Beat(lease=a), Beat(lease=with_token(b, STALE_TOKEN)), Beat(lease=b)
        )
        assert [x.answer for x in answers] == [
            ExtendAnswer.OK,
            ExtendAnswer.LOST,
            ExtendAnswer.OK,
        ]

    async def test_nothing_to_extend_is_fine(self, broker: JobStore) -> None:
        assert await extend(broker) == []

    async def test_progress_is_kept_until_told_otherwise(self, broker: JobStore) -> None:
        job = await enqueue(broker)
        lease = await take_one(broker)
        await extend(broker, Beat(lease=lease, progress=Progress(0.5, "half")))
        assert (await status_of(broker, job)).progress == Progress(0.5, "half")
        await extend(broker, Beat(lease=lease))
        assert (await status_of(broker, job)).progress == Progress(0.5, "half")

    async def test_a_saved_cursor_survives_a_crash(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        await enqueue(broker)
        lease = await take_one(broker)
        await extend(broker, Beat(lease=lease, saved=b"\x00page 7"))
        await extend(broker, Beat(lease=lease))
        clock.advance(LEASE_MS + 1)
        await broker.maintain()
        again = await take_one(broker)
        assert (again.saved, again.crashes) == (b"\x00page 7", 1)

    async def test_a_late_beat_is_lost_and_takes_the_crash_back(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        job = await enqueue(broker)
        lease = await crash(broker, clock)
        assert len((await status_of(broker, job)).crashes) == 1
        (answer,) = await extend(broker, Beat(lease=lease))
        assert answer.answer is ExtendAnswer.LOST
        assert (await status_of(broker, job)).crashes == ()

    async def test_a_late_outcome_is_lost_and_takes_the_crash_back(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        job = await enqueue(broker)
        lease = await crash(broker, clock)
        running = await take_one(broker, worker="w2")
        assert await settle(broker, Ack(lease=lease)) is Settled.LOST
        status = await status_of(broker, job)
        assert (status.state, status.crashes) == (State.RUNNING, ())
        assert await settle(broker, Ack(lease=running)) is Settled.OK

    async def test_only_the_answering_holders_crash_is_taken_back(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        job = await enqueue(broker)
        first = await crash(broker, clock)
        second = await crash(broker, clock)
        await settle(broker, Ack(lease=first))
        assert [c.token for c in (await status_of(broker, job)).crashes] == [second.token]
