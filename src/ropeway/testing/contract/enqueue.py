"""`enqueue`: durable answers by position, refusals before any write, repeats without effect."""

import asyncio
from typing import Any

import pytest

from ropeway.broker import CALLS_KEPT_MS, EnqueueAnswer, Filter, JobStore
from ropeway.errors import ConfigError, IdConflict, PayloadTooLarge, Unsupported
from ropeway.flow.rules import LimitRule, Slots
from ropeway.job import JobRef, LimitKey, State, UniqueKey
from ropeway.outcome import Ack
from ropeway.runtime import new_id
from ropeway.testing.manual_clock import ManualClock
from ropeway.testing.steps import (
    all_records,
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

OK, DUPLICATE_ID = EnqueueAnswer.OK, EnqueueAnswer.DUPLICATE_ID

BAD_FIELDS: list[dict[str, Any]] = [
    {"id": ""},
    {"task": ""},
    {"queue": ""},
    {"priority": -1},
    {"priority": 11},
    {"delay_ms": -1},
    {"crash_max": -1},
    {"retention_ms": -1},
    {"expires_after_ms": -1},
    {"deadline_after_ms": -1},
    {"attempt_max": 0},
    {"timeout_ms": 0},
    {"delay_ms": 5, "scheduled_at_ms": 5},
    {"unique": UniqueKey(key="k"), "unblocks": (JobRef("x"),)},
    {"ordering_key": "k", "fair_key": "f"},
    {"ordering_key": "k", "group_key": "g"},
    {"id": "self", "parents": ("self",)},
    {"id": "self", "unblocks": (JobRef("self"),)},
]


class EnqueueContract:
    """What every store keeps when jobs come in."""

    async def test_a_job_is_stored_as_it_was_given(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        job = make_job(
            payload=b'{"to": "\xff\x00"}',
            codec="msgpack",
            queue="mail",
            priority=7,
            headers={"traceparent": "00-1"},
            tags=("a", "b"),
            attempt_max=4,
            crash_max=2,
            timeout_ms=30_000,
            unique=UniqueKey(key="k", window_ms=5, on_conflict="reject"),
            ordering_key=None,
            on_parent_failed="run",
            retention_ms=77,
        )
        assert await put(broker, job) == [OK]
        record = await record_of(broker, job)
        assert record.job.created_at_ms == clock.wall_ms()
        for field in [
            "id",
            "task",
            "payload",
            "codec",
            "queue",
            "priority",
            "headers",
            "tags",
            "attempt_max",
            "crash_max",
            "timeout_ms",
            "unique",
            "on_parent_failed",
            "retention_ms",
            "revision",
        ]:
            assert getattr(record.job, field) == getattr(job, field), field
        assert record.status.state is State.AVAILABLE
        assert record.status.attempt == 0

    async def test_answers_come_by_position_and_name_the_job(self, broker: JobStore) -> None:
        old = await enqueue(broker)
        jobs = [make_job(queue="a"), old, make_job(queue="b")]
        answers = await broker.enqueue(jobs)
        assert [(a.answer, a.id, a.queue) for a in answers] == [
            (OK, jobs[0].id, "a"),
            (DUPLICATE_ID, old.id, "default"),
            (OK, jobs[2].id, "b"),
        ]

    async def test_an_empty_call_is_answered_with_nothing(self, broker: JobStore) -> None:
        assert await broker.enqueue([]) == []

    async def test_a_job_is_there_once_even_if_one_call_has_it_twice(
        self, broker: JobStore
    ) -> None:
        job = make_job()
        assert await put(broker, job, job) == [OK, DUPLICATE_ID]
        assert len(await take(broker)) == 1

    async def test_a_known_id_changes_nothing(self, broker: JobStore, clock: ManualClock) -> None:
        job = await enqueue(broker)
        before = await record_of(broker, job)
        clock.advance(5)
        assert await put(broker, job) == [DUPLICATE_ID]
        assert await record_of(broker, job) == before

    async def test_a_final_job_still_owns_its_id(self, broker: JobStore) -> None:
        job = await enqueue(broker)
        await settle(broker, Ack(lease=await take_one(broker)))
        assert await put(broker, job) == [DUPLICATE_ID]
        assert await state_of(broker, job) is State.COMPLETED

    @pytest.mark.parametrize("changed", [{"task": "other"}, {"payload": b"other"}])
    async def test_an_id_of_another_job_refuses_the_whole_call(
        self, broker: JobStore, changed: dict[str, Any]
    ) -> None:
        job = await enqueue(broker)
        bystander = make_job()
        with pytest.raises(IdConflict):
            await broker.enqueue([bystander, make_job(id=job.id, **changed)])
        assert ids(await all_records(broker)) == [job.id]

    async def test_two_jobs_of_one_id_in_a_call_refuse_it(self, broker: JobStore) -> None:
        job = make_job()
        with pytest.raises(IdConflict):
            await broker.enqueue([job, make_job(id=job.id, payload=b"other")])
        assert await all_records(broker) == []

    async def test_the_id_is_checked_before_the_unique_key(self, broker: JobStore) -> None:
        job = await enqueue(broker, unique=UniqueKey(key="k"))
        assert await put(broker, job) == [DUPLICATE_ID]

    @pytest.mark.parametrize("fields", BAD_FIELDS, ids="-".join)
    async def test_a_bad_value_refuses_the_whole_call_before_any_write(
        self, broker: JobStore, fields: dict[str, Any]
    ) -> None:
        with pytest.raises(ConfigError):
            await broker.enqueue([make_job(), make_job(**fields), make_job()])
        assert await all_records(broker) == []

    @pytest.mark.parametrize(
        ("capability", "fields"),
        [
            ("limits", {"limits": (LimitKey("api", "host"),)}),
            ("fair", {"fair_key": "tenant"}),
            ("groups", {"group_key": "batch"}),
            ("schedules", {"schedule_id": "nightly"}),
        ],
    )
    async def test_a_feature_is_kept_or_refused_but_never_ignored(
        self, broker: JobStore, capability: str, fields: dict[str, Any]
    ) -> None:
        job = make_job(**fields)
        if getattr(broker.capabilities, capability):
            if job.limits:
                await broker.declare([LimitRule(name="api", limit=Slots(1))])
            assert await put(broker, job) == [OK]
            return
        with pytest.raises(Unsupported, match=job.id):
            await broker.enqueue([make_job(), job])
        assert await all_records(broker) == []

    async def test_an_oversized_payload_refuses_the_whole_call(self, broker: JobStore) -> None:
        large = make_job(payload=b"x" * (broker.capabilities.payload_max_bytes + 1))
        with pytest.raises(PayloadTooLarge):
            await broker.enqueue([make_job(), large])
        assert await all_records(broker) == []

    async def test_a_payload_may_be_as_large_as_the_limit(self, broker: JobStore) -> None:
        payload = b"x" * broker.capabilities.payload_max_bytes
        assert await put(broker, make_job(payload=payload)) == [OK]
        (lease,) = await take(broker)
        assert lease.job.payload == payload

    async def test_a_call_of_more_jobs_than_the_limit_is_refused(self, broker: JobStore) -> None:
        jobs = [make_job() for _ in range(broker.capabilities.batch_max + 1)]
        with pytest.raises(ConfigError, match=str(broker.capabilities.batch_max)):
            await broker.enqueue(jobs)
        assert await broker.count(Filter()) == 0

    async def test_a_delay_beyond_the_limit_is_refused(self, broker: JobStore) -> None:
        with pytest.raises(Unsupported, match="delay_ms"):
            await broker.enqueue([make_job(delay_ms=broker.capabilities.delay_max_ms + 1)])

    async def test_names_are_taken_literally(self, broker: JobStore) -> None:
        name = "größe '%_\" ; -- \U0001f6a1"
        job = await enqueue(
            broker, id=name, task=name, queue=name, tags=(name,), unique=UniqueKey(key=name)
        )
        assert ids(await take(broker, name)) == [job.id]
        assert ids(await all_records(broker, Filter(tag=name, queue=name))) == [name]
        assert [info.name for info in await broker.queues()] == [name]

    async def test_a_large_batch_is_stored_in_its_order(self, broker: JobStore) -> None:
        jobs = [make_job() for _ in range(1000)]
        assert set(await put(broker, *jobs)) == {OK}
        assert ids(await take(broker, limit=1000)) == ids(jobs)

    async def test_concurrent_calls_are_all_stored(self, broker: JobStore) -> None:
        jobs = [make_job() for _ in range(40)]
        answers = await asyncio.gather(*(broker.enqueue([job]) for job in jobs))
        assert {a.answer for (a,) in answers} == {OK}
        assert set(ids(await all_records(broker))) == set(ids(jobs))

    async def test_a_bad_call_fails_alone_among_concurrent_ones(self, broker: JobStore) -> None:
        taken = await enqueue(broker)
        jobs = [make_job() for _ in range(10)]
        calls = [*jobs[:5], make_job(id=taken.id, payload=b"other"), *jobs[5:]]
        results = await asyncio.gather(
            *(broker.enqueue([job]) for job in calls), return_exceptions=True
        )
        assert isinstance(results[5], IdConflict)
        assert sum(isinstance(result, list) for result in results) == 10
        assert len(await all_records(broker)) == 11

    async def test_a_cancelled_caller_takes_only_itself_out(self, broker: JobStore) -> None:
        jobs = [make_job() for _ in range(6)]
        calls = [asyncio.create_task(broker.enqueue([job])) for job in jobs]
        await asyncio.sleep(0)
        calls[2].cancel()
        results = await asyncio.gather(*calls, return_exceptions=True)
        for position in (0, 1, 3, 4, 5):
            assert isinstance(results[position], list)
            assert await find_record(broker, jobs[position]) is not None


class EnqueueRepeatContract:
    """A call that is sent again has the effect of one."""

    async def test_a_repeated_call_gets_the_same_answers(self, broker: JobStore) -> None:
        old = await enqueue(broker)
        jobs = [make_job(), old, make_job()]
        first = await broker.enqueue(jobs, call_id="c1")
        assert await broker.enqueue(jobs, call_id="c1") == first
        assert len(await all_records(broker)) == 3

    async def test_a_repeated_call_does_not_bring_a_finished_job_back(
        self, broker: JobStore
    ) -> None:
        job = make_job(retention_ms=0)
        first = await broker.enqueue([job], call_id="c1")
        await settle(broker, Ack(lease=await take_one(broker)))
        assert await broker.enqueue([job], call_id="c1") == first
        assert await take(broker) == []

    async def test_the_call_is_checked_before_the_unique_key(self, broker: JobStore) -> None:
        job = make_job(unique=UniqueKey(key="k"))
        first = await broker.enqueue([job], call_id="c1")
        assert await broker.enqueue([job], call_id="c1") == first
        assert first[0].answer is OK

    async def test_a_call_is_remembered_for_a_minute(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        job = make_job()
        first = await broker.enqueue([job], call_id="c1")
        clock.advance(CALLS_KEPT_MS - 1)
        await broker.maintain()
        assert await broker.enqueue([job], call_id="c1") == first
        clock.advance(2)
        await broker.maintain()
        (later,) = await broker.enqueue([job], call_id="c1")
        assert later.answer is DUPLICATE_ID

    async def test_calls_of_other_ids_are_not_mixed_up(self, broker: JobStore) -> None:
        await broker.enqueue([make_job()], call_id=new_id())
        job = make_job()
        (answer,) = await broker.enqueue([job], call_id=new_id())
        assert (answer.answer, answer.id) == (OK, job.id)

    async def test_a_refused_call_is_not_remembered(self, broker: JobStore) -> None:
        with pytest.raises(ConfigError):
            await broker.enqueue([make_job(priority=99)], call_id="c1")
        (answer,) = await broker.enqueue([make_job()], call_id="c1")
        assert answer.answer is OK


class EnqueueTimeContract:
    """Relative times become absolute by the broker's clock."""

    async def test_a_delay_counts_from_the_brokers_now(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        job = await enqueue(broker, delay_ms=1_500)
        record = await record_of(broker, job)
        assert record.status.state is State.SCHEDULED
        assert record.status.due_ms == clock.wall_ms() + 1_500
        assert record.job.scheduled_at_ms == clock.wall_ms() + 1_500
        assert record.job.delay_ms == 0

    async def test_an_explicit_time_is_kept_as_it_is(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        at_ms = clock.wall_ms() + 123_456
        job = await enqueue(broker, scheduled_at_ms=at_ms)
        assert (await status_of(broker, job)).due_ms == at_ms

    async def test_a_time_in_the_past_means_now(self, broker: JobStore, clock: ManualClock) -> None:
        job = await enqueue(broker, scheduled_at_ms=clock.wall_ms() - 5_000)
        status = await status_of(broker, job)
        assert (status.state, status.due_ms) == (State.AVAILABLE, clock.wall_ms())

    async def test_expiry_and_deadline_become_absolute(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        stored = (
            await record_of(
                broker, await enqueue(broker, expires_after_ms=10, deadline_after_ms=20)
            )
        ).job
        assert stored.expires_at_ms == clock.wall_ms() + 10
        assert stored.deadline_at_ms == clock.wall_ms() + 20
        assert stored.expires_after_ms is None
        assert stored.deadline_after_ms is None

    async def test_seq_grows_in_the_order_of_enqueueing(self, broker: JobStore) -> None:
        jobs = [await enqueue(broker) for _ in range(3)]
        jobs += [make_job(), make_job()]
        await put(broker, *jobs[3:])
        seqs = [(await status_of(broker, job)).seq for job in jobs]
        assert seqs == sorted(set(seqs))
