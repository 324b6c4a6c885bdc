"""What is odd but allowed: a store takes it as it is, and nothing else suffers."""

import pytest

from ropeway.action import Answer, BuryJob, CancelJob, DeleteJob, EditJob, MoveJob
from ropeway.broker import Entry, JobStore
from ropeway.errors import ConfigError, Unsupported
from ropeway.flow.rules import QueueRule
from ropeway.job import JobRef, State
from ropeway.outcome import Ack, Cancel, Release, Settled
from ropeway.testing.manual_clock import ManualClock
from ropeway.testing.steps import (
    act,
    all_records,
    enqueue,
    find_record,
    ids,
    make_job,
    put,
    settle,
    state_of,
    status_of,
    take,
    take_one,
)

STREAM_BYTES = 1_000_001  # of one entry: more than a whole stream keeps


class OddContract:
    """Empty words, large numbers, names that look like a store's own."""

    async def test_an_empty_result_is_not_no_result(self, broker: JobStore) -> None:
        for codec in ("json", "other"):
            job = await enqueue(broker)
            await settle(broker, Ack(lease=await take_one(broker), result=b"", result_codec=codec))
            status = await status_of(broker, job)
            assert (status.result, status.result_codec) == (b"", codec)

    @pytest.mark.parametrize("kind", [CancelJob, BuryJob])
    async def test_an_operator_may_give_an_empty_reason(
        self, broker: JobStore, kind: type[CancelJob | BuryJob]
    ) -> None:
        job = await enqueue(broker)
        await act(broker, kind(ref=job.ref, reason=""))
        assert (await status_of(broker, job)).reason == ""

    async def test_an_empty_reason_of_a_cancel_is_none(self, broker: JobStore) -> None:
        job = await enqueue(broker)
        await settle(broker, Cancel(lease=await take_one(broker), reason=""))
        assert (await status_of(broker, job)).reason is None

    @pytest.mark.parametrize("key", ["", "h", "d", "l", "é:{x}", " "])
    async def test_any_text_is_an_ordering_key(self, broker: JobStore, key: str) -> None:
        await broker.declare([QueueRule(name="default", max_length=2, on_full="drop_oldest")])
        jobs = [await enqueue(broker, ordering_key=key) for _ in range(3)]
        lease = await take_one(broker)
        assert lease.job.id == jobs[1].id
        assert await take(broker) == []
        await settle(broker, Ack(lease=lease))
        assert ids(await take(broker)) == [jobs[2].id]

    async def test_a_parent_named_twice_is_one_parent(self, broker: JobStore) -> None:
        parent = await enqueue(broker)
        child = await enqueue(broker, parents=(parent.id, parent.id))
        await settle(broker, Ack(lease=await take_one(broker)))
        assert await state_of(broker, child) is State.AVAILABLE

    async def test_a_job_of_very_many_parents_moves_whole(self, broker: JobStore) -> None:
        child = await enqueue(broker, parents=tuple(f"p{n}" for n in range(9_000)))
        assert (await act(broker, MoveJob(ref=child.ref, queue="other"))).answer is Answer.DONE
        assert len((await status_of(broker, JobRef(child.id))).waiting_on) == 9_000

    async def test_a_job_moves_after_an_entry_longer_than_a_stream(self, broker: JobStore) -> None:
        job = await enqueue(broker)
        lease = await take_one(broker)
        await broker.append([Entry(lease=lease, kind="log", at_ms=1, data="x" * STREAM_BYTES)])
        await settle(broker, Release(lease=lease))
        assert (await act(broker, MoveJob(ref=job.ref, queue="other"))).answer is Answer.DONE
        assert ids(await take(broker, "other")) == [job.id]

    async def test_a_time_is_kept_to_the_millisecond_or_refused(self, broker: JobStore) -> None:
        known = await enqueue(broker)
        for at_ms in (2**52 + 1, 2**53, 2**62 + 1, 2**63 - 1):
            job = make_job(scheduled_at_ms=at_ms)
            try:
                await broker.enqueue([job])
            except (ConfigError, Unsupported):
                assert at_ms > 2**53, "a broker keeps times up to 2**53"
                continue
            record = await find_record(broker, job)
            assert record is not None
            assert record.job.scheduled_at_ms == at_ms
        assert known.id in ids(await all_records(broker))


class PlaceContract:
    """A job has one place at a time, whatever has happened to it."""

    async def test_an_edited_priority_leaves_no_second_place(self, broker: JobStore) -> None:
        job = await enqueue(broker, priority=5)
        await act(broker, EditJob(ref=job.ref, job=make_job(id=job.id, priority=0)))
        await act(broker, DeleteJob(ref=job.ref))
        assert await take(broker) == []
        again = make_job(id=job.id)
        other = await enqueue(broker, priority=1)
        await put(broker, again)
        assert ids(await take(broker)) == [other.id, again.id]

    async def test_an_id_that_is_given_again_is_listed_once(self, broker: JobStore) -> None:
        first, second = make_job(), make_job()
        await put(broker, first, second)
        await act(broker, DeleteJob(ref=first.ref))
        await put(broker, first)
        assert ids(await all_records(broker)) == [first.id, second.id]
        assert await broker.purge("default") == 2
        assert await broker.queues() == []

    async def test_of_two_outcomes_of_one_lease_the_first_counts(self, broker: JobStore) -> None:
        for outcomes in ((Release, Ack), (Ack, Release)):
            await enqueue(broker)
            lease = await take_one(broker)
            told = [kind(lease=lease) for kind in outcomes]
            assert await broker.settle(told) == [Settled.OK, Settled.ALREADY]
            await broker.purge("default")

    @pytest.mark.parametrize("priority", [0, 5])
    async def test_a_job_whose_line_is_freed_by_a_late_one_comes_at_its_place(
        self, broker: JobStore, clock: ManualClock, priority: int
    ) -> None:
        await enqueue(broker, ordering_key="o", expires_after_ms=10)
        freed = await enqueue(broker, ordering_key="o", priority=priority)
        later = await enqueue(broker, delay_ms=1)
        clock.advance(20)
        assert ids(await take(broker)) == [freed.id, later.id]

    async def test_a_delayed_job_of_a_new_priority_is_found_when_it_is_due(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        await broker.declare([QueueRule(name="default", max_length=10)])
        job = await enqueue(broker, priority=7, delay_ms=10)
        clock.advance(10)
        assert ids(await take(broker)) == [job.id]

    async def test_jobs_of_one_call_are_placed_in_its_order(self, broker: JobStore) -> None:
        jobs = [make_job(priority=priority) for priority in (0, 5, 0, 5, 0)]
        await put(broker, *jobs)
        assert ids(await all_records(broker)) == ids(jobs[::-1])

    async def test_a_time_that_has_passed_changes_no_order(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        past_ms = clock.wall_ms() - 1
        jobs = [make_job(scheduled_at_ms=at_ms) for at_ms in (None, past_ms, None)]
        await put(broker, *jobs)
        assert ids(await take(broker)) == ids(jobs)
