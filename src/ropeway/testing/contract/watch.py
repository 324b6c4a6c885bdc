"""`wait`, waking up, `append` and `events`, `send` and `signals`."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from ropeway.action import CancelJob, DeleteJob, MoveJob, RetryJob, RunNow
from ropeway.broker import EVENTS_BYTES_KEPT, EVENTS_KEPT, Entry, ExtendAnswer, JobStore, Signal
from ropeway.job import JobRef, Lease, State
from ropeway.outcome import Ack, Bury, Release
from ropeway.runtime import new_id
from ropeway.testing.manual_clock import ManualClock
from ropeway.testing.steps import (
    HOUR_MS,
    LEASE_MS,
    QUEUE,
    STALE_TOKEN,
    WORKER,
    act,
    bring_to,
    enqueue,
    ids,
    make_job,
    put,
    settle,
    stale,
    state_of,
    take,
    take_one,
    with_token,
)

SOON_S = 3.0  # real seconds: far more than any wake-up takes, far less than a test may hang
Step = Callable[[], Awaitable[object]]


async def waiting_reserve(broker: JobStore, *queues: str, wait_ms: int = 10_000) -> list[Lease]:
    """Reserve with a long wait."""
    return await broker.reserve(
        queues or (QUEUE,), worker=WORKER, limit=5, lease_ms=LEASE_MS, wait_ms=wait_ms
    )


async def woken_by(broker: JobStore, step: Step) -> list[Lease]:
    """What a reserve that is already waiting gets soon after `step`."""
    waiting = asyncio.create_task(waiting_reserve(broker))
    await asyncio.sleep(0.03)
    assert not waiting.done()
    await step()
    return await asyncio.wait_for(waiting, SOON_S)


class WakeContract:
    """A waiting `reserve` wakes as soon as a job can be had."""

    async def test_an_enqueue_wakes_it(self, broker: JobStore) -> None:
        job = make_job()
        assert ids(await woken_by(broker, lambda: put(broker, job))) == [job.id]

    async def test_a_then_job_wakes_it(self, broker: JobStore) -> None:
        await enqueue(broker, queue="first")
        ack = Ack(lease=await take_one(broker, "first"), then=(make_job(),))
        assert len(await woken_by(broker, lambda: settle(broker, ack))) == 1

    async def test_an_unblocked_child_wakes_it(self, broker: JobStore) -> None:
        parent = await enqueue(broker, queue="first")
        child = await enqueue(broker, parents=(parent.id,))
        ack = Ack(lease=await take_one(broker, "first"))
        assert ids(await woken_by(broker, lambda: settle(broker, ack))) == [child.id]

    async def test_a_release_wakes_it(self, broker: JobStore) -> None:
        await enqueue(broker)
        release = Release(lease=await take_one(broker))
        assert len(await woken_by(broker, lambda: settle(broker, release))) == 1

    async def test_the_next_job_of_an_ordering_key_wakes_it(self, broker: JobStore) -> None:
        await enqueue(broker, ordering_key="k")
        follower = await enqueue(broker, ordering_key="k")
        ack = Ack(lease=await take_one(broker))
        assert ids(await woken_by(broker, lambda: settle(broker, ack))) == [follower.id]

    async def test_resume_wakes_it(self, broker: JobStore) -> None:
        await enqueue(broker)
        await broker.pause(QUEUE)
        assert len(await woken_by(broker, lambda: broker.resume(QUEUE))) == 1

    async def test_abandon_wakes_it(self, broker: JobStore) -> None:
        await enqueue(broker)
        await take_one(broker, worker="dead")
        assert len(await woken_by(broker, lambda: broker.abandon(["dead"]))) == 1

    async def test_a_child_that_runs_after_a_failed_parent_wakes_it(self, broker: JobStore) -> None:
        parent = await enqueue(broker, queue="first")
        child = await enqueue(broker, parents=(parent.id,), on_parent_failed="run")
        await settle(broker, Bury(lease=await take_one(broker, "first")))
        assert ids(await woken_by(broker, broker.maintain)) == [child.id]

    async def test_a_lease_that_maintain_takes_back_wakes_it(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        await enqueue(broker)
        await take_one(broker)
        clock.advance(LEASE_MS + 1)
        assert len(await woken_by(broker, broker.maintain)) == 1

    async def test_an_operator_wakes_it(self, broker: JobStore) -> None:
        scheduled = await enqueue(broker, delay_ms=HOUR_MS)
        dead, _ = await bring_to(broker, State.DEAD, queue="dead")
        other = await enqueue(broker, queue="other")
        for step, job in (
            (lambda: act(broker, RunNow(ref=scheduled.ref)), scheduled),
            (lambda: act(broker, MoveJob(ref=other.ref, queue=QUEUE)), other),
        ):
            assert ids(await woken_by(broker, step)) == [job.id]
        waiting = asyncio.create_task(waiting_reserve(broker, "dead"))
        await asyncio.sleep(0.03)
        await act(broker, RetryJob(ref=dead.ref))
        assert ids(await asyncio.wait_for(waiting, SOON_S)) == [dead.id]

    async def test_it_wakes_at_the_next_due_time(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        job = await enqueue(broker, delay_ms=80)
        waiting = asyncio.create_task(waiting_reserve(broker))
        await asyncio.sleep(0.02)
        clock.advance(80)
        assert ids(await asyncio.wait_for(waiting, SOON_S)) == [job.id]

    async def test_it_does_not_wait_when_a_job_is_there(self, broker: JobStore) -> None:
        job = await enqueue(broker)
        assert ids(await asyncio.wait_for(waiting_reserve(broker), SOON_S)) == [job.id]

    async def test_it_gives_up_after_its_time(self, broker: JobStore) -> None:
        await enqueue(broker, queue="other")
        waiting = waiting_reserve(broker, wait_ms=40)
        assert await asyncio.wait_for(waiting, SOON_S) == []

    async def test_one_job_goes_to_one_of_many_waiters(self, broker: JobStore) -> None:
        waiters = [asyncio.create_task(waiting_reserve(broker, wait_ms=400)) for _ in range(4)]
        await asyncio.sleep(0.03)
        job = await enqueue(broker)
        batches = await asyncio.gather(*waiters)
        assert [i for batch in batches for i in ids(batch)] == [job.id]

    async def test_a_cancelled_waiter_takes_no_job_with_it(self, broker: JobStore) -> None:
        waiting = asyncio.create_task(waiting_reserve(broker))
        await asyncio.sleep(0.03)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        job = await enqueue(broker)
        leases = await take(broker)
        assert [(lease.job.id, lease.attempt) for lease in leases] == [(job.id, 1)]


class WaitContract:
    """`wait` answers when jobs have ended."""

    async def test_a_final_job_is_answered_at_once(self, broker: JobStore) -> None:
        job, _ = await bring_to(broker, State.COMPLETED)
        (record,) = await asyncio.wait_for(broker.wait([job.ref], timeout_ms=10_000), SOON_S)
        assert record is not None
        assert record.status.state is State.COMPLETED

    @pytest.mark.parametrize("retention_ms", [None, 0])
    async def test_a_waiter_gets_the_record_of_the_end(
        self, broker: JobStore, retention_ms: int | None
    ) -> None:
        job = await enqueue(broker, retention_ms=retention_ms)
        lease = await take_one(broker)
        waiting = asyncio.create_task(broker.wait([job.ref], timeout_ms=10_000))
        await asyncio.sleep(0.03)
        await settle(broker, Ack(lease=lease, result=b"42"))
        (record,) = await asyncio.wait_for(waiting, SOON_S)
        assert record is not None
        assert (record.status.state, record.status.result) == (State.COMPLETED, b"42")

    async def test_one_who_waits_no_more_takes_nothing_from_another(self, broker: JobStore) -> None:
        job = await enqueue(broker, retention_ms=0)
        lease = await take_one(broker)
        waiting = asyncio.create_task(broker.wait([job.ref], timeout_ms=10_000))
        await asyncio.sleep(0.03)
        assert await broker.wait([job.ref], timeout_ms=30) == [None]
        await settle(broker, Ack(lease=lease))
        (record,) = await asyncio.wait_for(waiting, SOON_S)
        assert record is not None

    async def test_a_waiter_keeps_no_record_but_its_own(self, broker: JobStore) -> None:
        waited, other = [await enqueue(broker, retention_ms=0) for _ in range(2)]
        leases = await take(broker)
        waiting = asyncio.create_task(broker.wait([waited.ref], timeout_ms=10_000))
        await asyncio.sleep(0.03)
        await broker.settle([Ack(lease=lease) for lease in leases])
        assert await state_of(broker, other) is None
        (record,) = await asyncio.wait_for(waiting, SOON_S)
        assert record is not None

    async def test_every_kind_of_end_wakes_a_waiter(self, broker: JobStore) -> None:
        buried, cancelled = await enqueue(broker, queue="b"), await enqueue(broker)
        lease = await take_one(broker, "b")
        waiting = asyncio.create_task(broker.wait([cancelled.ref, buried.ref], timeout_ms=10_000))
        await asyncio.sleep(0.03)
        await settle(broker, Bury(lease=lease))
        await asyncio.sleep(0.03)
        assert not waiting.done()
        await act(broker, CancelJob(ref=cancelled.ref))
        records = await asyncio.wait_for(waiting, SOON_S)
        assert [r and r.status.state for r in records] == [State.CANCELLED, State.DEAD]

    async def test_after_its_time_it_answers_with_what_has_ended(self, broker: JobStore) -> None:
        done, _ = await bring_to(broker, State.DEAD, queue="dead")
        open_job = await enqueue(broker)
        refs = [open_job.ref, done.ref, JobRef(new_id())]
        records = await asyncio.wait_for(broker.wait(refs, timeout_ms=40), SOON_S)
        assert [r and r.job.id for r in records] == [None, done.id, None]

    async def test_a_job_without_a_record_is_answered_at_once(self, broker: JobStore) -> None:
        waiting = broker.wait([JobRef(new_id()), JobRef(new_id(), "q")], timeout_ms=10_000)
        assert await asyncio.wait_for(waiting, SOON_S) == [None, None]

    @pytest.mark.parametrize("purged", [True, False])
    async def test_a_waiter_learns_that_its_job_was_removed(
        self,
        broker: JobStore,
        purged: bool,  # noqa: FBT001 - a row of the table above
    ) -> None:
        job = await enqueue(broker)
        waiting = asyncio.create_task(broker.wait([job.ref], timeout_ms=10_000))
        await asyncio.sleep(0.03)
        if purged:
            await broker.purge(QUEUE)
        else:
            await act(broker, DeleteJob(ref=job.ref))
        assert await asyncio.wait_for(waiting, SOON_S) == [None]

    async def test_timeout_0_only_looks(self, broker: JobStore) -> None:
        job = await enqueue(broker)
        assert await asyncio.wait_for(broker.wait([job.ref], timeout_ms=0), SOON_S) == [None]

    async def test_a_retry_by_the_job_itself_is_no_end(self, broker: JobStore) -> None:
        job = await enqueue(broker)
        release = Release(lease=await take_one(broker))
        waiting = asyncio.create_task(broker.wait([job.ref], timeout_ms=80))
        await asyncio.sleep(0.02)
        await settle(broker, release)
        assert await asyncio.wait_for(waiting, SOON_S) == [None]


def log(lease: Lease, data: str) -> Entry:
    """One line of a log."""
    return Entry(lease=lease, kind="log", at_ms=7, data=data)


async def lines(broker: JobStore, ref: JobRef, *, after: int = 0, limit: int = 1000) -> list[str]:
    """The log lines of a job's stream, whatever else a store writes there."""
    events = await broker.events(ref, after=after, limit=limit)
    return [event.data for event in events if event.kind == "log"]


class EventsContract:
    """A job's own stream, written under its lease."""

    async def test_entries_come_back_in_order(self, broker: JobStore) -> None:
        job = await enqueue(broker)
        lease = await take_one(broker)
        assert await broker.append([log(lease, "a"), log(lease, "b")]) == [ExtendAnswer.OK] * 2
        await broker.append([log(lease, "c")])
        events = [e for e in await broker.events(job.ref) if e.kind == "log"]
        assert [e.data for e in events] == ["a", "b", "c"]
        assert [e.at_ms for e in events] == [7, 7, 7]
        assert [e.seq for e in events] == sorted({e.seq for e in events})
        assert await lines(broker, job.ref, after=events[0].seq) == ["b", "c"]
        assert await lines(broker, job.ref, after=events[2].seq) == []
        assert len(await broker.events(job.ref, limit=2)) == 2

    async def test_each_job_has_a_stream_of_its_own(self, broker: JobStore) -> None:
        first, second = await enqueue(broker), await enqueue(broker)
        a, b = await take(broker)
        await broker.append([log(a, "1"), log(b, "2"), log(a, "3")])
        assert await lines(broker, first.ref) == ["1", "3"]
        assert await lines(broker, second.ref) == ["2"]

    async def test_a_stale_token_writes_nothing(self, broker: JobStore) -> None:
        job = await enqueue(broker)
        lease = await take_one(broker)
        answers = await broker.append(
            [log(with_token(lease, STALE_TOKEN), "x"), log(lease, "y"), log(stale(make_job()), "z")]
        )
        assert answers == [ExtendAnswer.LOST, ExtendAnswer.OK, ExtendAnswer.LOST]
        await settle(broker, Ack(lease=lease))
        assert await broker.append([log(lease, "late")]) == [ExtendAnswer.LOST]
        assert await lines(broker, job.ref) == ["y"]

    async def test_a_stream_keeps_its_newest_entries(self, broker: JobStore) -> None:
        job = await enqueue(broker)
        lease = await take_one(broker)
        await broker.append([log(lease, str(n)) for n in range(EVENTS_KEPT + 50)])
        kept = await lines(broker, job.ref, limit=5_000)
        assert len(kept) <= EVENTS_KEPT
        assert kept[-1] == str(EVENTS_KEPT + 49)
        assert int(kept[0]) >= 50

    async def test_a_stream_keeps_a_bounded_number_of_bytes(self, broker: JobStore) -> None:
        job = await enqueue(broker)
        lease = await take_one(broker)
        size = EVENTS_BYTES_KEPT // 10
        for letter in "abcdefghijklmno":
            await broker.append([log(lease, letter * size)])
        kept = await lines(broker, job.ref)
        assert sum(map(len, kept)) <= EVENTS_BYTES_KEPT
        assert len(kept) >= 5
        assert kept[-1][0] == "o"

    async def test_a_stream_goes_with_its_record(self, broker: JobStore) -> None:
        job = await enqueue(broker)
        lease = await take_one(broker)
        await broker.append([log(lease, "a")])
        await settle(broker, Ack(lease=lease))
        assert await lines(broker, job.ref) == ["a"]
        await act(broker, DeleteJob(ref=job.ref))
        assert await broker.events(job.ref) == []
        await put(broker, job)
        assert await lines(broker, job.ref) == []

    async def test_a_stream_is_pruned_with_its_record(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        job = await enqueue(broker, retention_ms=50)
        lease = await take_one(broker)
        await broker.append([log(lease, "a")])
        await settle(broker, Ack(lease=lease))
        clock.advance(50)
        await broker.maintain()
        assert await broker.events(job.ref) == []
        await put(broker, job)
        assert await lines(broker, job.ref) == []

    async def test_an_unknown_job_has_no_stream(self, broker: JobStore) -> None:
        assert await broker.events(JobRef(new_id())) == []


class SignalsContract:
    """Words to workers."""

    async def test_a_listener_hears_what_is_sent_in_order(self, broker: JobStore) -> None:
        assert await broker.signals(after=None) == []
        await broker.send(Signal(kind="quiet", worker="w1"))
        await broker.send(Signal(kind="tune", concurrency=4, queues=("a=2", "b")))
        first, second = await broker.signals(after=0)
        assert (first.kind, first.worker) == ("quiet", "w1")
        assert (second.kind, second.concurrency, second.queues) == ("tune", 4, ("a=2", "b"))
        assert 0 < first.seq < second.seq
        assert await broker.signals(after=first.seq) == [second]
        assert await broker.signals(after=second.seq) == []

    async def test_a_new_listener_starts_at_the_newest(self, broker: JobStore) -> None:
        for worker in ("a", "b", "c"):
            await broker.send(Signal(kind="stop", worker=worker))
        (newest,) = await broker.signals(after=None)
        assert newest.worker == "c"
        waiting = broker.signals(after=None, wait_ms=10_000)
        assert await asyncio.wait_for(waiting, SOON_S) == [newest]

    async def test_a_listener_is_woken(self, broker: JobStore) -> None:
        waiting = asyncio.create_task(broker.signals(after=0, wait_ms=10_000))
        await asyncio.sleep(0.03)
        await broker.send(Signal(kind="stop"))
        (signal,) = await asyncio.wait_for(waiting, SOON_S)
        assert signal.kind == "stop"

    async def test_a_listener_gives_up_after_its_time(self, broker: JobStore) -> None:
        assert await asyncio.wait_for(broker.signals(after=0, wait_ms=40), SOON_S) == []

    async def test_cancelling_a_running_job_tells_its_worker(self, broker: JobStore) -> None:
        job, _ = await bring_to(broker, State.RUNNING)
        await act(broker, CancelJob(ref=job.ref))
        (signal,) = await broker.signals(after=0)
        assert signal.kind == "cancel"
        assert signal.ref is not None
        assert signal.ref.id == job.id
        assert await state_of(broker, job) is State.RUNNING

    async def test_pause_and_resume_tell_the_workers(self, broker: JobStore) -> None:
        await broker.pause("mail")
        await broker.resume("mail")
        told = [(s.kind, s.queue) for s in await broker.signals(after=0)]
        assert told == [("pause", "mail"), ("resume", "mail")]

    async def test_a_signal_is_kept_for_a_minute(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        await broker.send(Signal(kind="stop"))
        clock.advance(59_000)
        await broker.maintain()
        assert len(await broker.signals(after=0)) == 1
        clock.advance(2_000)
        await broker.maintain()
        assert await broker.signals(after=0) == []
        await broker.send(Signal(kind="quiet"))
        (signal,) = await broker.signals(after=1)
        assert signal.kind == "quiet"
