"""Parents and children: `parents`, `unblocks` and `Ack(then)`, atomic with the settle."""

import pytest

from ropeway.action import BuryJob, CancelJob, DeleteJob, RetryJob
from ropeway.broker import JobStore
from ropeway.job import Job, JobRef, State
from ropeway.outcome import Ack, Bury, Cancel
from ropeway.runtime import new_id
from ropeway.testing.manual_clock import ManualClock
from ropeway.testing.steps import (
    act,
    enqueue,
    find_record,
    ids,
    make_job,
    put,
    settle,
    settle_time,
    state_of,
    status_of,
    take,
    take_one,
)


async def parent(broker: JobStore, **fields: object) -> Job:
    """A job in the queue of parents."""
    return await enqueue(broker, queue="parents", **fields)


async def finish(broker: JobStore, then: tuple[Job, ...] = ()) -> None:
    """Run the next parent to its good end."""
    await settle(broker, Ack(lease=await take_one(broker, "parents"), then=then))


async def fail(broker: JobStore) -> None:
    """Run the next parent to its bad end, and let the news reach its children."""
    await settle(broker, Bury(lease=await take_one(broker, "parents")))
    await settle_time(broker)


class WorkflowContract:
    """Children start when all their parents are completed."""

    async def test_a_child_waits_for_all_its_parents(self, broker: JobStore) -> None:
        a, b = await parent(broker), await parent(broker)
        child = await enqueue(broker, parents=(a.id, b.id))
        status = await status_of(broker, child)
        assert (status.state, status.waiting_on) == (State.PENDING, {a.id, b.id})
        await finish(broker)
        status = await status_of(broker, child)
        assert (status.state, status.waiting_on) == (State.PENDING, {b.id})
        assert await take(broker) == []
        await finish(broker)
        status = await status_of(broker, child)
        assert (status.state, status.waiting_on) == (State.AVAILABLE, frozenset())
        assert ids(await take(broker)) == [child.id]

    async def test_a_completed_parent_counts_at_once(self, broker: JobStore) -> None:
        done = await parent(broker)
        await finish(broker)
        child = await enqueue(broker, parents=(done.id,))
        assert await state_of(broker, child) is State.AVAILABLE

    async def test_the_end_of_a_job_that_is_no_parent_does_not_count(
        self, broker: JobStore
    ) -> None:
        await parent(broker)
        await finish(broker)
        a = await parent(broker)
        child = await enqueue(broker, parents=(a.id,))
        assert (await status_of(broker, child)).waiting_on == {a.id}

    async def test_an_unknown_parent_is_waited_for(self, broker: JobStore) -> None:
        later = new_id()
        child = await enqueue(broker, parents=(later,))
        assert await state_of(broker, child) is State.PENDING
        await parent(broker, id=later)
        assert await state_of(broker, child) is State.PENDING
        await finish(broker)
        assert await state_of(broker, child) is State.AVAILABLE

    @pytest.mark.parametrize("parent_first", [True, False])
    async def test_a_whole_flow_can_be_one_call(
        self,
        broker: JobStore,
        parent_first: bool,  # noqa: FBT001 - a row of the table above
    ) -> None:
        first = make_job(queue="parents")
        child = make_job(parents=(first.id,))
        await put(broker, *((first, child) if parent_first else (child, first)))
        assert await state_of(broker, child) is State.PENDING
        await finish(broker)
        assert ids(await take(broker)) == [child.id]

    async def test_unblocks_adds_the_job_to_the_parents_of_a_pending_one(
        self, broker: JobStore
    ) -> None:
        a = await parent(broker)
        child = await enqueue(broker, parents=(a.id,))
        b = await parent(broker, unblocks=(child.ref,))
        assert (await status_of(broker, child)).waiting_on == {a.id, b.id}
        await finish(broker)
        assert await state_of(broker, child) is State.PENDING
        await finish(broker)
        assert await state_of(broker, child) is State.AVAILABLE

    async def test_unblocks_cannot_hold_back_a_job_that_no_longer_waits(
        self, broker: JobStore
    ) -> None:
        child = await enqueue(broker)
        await parent(broker, unblocks=(child.ref, JobRef(new_id())))
        assert ids(await take(broker)) == [child.id]

    async def test_a_delayed_child_still_waits_for_its_time(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        a = await parent(broker)
        child = await enqueue(broker, parents=(a.id,), delay_ms=1_000)
        await finish(broker)
        assert await state_of(broker, child) is State.SCHEDULED
        clock.advance(1_000)
        assert ids(await take(broker)) == [child.id]

    async def test_a_child_is_due_when_it_is_unblocked_not_when_it_was_enqueued(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        a = await parent(broker)
        child = await enqueue(broker, parents=(a.id,))
        clock.advance(50)
        other = await enqueue(broker)
        clock.advance(50)
        await finish(broker)
        assert ids(await take(broker)) == ids([other, child])

    async def test_one_parent_unblocks_many_children(self, broker: JobStore) -> None:
        a = await parent(broker)
        children = [await enqueue(broker, parents=(a.id,)) for _ in range(20)]
        await finish(broker)
        assert ids(await take(broker)) == ids(children)

    async def test_a_chain_of_then_jobs(self, broker: JobStore) -> None:
        last = make_job(queue="parents")
        await parent(broker)
        await finish(broker, then=(last,))
        assert ids(await take(broker, "parents")) == [last.id]

    async def test_a_member_that_joins_by_then_is_waited_for(self, broker: JobStore) -> None:
        first = await parent(broker)
        child = await enqueue(broker, parents=(first.id,))
        member = make_job(queue="parents", unblocks=(child.ref,))
        await finish(broker, then=(member,))
        status = await status_of(broker, child)
        assert (status.state, status.waiting_on) == (State.PENDING, {member.id})
        await finish(broker)
        assert await state_of(broker, child) is State.AVAILABLE

    async def test_a_then_job_may_wait_for_its_maker(self, broker: JobStore) -> None:
        first = await parent(broker)
        child = make_job(parents=(first.id,))
        await finish(broker, then=(child,))
        assert await state_of(broker, child) is State.AVAILABLE

    async def test_a_retried_parent_unblocks_when_it_completes_at_last(
        self, broker: JobStore
    ) -> None:
        a = await parent(broker)
        child = await enqueue(broker, parents=(a.id,), on_parent_failed="wait")
        await fail(broker)
        await act(broker, RetryJob(ref=a.ref))
        assert await state_of(broker, child) is State.PENDING
        await finish(broker)
        assert await state_of(broker, child) is State.AVAILABLE


class ParentFailedContract:
    """What becomes of the children of a parent that will not complete."""

    async def test_cancel_is_the_policy_unless_told_otherwise(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        a = await parent(broker)
        child = await enqueue(broker, parents=(a.id,))
        await fail(broker)
        status = await status_of(broker, child)
        assert (status.state, status.reason) == (State.CANCELLED, f"parent_failed:{a.id}")
        assert status.finished_at_ms == clock.wall_ms()

    async def test_run_counts_a_failed_parent_as_done(self, broker: JobStore) -> None:
        a, b = await parent(broker), await parent(broker)
        child = await enqueue(broker, parents=(a.id, b.id), on_parent_failed="run")
        await fail(broker)
        assert (await status_of(broker, child)).waiting_on == {b.id}
        await finish(broker)
        assert await state_of(broker, child) is State.AVAILABLE

    async def test_wait_goes_on_waiting(self, broker: JobStore) -> None:
        a = await parent(broker)
        child = await enqueue(broker, parents=(a.id,), on_parent_failed="wait")
        await fail(broker)
        assert await state_of(broker, child) is State.PENDING

    @pytest.mark.parametrize("how", ["bury", "cancel", "operator", "delete", "purge", "overdue"])
    async def test_every_bad_end_of_a_parent_reaches_its_children(
        self, broker: JobStore, clock: ManualClock, how: str
    ) -> None:
        a = await parent(broker, expires_after_ms=500)
        child = await enqueue(broker, parents=(a.id,))
        if how in {"bury", "cancel"}:
            lease = await take_one(broker, "parents")
            await settle(broker, Bury(lease=lease) if how == "bury" else Cancel(lease=lease))
        elif how == "operator":
            await act(broker, CancelJob(ref=a.ref))
        elif how == "delete":
            await act(broker, DeleteJob(ref=a.ref))
        elif how == "purge":
            await broker.purge("parents")
        clock.advance(500)
        await settle_time(broker)
        assert await state_of(broker, child) is State.CANCELLED

    async def test_a_parent_cancelled_without_a_record_reaches_its_children(
        self, broker: JobStore
    ) -> None:
        a = await parent(broker, retention_ms=0)
        child = await enqueue(broker, parents=(a.id,))
        await act(broker, CancelJob(ref=a.ref))
        await settle_time(broker)
        assert await state_of(broker, child) is State.CANCELLED

    @pytest.mark.parametrize(
        ("policy", "state"),
        [("cancel", State.CANCELLED), ("run", State.AVAILABLE), ("wait", State.PENDING)],
    )
    async def test_a_parent_that_failed_before_counts_by_the_policy(
        self, broker: JobStore, policy: str, state: State
    ) -> None:
        a = await parent(broker)
        await fail(broker)
        child = await enqueue(broker, parents=(a.id,), on_parent_failed=policy)
        await settle_time(broker)
        assert await state_of(broker, child) is state

    async def test_the_news_travels_down_the_whole_flow(self, broker: JobStore) -> None:
        jobs = [await parent(broker)]
        for _ in range(4):
            jobs.append(await enqueue(broker, parents=(jobs[-1].id,)))
        await fail(broker)
        assert {await state_of(broker, job) for job in jobs[1:]} == {State.CANCELLED}

    async def test_a_cascade_keeps_its_limit_and_goes_on(self, broker: JobStore) -> None:
        a = await parent(broker)
        children = [await enqueue(broker, parents=(a.id,)) for _ in range(7)]
        await settle(broker, Bury(lease=await take_one(broker, "parents")))
        cascaded: list[int] = []
        while (done := await broker.maintain(limit=3)).cascaded:
            cascaded.append(done.cascaded)
            assert done.more or sum(cascaded) == 7
        assert max(cascaded) <= 3
        assert sum(cascaded) == 7
        assert {await state_of(broker, child) for child in children} == {State.CANCELLED}

    async def test_children_that_go_on_waiting_do_not_hold_the_news_up(
        self, broker: JobStore
    ) -> None:
        a = await parent(broker)
        for _ in range(3):
            await enqueue(broker, parents=(a.id,), on_parent_failed="wait")
        child = await enqueue(broker, parents=(a.id,))
        await settle(broker, Bury(lease=await take_one(broker, "parents")))
        for _ in range(5):
            await broker.maintain(limit=1)
        assert await state_of(broker, child) is State.CANCELLED

    async def test_a_retry_of_the_parent_reopens_what_its_failure_cancelled(
        self, broker: JobStore
    ) -> None:
        a, b = await parent(broker), await enqueue(broker, queue="others")
        child = await enqueue(broker, parents=(a.id, b.id))
        grandchild = await enqueue(broker, parents=(child.id,))
        await fail(broker)
        assert await state_of(broker, grandchild) is State.CANCELLED
        await act(broker, RetryJob(ref=a.ref))
        await settle_time(broker)
        status = await status_of(broker, child)
        assert (status.state, status.waiting_on) == (State.PENDING, {a.id, b.id})
        assert await state_of(broker, grandchild) is State.PENDING
        await finish(broker)
        await settle(broker, Ack(lease=await take_one(broker, "others")))
        assert ids(await take(broker)) == [child.id]

    async def test_a_retry_of_the_parent_leaves_other_ends_alone(self, broker: JobStore) -> None:
        a = await parent(broker)
        cancelled = await enqueue(broker, parents=(a.id,))
        buried = await enqueue(broker, parents=(a.id,))
        await act(broker, CancelJob(ref=cancelled.ref, reason="not wanted"))
        await act(broker, BuryJob(ref=buried.ref))
        await fail(broker)
        await act(broker, RetryJob(ref=a.ref))
        await settle_time(broker)
        assert await state_of(broker, cancelled) is State.CANCELLED
        assert await state_of(broker, buried) is State.DEAD

    async def test_a_deleted_child_is_not_missed(self, broker: JobStore) -> None:
        a = await parent(broker)
        child = await enqueue(broker, parents=(a.id,))
        await act(broker, DeleteJob(ref=child.ref))
        await finish(broker)
        assert await find_record(broker, child) is None
