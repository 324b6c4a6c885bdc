"""`act`, `pause`, `resume`, `purge`: what an operator can do, and what is refused."""

from typing import Any

import msgspec
import pytest

from ropeway.action import (
    Action,
    Answer,
    BuryJob,
    CancelJob,
    DeleteJob,
    EditJob,
    MoveJob,
    RetryJob,
    RunNow,
)
from ropeway.broker import JobStore
from ropeway.job import FINAL, WAITING, Failure, Job, JobRef, State, UniqueKey
from ropeway.outcome import Ack, Bury, Retry
from ropeway.runtime import new_id
from ropeway.testing.manual_clock import ManualClock
from ropeway.testing.steps import (
    HOUR_MS,
    act,
    all_records,
    bring_to,
    crash,
    enqueue,
    find_record,
    ids,
    make_job,
    put,
    record_of,
    settle,
    state_of,
    status_of,
    take,
    take_one,
)


def all_actions(job: Job) -> list[Action]:
    """One of each kind."""
    return [
        CancelJob(ref=job.ref),
        RetryJob(ref=job.ref),
        RunNow(ref=job.ref),
        BuryJob(ref=job.ref),
        MoveJob(ref=job.ref, queue="elsewhere"),
        EditJob(ref=job.ref, job=job),
        DeleteJob(ref=job.ref),
    ]


def edited(job: Job, **words: Any) -> Job:
    """The job's words, some of them replaced."""
    return msgspec.structs.replace(job, **words)


class ActContract:
    """Each action in each state: done, or refused and nothing changed."""

    DONE_IN = {  # noqa: RUF012 - a table, never changed
        CancelJob: WAITING,
        RetryJob: FINAL | {State.RETRYABLE},
        RunNow: frozenset({State.SCHEDULED, State.RETRYABLE, State.AVAILABLE}),
        BuryJob: WAITING,
        MoveJob: WAITING,
        EditJob: WAITING,
        DeleteJob: frozenset(State) - {State.RUNNING},
    }

    @pytest.mark.parametrize("state", list(State))
    async def test_an_action_is_done_or_refused_by_the_state(
        self, broker: JobStore, state: State
    ) -> None:
        for position, kind in enumerate(self.DONE_IN):
            job, _ = await bring_to(broker, state, queue=f"q{position}")
            before = await record_of(broker, job)
            action = next(a for a in all_actions(job) if isinstance(a, kind))
            acted = await act(broker, action)
            if state in self.DONE_IN[kind]:
                assert acted.answer is Answer.DONE, kind
            elif kind is CancelJob and state is State.RUNNING:
                assert (acted.answer, acted.state) == (Answer.REQUESTED, State.RUNNING)
            else:
                assert (acted.answer, acted.state) == (Answer.REFUSED, state), kind
                assert acted.detail, kind
                assert await record_of(broker, job) == before, kind

    async def test_the_answer_tells_the_state_the_job_is_in(self, broker: JobStore) -> None:
        job = await enqueue(broker)
        assert (await act(broker, CancelJob(ref=job.ref))).state is State.CANCELLED
        assert (await act(broker, RetryJob(ref=job.ref))).state is State.AVAILABLE
        assert (await act(broker, BuryJob(ref=job.ref))).state is State.DEAD

    async def test_an_unknown_job_is_not_found(self, broker: JobStore) -> None:
        answers = await broker.act(all_actions(make_job()))
        assert {acted.answer for acted in answers} == {Answer.NOT_FOUND}

    async def test_actions_are_answered_by_position(self, broker: JobStore) -> None:
        a, b = await enqueue(broker), await enqueue(broker)
        answers = await broker.act(
            [CancelJob(ref=a.ref), CancelJob(ref=JobRef(new_id())), RetryJob(ref=b.ref)]
        )
        assert [x.answer for x in answers] == [Answer.DONE, Answer.NOT_FOUND, Answer.REFUSED]
        assert await broker.act([]) == []

    async def test_actions_of_one_call_see_each_other(self, broker: JobStore) -> None:
        job = await enqueue(broker)
        answers = await broker.act([BuryJob(ref=job.ref), RetryJob(ref=job.ref)])
        assert [x.answer for x in answers] == [Answer.DONE, Answer.DONE]
        assert await state_of(broker, job) is State.AVAILABLE

    async def test_a_job_is_found_without_its_queue(self, broker: JobStore) -> None:
        job = await enqueue(broker, queue="somewhere")
        assert (await act(broker, CancelJob(ref=JobRef(job.id)))).answer is Answer.DONE
        assert await state_of(broker, job) is State.CANCELLED

    async def test_cancel_keeps_its_reason(self, broker: JobStore) -> None:
        job = await enqueue(broker)
        await act(broker, CancelJob(ref=job.ref, reason="customer left"))
        assert (await status_of(broker, job)).reason == "customer left"
        assert await take(broker) == []

    async def test_cancel_of_a_running_job_is_a_request(self, broker: JobStore) -> None:
        job = await enqueue(broker)
        lease = await take_one(broker)
        await act(broker, CancelJob(ref=job.ref))
        status = await status_of(broker, job)
        assert (status.state, status.cancel_requested) == (State.RUNNING, True)
        await settle(broker, Ack(lease=lease))
        assert await state_of(broker, job) is State.COMPLETED

    async def test_a_buried_job_waits_for_an_operator(self, broker: JobStore) -> None:
        job = await enqueue(broker)
        await act(broker, BuryJob(ref=job.ref, reason="poison"))
        status = await status_of(broker, job)
        assert (status.state, status.reason) == (State.DEAD, "poison")
        assert await take(broker) == []

    async def test_retry_gives_a_fresh_budget_and_keeps_the_errors(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        job = await enqueue(broker)
        await crash(broker, clock)
        failure = Failure(at_ms=1, attempt=1, type="E")
        await settle(broker, Bury(lease=await take_one(broker), failure=failure))
        clock.advance(77)
        await act(broker, RetryJob(ref=job.ref))
        status = await status_of(broker, job)
        assert (status.state, status.attempt, status.crashes) == (State.AVAILABLE, 0, ())
        assert (status.finished_at_ms, status.reason) == (None, None)
        assert (status.due_ms, status.errors) == (clock.wall_ms(), (failure,))
        assert (await take_one(broker)).attempt == 1

    async def test_a_retried_result_is_gone_and_the_record_not_pruned(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        job = await enqueue(broker)
        await settle(broker, Ack(lease=await take_one(broker), result=b"1"))
        await act(broker, RetryJob(ref=job.ref))
        clock.advance(200 * 24 * HOUR_MS)
        await broker.maintain()
        status = await status_of(broker, job)
        assert (status.state, status.result) == (State.AVAILABLE, None)

    async def test_run_now_keeps_the_attempts(self, broker: JobStore) -> None:
        await enqueue(broker, delay_ms=HOUR_MS)
        failing = await enqueue(broker)
        await settle(broker, Retry(lease=await take_one(broker), delay_ms=HOUR_MS))
        for record in await all_records(broker):
            await act(broker, RunNow(ref=record.job.ref))
        leases = {lease.job.id: lease.attempt for lease in await take(broker)}
        assert len(leases) == 2
        assert leases[failing.id] == 2

    async def test_a_deleted_job_is_gone_and_its_id_free(self, broker: JobStore) -> None:
        job = await enqueue(broker)
        assert (await act(broker, DeleteJob(ref=job.ref))).answer is Answer.DONE
        assert await find_record(broker, job) is None
        assert await take(broker) == []
        assert await put(broker, edited(job, payload=b"another")) == ["ok"]


class EditContract:
    """`EditJob` replaces words, `MoveJob` the queue."""

    async def test_an_edit_replaces_the_words_and_adds_a_revision(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        job = await enqueue(broker, payload=b"old")
        stored = (await record_of(broker, job)).job
        clock.advance(9)
        words = make_job(task="t2", payload=b"new", priority=5, tags=("x",), queue="ignored")
        await act(broker, EditJob(ref=job.ref, job=words))
        now = (await record_of(broker, job)).job
        assert (now.task, now.payload, now.priority) == ("t2", b"new", 5)
        assert (now.tags, now.revision) == (("x",), 1)
        assert (now.id, now.queue) == (job.id, job.queue)
        assert now.created_at_ms == stored.created_at_ms

    async def test_an_edit_of_another_revision_is_refused(self, broker: JobStore) -> None:
        job = await enqueue(broker)
        first = EditJob(ref=job.ref, job=edited(job, payload=b"1"), if_revision=0)
        second = EditJob(ref=job.ref, job=edited(job, payload=b"2"), if_revision=0)
        answers = await broker.act([first, second])
        assert [a.answer for a in answers] == [Answer.DONE, Answer.REFUSED]
        stored = (await record_of(broker, job)).job
        assert (stored.payload, stored.revision) == (b"1", 1)

    async def test_an_edited_priority_moves_the_job_in_the_line(self, broker: JobStore) -> None:
        a, b = await enqueue(broker), await enqueue(broker)
        await act(broker, EditJob(ref=b.ref, job=edited(b, priority=8)))
        assert ids(await broker.peek("default")) == ids([b, a])
        assert ids(await take(broker)) == ids([b, a])

    async def test_a_priority_edited_to_and_fro_shows_the_job_once(self, broker: JobStore) -> None:
        job, other = await enqueue(broker), await enqueue(broker)
        for priority in (5, 0):
            await act(broker, EditJob(ref=job.ref, job=edited(job, priority=priority)))
        for queue in ("to", "default"):
            ref = (await record_of(broker, JobRef(job.id))).job.ref
            await act(broker, MoveJob(ref=ref, queue=queue))
        assert ids(await broker.peek("default")) == ids([job, other])
        assert ids(await take(broker)) == ids([job, other])

    @pytest.mark.parametrize("key", [None, "other"])
    async def test_an_edited_ordering_key_changes_the_line(
        self, broker: JobStore, key: str | None
    ) -> None:
        head = await enqueue(broker, ordering_key="k")
        middle = await enqueue(broker, ordering_key="k")
        last = await enqueue(broker, ordering_key="k")
        await act(broker, EditJob(ref=middle.ref, job=edited(middle, ordering_key=key)))
        leases = await take(broker)
        assert ids(leases) == ids([head, middle])
        await settle(broker, Ack(lease=leases[0]))
        assert ids(await take(broker)) == [last.id]

    async def test_an_edited_time_counts(self, broker: JobStore, clock: ManualClock) -> None:
        job = await enqueue(broker)
        await act(broker, EditJob(ref=job.ref, job=edited(job, delay_ms=1_000)))
        assert await state_of(broker, job) is State.SCHEDULED
        clock.advance(999)
        assert await take(broker) == []
        stored = (await record_of(broker, job)).job
        later = edited(stored, scheduled_at_ms=clock.wall_ms() - 1)
        await act(broker, EditJob(ref=job.ref, job=later))
        assert ids(await take(broker)) == [job.id]

    async def test_an_edited_expiry_counts(self, broker: JobStore, clock: ManualClock) -> None:
        job = await enqueue(broker, expires_after_ms=100)
        await act(broker, EditJob(ref=job.ref, job=edited(job, expires_after_ms=300)))
        clock.advance(299)
        await broker.maintain()
        assert await state_of(broker, job) is State.AVAILABLE
        clock.advance(1)
        await broker.maintain()
        assert await state_of(broker, job) is State.DEAD

    async def test_an_edit_to_a_taken_key_is_refused(self, broker: JobStore) -> None:
        await enqueue(broker, unique=UniqueKey(key="k"))
        job = await enqueue(broker)
        before = await record_of(broker, job)
        words = edited(job, unique=UniqueKey(key="k"))
        assert (await act(broker, EditJob(ref=job.ref, job=words))).answer is Answer.REFUSED
        assert await record_of(broker, job) == before

    async def test_an_edit_gives_the_old_key_up_and_takes_the_new_one(
        self, broker: JobStore
    ) -> None:
        job = await enqueue(broker, unique=UniqueKey(key="old"))
        words = edited(job, unique=UniqueKey(key="new"))
        assert (await act(broker, EditJob(ref=job.ref, job=words))).answer is Answer.DONE
        keys = [make_job(unique=UniqueKey(key=k)) for k in ("old", "new")]
        assert await put(broker, *keys) == ["ok", "duplicate_key"]

    async def test_a_moved_job_keeps_its_state_time_and_place(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        first = await enqueue(broker)
        clock.advance(5)
        await enqueue(broker, queue="to")
        scheduled = await enqueue(broker, delay_ms=50)
        before = await status_of(broker, scheduled)
        for job in (first, scheduled):
            assert (await act(broker, MoveJob(ref=job.ref, queue="to"))).answer is Answer.DONE
        assert await find_record(broker, first) is None
        assert await status_of(broker, JobRef(scheduled.id, "to")) == before
        assert ids(await take(broker, "to"))[0] == first.id
        clock.advance(50)
        assert ids(await take(broker, "to")) == [scheduled.id]
        assert await take(broker) == []

    async def test_a_move_to_a_taken_key_is_refused(self, broker: JobStore) -> None:
        job = await enqueue(broker, unique=UniqueKey(key="k"))
        await enqueue(broker, queue="to", unique=UniqueKey(key="k"))
        acted = await act(broker, MoveJob(ref=job.ref, queue="to"))
        assert acted.answer is Answer.REFUSED
        assert await state_of(broker, job) is State.AVAILABLE

    async def test_a_move_to_a_taken_id_is_refused(self, broker: JobStore) -> None:
        job = await enqueue(broker)
        await enqueue(broker, queue="to", id=job.id)
        acted = await act(broker, MoveJob(ref=job.ref, queue="to"))
        assert acted.answer is Answer.REFUSED
        assert len(await all_records(broker)) == 2

    async def test_a_moved_job_takes_its_key_along(self, broker: JobStore) -> None:
        job = await enqueue(broker, unique=UniqueKey(key="k"))
        await act(broker, MoveJob(ref=job.ref, queue="to"))
        keys = [make_job(queue=q, unique=UniqueKey(key="k")) for q in ("default", "to")]
        assert await put(broker, *keys) == ["ok", "duplicate_key"]

    async def test_a_moved_head_lets_its_followers_go(self, broker: JobStore) -> None:
        head = await enqueue(broker, ordering_key="k")
        follower = await enqueue(broker, ordering_key="k")
        await act(broker, MoveJob(ref=head.ref, queue="to"))
        assert ids(await take(broker)) == [follower.id]
        assert ids(await take(broker, "to")) == [head.id]

    @pytest.mark.parametrize("kind", [CancelJob, BuryJob, DeleteJob])
    async def test_a_head_that_is_taken_out_lets_its_followers_go(
        self, broker: JobStore, kind: type[CancelJob | BuryJob | DeleteJob]
    ) -> None:
        head = await enqueue(broker, ordering_key="k")
        follower = await enqueue(broker, ordering_key="k")
        await act(broker, kind(ref=head.ref))
        assert ids(await take(broker)) == [follower.id]


class QueueControlContract:
    """`pause`, `resume`, `purge`, `open`, `close`."""

    async def test_pause_and_resume_may_be_repeated(self, broker: JobStore) -> None:
        await enqueue(broker)
        await broker.pause("default")
        await broker.pause("default")
        assert [i.paused for i in await broker.queues()] == [True]
        await broker.resume("default")
        await broker.resume("default")
        assert [i.paused for i in await broker.queues()] == [False]
        assert len(await take(broker)) == 1

    async def test_a_queue_is_paused_and_resumed_alone(self, broker: JobStore) -> None:
        for queue in ("a", "b", "c"):
            await enqueue(broker, queue=queue)
        await broker.pause("a")
        await broker.pause("b")
        await broker.resume("a")
        assert [i.paused for i in await broker.queues()] == [False, True, False]
        assert [lease.job.queue for lease in await take(broker, "a", "b", "c")] == ["a", "c"]

    async def test_a_durable_store_keeps_jobs_and_pauses_over_a_restart(
        self, broker: JobStore
    ) -> None:
        job = await enqueue(broker)
        await broker.pause("default")
        if broker.capabilities.durable:
            await broker.close()
            await broker.open()
        assert await take(broker) == []
        assert await state_of(broker, job) is State.AVAILABLE

    async def test_open_and_close_may_be_repeated(self, broker: JobStore) -> None:
        await broker.open()
        await enqueue(broker)
        await broker.close()
        await broker.close()

    async def test_purge_deletes_what_is_not_running_in_that_queue_only(
        self, broker: JobStore
    ) -> None:
        kept = [(await bring_to(broker, State.RUNNING))[0], await enqueue(broker, queue="b")]
        for state in State:
            if state not in {State.RUNNING, State.AVAILABLE}:
                await bring_to(broker, state)
        await enqueue(broker)
        assert await broker.purge("default") == 7
        assert sorted(ids(await all_records(broker))) == sorted(ids(kept))

    async def test_purge_takes_only_the_named_states(self, broker: JobStore) -> None:
        await bring_to(broker, State.DEAD)
        scheduled, _ = await bring_to(broker, State.SCHEDULED)
        assert await broker.purge("default", states={State.DEAD}) == 1
        assert await broker.purge("default", states=frozenset()) == 0
        assert ids(await all_records(broker)) == [scheduled.id]

    async def test_purge_never_takes_a_running_job(self, broker: JobStore) -> None:
        job, lease = await bring_to(broker, State.RUNNING)
        assert await broker.purge("default", states=frozenset({State.RUNNING})) == 0
        assert await settle(broker, Ack(lease=lease)) == "ok"
        assert await state_of(broker, job) is State.COMPLETED
