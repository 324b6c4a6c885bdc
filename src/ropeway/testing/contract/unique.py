"""Unique keys: at most one holder in a queue, for as long as the key says."""

import asyncio
from typing import Any

import pytest

from ropeway.action import BuryJob, CancelJob, DeleteJob, RetryJob
from ropeway.broker import EnqueueAnswer, Filter, JobStore
from ropeway.job import UNFINISHED, WAITING, State, UniqueKey
from ropeway.outcome import Ack, Bury, Retry
from ropeway.testing.manual_clock import ManualClock
from ropeway.testing.steps import (
    HOUR_MS,
    act,
    all_records,
    bring_to,
    enqueue,
    ids,
    make_job,
    put,
    record_of,
    settle,
    state_of,
    take,
    take_one,
)

OK, DUPLICATE_KEY, REPLACED = (
    EnqueueAnswer.OK,
    EnqueueAnswer.DUPLICATE_KEY,
    EnqueueAnswer.REPLACED,
)


def keyed(**options: Any) -> dict[str, Any]:
    """The field that asks for the key `k`."""
    return {"unique": UniqueKey(key="k", **options)}


class UniqueContract:
    """Who holds a key, and since and until when."""

    @pytest.mark.parametrize("policy", ["return", "reject"])
    async def test_a_held_key_is_an_answer_that_names_the_holder(
        self, broker: JobStore, policy: str
    ) -> None:
        holder = await enqueue(broker, **keyed())
        other = make_job(**keyed(on_conflict=policy))
        free = make_job()
        answers = await broker.enqueue([other, free])
        assert [(a.answer, a.id) for a in answers] == [(DUPLICATE_KEY, holder.id), (OK, free.id)]
        assert sorted(ids(await all_records(broker))) == sorted(ids([holder, free]))

    async def test_one_call_cannot_give_a_key_twice(self, broker: JobStore) -> None:
        jobs = [make_job(**keyed()) for _ in range(3)]
        answers = await broker.enqueue(jobs)
        assert [a.answer for a in answers] == [OK, DUPLICATE_KEY, DUPLICATE_KEY]
        assert {a.id for a in answers} == {jobs[0].id}

    async def test_exactly_one_of_many_concurrent_calls_gets_the_key(
        self, broker: JobStore
    ) -> None:
        answers = await asyncio.gather(*(broker.enqueue([make_job(**keyed())]) for _ in range(30)))
        kinds = [a.answer for (a,) in answers]
        assert (kinds.count(OK), kinds.count(DUPLICATE_KEY)) == (1, 29)
        assert len({a.id for (a,) in answers}) == 1

    async def test_a_unique_key_belongs_to_its_queue(self, broker: JobStore) -> None:
        await enqueue(broker, queue="a", **keyed())
        assert await put(broker, make_job(queue="b", **keyed())) == [OK]

    async def test_other_keys_are_free(self, broker: JobStore) -> None:
        await enqueue(broker, **keyed())
        assert await put(broker, make_job(unique=UniqueKey(key="K"))) == [OK]

    @pytest.mark.parametrize("state", sorted(UNFINISHED))
    async def test_a_key_is_held_in_every_unfinished_state(
        self, broker: JobStore, state: State
    ) -> None:
        holder, _ = await bring_to(broker, state, **keyed())
        (answer,) = await broker.enqueue([make_job(**keyed())])
        assert (answer.answer, answer.id) == (DUPLICATE_KEY, holder.id)

    @pytest.mark.parametrize("state", [State.COMPLETED, State.DEAD, State.CANCELLED])
    async def test_a_key_is_free_once_its_holder_is_final(
        self, broker: JobStore, state: State
    ) -> None:
        await bring_to(broker, state, **keyed())
        assert await put(broker, make_job(**keyed())) == [OK]

    @pytest.mark.parametrize("state", sorted(State))
    async def test_a_key_is_held_in_the_states_it_names(
        self, broker: JobStore, state: State
    ) -> None:
        during = frozenset({State.PENDING, State.SCHEDULED, State.COMPLETED})
        await bring_to(broker, state, **keyed(during=during))
        expected = DUPLICATE_KEY if state in during else OK
        assert await put(broker, make_job(**keyed(during=during))) == [expected]

    async def test_an_operators_cancel_bury_and_delete_free_the_key(self, broker: JobStore) -> None:
        for action in (CancelJob, BuryJob, DeleteJob):
            job = await enqueue(broker, **keyed())
            await act(broker, action(ref=job.ref))
        assert await put(broker, make_job(**keyed())) == [OK]

    async def test_a_purge_frees_the_key(self, broker: JobStore) -> None:
        await enqueue(broker, **keyed())
        await broker.purge("default")
        assert await put(broker, make_job(**keyed())) == [OK]

    async def test_a_key_follows_its_new_holder_only(self, broker: JobStore) -> None:
        old = await enqueue(broker, **keyed())
        await settle(broker, Ack(lease=await take_one(broker)))
        new = await enqueue(broker, **keyed())
        await act(broker, DeleteJob(ref=old.ref))
        (answer,) = await broker.enqueue([make_job(**keyed())])
        assert (answer.answer, answer.id) == (DUPLICATE_KEY, new.id)

    async def test_a_retry_of_a_final_job_is_refused_while_another_holds_its_key(
        self, broker: JobStore
    ) -> None:
        old, _ = await bring_to(broker, State.DEAD, **keyed())
        new = await enqueue(broker, **keyed())
        assert (await act(broker, RetryJob(ref=old.ref))).answer == "refused"
        assert await state_of(broker, old) is State.DEAD
        await act(broker, DeleteJob(ref=new.ref))
        assert (await act(broker, RetryJob(ref=old.ref))).answer == "done"
        assert await put(broker, make_job(**keyed())) == [DUPLICATE_KEY]


class UniqueWindowContract:
    """A window holds the key for a time after the enqueue, whatever became of the job."""

    async def test_a_completed_job_holds_its_key_until_the_window_ends(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        window = keyed(window_ms=1_000)
        holder, _ = await bring_to(broker, State.COMPLETED, **window)
        clock.advance(999)
        (answer,) = await broker.enqueue([make_job(**window)])
        assert (answer.answer, answer.id) == (DUPLICATE_KEY, holder.id)
        clock.advance(1)
        assert await put(broker, make_job(**window)) == [OK]

    async def test_a_record_is_kept_while_its_window_holds_the_key(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        window: dict[str, Any] = {**keyed(window_ms=3_600_000), "retention_ms": 0}
        await bring_to(broker, State.COMPLETED, **window)
        clock.advance(3_599_000)
        await broker.maintain()
        assert await put(broker, make_job(**window)) == [DUPLICATE_KEY]
        clock.advance(1_000)
        await broker.maintain()
        assert await broker.count(Filter()) == 0
        assert await put(broker, make_job(**window)) == [OK]

    async def test_an_unfinished_job_holds_its_key_beyond_the_window(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        await enqueue(broker, **keyed(window_ms=10))
        clock.advance(HOUR_MS)
        assert await put(broker, make_job(**keyed(window_ms=10))) == [DUPLICATE_KEY]

    @pytest.mark.parametrize("state", [State.DEAD, State.CANCELLED])
    @pytest.mark.parametrize(("release_on_failure", "answer"), [(True, OK), (False, DUPLICATE_KEY)])
    async def test_a_failure_gives_up_the_window_by_policy(
        self,
        broker: JobStore,
        state: State,
        release_on_failure: bool,  # noqa: FBT001 - a row of the table above
        answer: EnqueueAnswer,
    ) -> None:
        fields = keyed(window_ms=1_000, release_on_failure=release_on_failure)
        await bring_to(broker, state, **fields)
        assert await put(broker, make_job(**fields)) == [answer]

    async def test_a_state_outside_during_is_still_within_the_window(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        fields = keyed(window_ms=1_000, during=frozenset({State.AVAILABLE}))
        await bring_to(broker, State.RUNNING, **fields)
        assert await put(broker, make_job(**fields)) == [DUPLICATE_KEY]
        clock.advance(1_000)
        assert await put(broker, make_job(**fields)) == [OK]


class UniqueReplaceContract:
    """`on_conflict="replace"`: a waiting holder takes the new words."""

    @pytest.mark.parametrize("state", sorted(WAITING))
    async def test_a_waiting_holder_takes_the_new_words(
        self, broker: JobStore, state: State
    ) -> None:
        holder, _ = await bring_to(broker, state, payload=b"old", **keyed())
        new = make_job(payload=b"new", priority=4, **keyed(on_conflict="replace"))
        (answer,) = await broker.enqueue([new])
        assert (answer.answer, answer.id) == (REPLACED, holder.id)
        stored = (await record_of(broker, holder)).job
        assert (stored.payload, stored.priority, stored.revision) == (b"new", 4, 1)
        assert (stored.id, stored.queue) == (holder.id, holder.queue)
        assert len(await all_records(broker)) == 1

    async def test_the_new_words_are_what_runs_once(self, broker: JobStore) -> None:
        await enqueue(broker, payload=b"old", **keyed())
        await put(broker, make_job(payload=b"new", **keyed(on_conflict="replace")))
        assert [lease.job.payload for lease in await take(broker)] == [b"new"]

    async def test_the_new_time_counts(self, broker: JobStore, clock: ManualClock) -> None:
        await enqueue(broker, delay_ms=1_000, **keyed())
        await put(broker, make_job(delay_ms=5_000, **keyed(on_conflict="replace")))
        clock.advance(4_999)
        assert await take(broker) == []
        clock.advance(1)
        assert len(await take(broker)) == 1

    @pytest.mark.parametrize("state", [State.RUNNING, State.COMPLETED])
    async def test_a_holder_that_does_not_wait_is_not_replaced(
        self, broker: JobStore, state: State
    ) -> None:
        holder, _ = await bring_to(broker, state, payload=b"old", **keyed(window_ms=1_000))
        new = make_job(payload=b"new", **keyed(on_conflict="replace"))
        (answer,) = await broker.enqueue([new])
        assert (answer.answer, answer.id) == (DUPLICATE_KEY, holder.id)
        assert (await record_of(broker, holder)).job.payload == b"old"


class UniqueReentryContract:
    """A job that comes back into a state in which it would hold its key."""

    async def test_a_job_that_comes_back_takes_its_free_key_again(self, broker: JobStore) -> None:
        fields = keyed(during=frozenset({State.RETRYABLE}))
        await enqueue(broker, **fields)
        lease = await take_one(broker)
        await settle(broker, Retry(lease=lease, delay_ms=HOUR_MS))
        assert await put(broker, make_job(**keyed(during=frozenset({State.AVAILABLE})))) == [
            DUPLICATE_KEY
        ]

    async def test_a_job_that_comes_back_never_breaks_the_new_holders_claim(
        self, broker: JobStore
    ) -> None:
        fields = keyed(during=frozenset({State.AVAILABLE, State.RETRYABLE}))
        old = await enqueue(broker, **fields)
        lease = await take_one(broker)
        new = await enqueue(broker, **fields)
        await settle(broker, Retry(lease=lease, delay_ms=HOUR_MS))
        assert await state_of(broker, old) is State.RETRYABLE
        (answer,) = await broker.enqueue([make_job(**fields)])
        assert (answer.answer, answer.id) == (DUPLICATE_KEY, new.id)

    async def test_the_end_of_a_former_holder_does_not_free_the_key(self, broker: JobStore) -> None:
        fields = keyed(during=frozenset({State.AVAILABLE}))
        await enqueue(broker, **fields)
        lease = await take_one(broker)
        new = await enqueue(broker, **fields)
        await settle(broker, Bury(lease=lease))
        (answer,) = await broker.enqueue([make_job(**fields)])
        assert (answer.answer, answer.id) == (DUPLICATE_KEY, new.id)
