"""The statements that serve many jobs at once write what `lifecycle` says of each.

Every job here is one that the statements serve; its twin differs in something that makes the
broker take the long way, through the lifecycle's own functions. Both must end up alike.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ropeway import lifecycle
from ropeway.broker import Beat, EnqueueAnswer, Filter
from ropeway.brokers.sqlite import SQLiteBroker
from ropeway.brokers.sqlite.rows import extra_of
from ropeway.job import Job, JobRecord, Lease, State, Status, UniqueKey
from ropeway.outcome import Ack, Outcome, Release, Retry, Settled
from ropeway.runtime import new_id
from ropeway.testing.manual_clock import ManualClock
from ropeway.testing.steps import LEASE_MS, WORKER, make_job, record_of, take

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def broker(tmp_path: Path, clock: ManualClock) -> AsyncIterator[SQLiteBroker]:
    broker = SQLiteBroker(tmp_path / "jobs.db", durability="fast", clock=clock)
    await broker.open()
    yield broker
    await broker.close()


SHAPES: list[dict[str, Any]] = [
    {},
    {"delay_ms": 500},
    {"priority": 7, "headers": {"a": "b"}, "tags": ("x",)},
    {"expires_after_ms": 60_000, "deadline_after_ms": 50_000},
    {"retention_ms": 5_000},
    {"payload": bytes(range(256)), "codec": "msgpack", "timeout_ms": 5},
]


async def test_enqueueing_many_writes_what_admit_says(
    broker: SQLiteBroker, clock: ManualClock
) -> None:
    jobs = [make_job(**shape) for shape in SHAPES]
    answers = await broker.enqueue(jobs)
    assert {answer.answer for answer in answers} == {EnqueueAnswer.OK}
    for seq, job in enumerate(jobs, start=1):
        stamped, status = lifecycle.admit(job, seq=seq, now_ms=clock.wall_ms())
        assert await record_of(broker, job) == JobRecord(stamped, status)


async def test_a_job_that_no_longer_waits_for_others_is_plain_again() -> None:
    pending = Status(state=State.PENDING, seq=1, due_ms=0, waiting_on=frozenset({"p"}))
    assert extra_of(pending) is not None
    assert extra_of(lifecycle.parent_completed(pending, "p", now_ms=0)) is None


@pytest.mark.parametrize("shape", SHAPES)
async def test_enqueueing_many_alike_writes_what_admit_says(
    broker: SQLiteBroker, clock: ManualClock, shape: dict[str, Any]
) -> None:
    jobs = [make_job(**shape) for _ in range(3)]
    await broker.enqueue(jobs)
    for seq, job in enumerate(jobs, start=1):
        stamped, status = lifecycle.admit(job, seq=seq, now_ms=clock.wall_ms())
        assert await record_of(broker, job) == JobRecord(stamped, status)


async def test_ids_of_any_letters_and_lengths_are_kept(broker: SQLiteBroker) -> None:
    jobs = [make_job(id=name) for name in ("a", "ü", "long-" * 20, '"quoted"', "日本")]
    await broker.enqueue(jobs[:2])
    await broker.enqueue(jobs[2:])
    assert [lease.job.id for lease in await take(broker)] == [job.id for job in jobs]


async def test_a_taken_id_in_a_batch_leaves_the_others_as_they_would_be_alone(
    broker: SQLiteBroker, clock: ManualClock
) -> None:
    known = make_job()
    await broker.enqueue([known])
    jobs = [make_job(), known, make_job()]
    answers = [answer.answer for answer in await broker.enqueue(jobs)]
    assert answers == [EnqueueAnswer.OK, EnqueueAnswer.DUPLICATE_ID, EnqueueAnswer.OK]
    assert await broker.count(Filter()) == 3
    for job in (jobs[0], jobs[2]):
        record = await record_of(broker, job)
        assert record == JobRecord(
            *lifecycle.admit(job, seq=record.status.seq, now_ms=clock.wall_ms())
        )


async def started(broker: SQLiteBroker, clock: ManualClock) -> list[tuple[Lease, Status]]:
    """Leases of one batch with the statuses that `lifecycle.start` gives."""
    await broker.enqueue([make_job(**shape) for shape in SHAPES])
    clock.advance(1_000)
    await broker.maintain()  # the delayed one is due
    before = {record.job.id: record for record in (await broker.find(Filter())).records}
    leases = await take(broker)
    expected = [
        lifecycle.start(
            before[lease.job.id].status,
            worker=WORKER,
            token=lease.token,
            lease_until_ms=clock.mono_ms() + LEASE_MS,
            now_ms=clock.wall_ms(),
        )
        for lease in leases
    ]
    return list(zip(leases, expected, strict=True))


async def test_reserving_many_writes_what_start_says(
    broker: SQLiteBroker, clock: ManualClock
) -> None:
    for lease, expected in await started(broker, clock):
        assert await record_of(broker, lease.job) == JobRecord(lease.job, expected)
        assert lease == lifecycle.lease(lease.job, expected)


@pytest.mark.parametrize("results", ["alike", "different"])
async def test_acks_write_what_settle_says(
    broker: SQLiteBroker, clock: ManualClock, results: str
) -> None:
    held = await started(broker, clock)
    outcomes = [
        Ack(lease=lease, result=b"%d" % place if results == "different" else None)
        for place, (lease, _) in enumerate(held)
    ]
    if results == "different":
        outcomes[0] = Ack(lease=held[0][0], result=b"\x00\xff", result_codec="msgpack")
        outcomes[1] = Ack(lease=held[1][0], result=b"")
        outcomes[2] = Ack(lease=held[2][0])
    clock.advance(10)
    assert set(await broker.settle(outcomes)) == {Settled.OK}
    for (lease, status), outcome in zip(held, outcomes, strict=True):
        expected = lifecycle.settle(status, outcome, now_ms=clock.wall_ms())
        assert await record_of(broker, lease.job) == JobRecord(lease.job, expected)


async def test_records_go_when_prune_at_says(broker: SQLiteBroker, clock: ManualClock) -> None:
    held = await started(broker, clock)
    await broker.settle([Ack(lease=lease) for lease, _ in held])
    records = (await broker.find(Filter())).records
    for record in sorted(records, key=lambda r: lifecycle.prune_at_ms(r.job, r.status)):
        left_ms = lifecycle.prune_at_ms(record.job, record.status) - clock.wall_ms()
        if left_ms > 0:
            clock.advance(left_ms - 1)
            await broker.maintain()
            assert await broker.get([record.job.ref]) == [record]
            clock.advance(1)
        await broker.maintain()
        assert await broker.get([record.job.ref]) == [None]
    assert await broker.queues() == []


async def test_promoting_many_writes_what_promote_says(
    broker: SQLiteBroker, clock: ManualClock
) -> None:
    await broker.enqueue([make_job(delay_ms=100, priority=n % 3) for n in range(5)])
    before = (await broker.find(Filter())).records
    clock.advance(100)
    assert (await broker.maintain()).promoted == 5
    for record in before:
        assert (await record_of(broker, record.job)).status == lifecycle.promote(record.status)


async def test_a_plain_beat_writes_what_extended_says(
    broker: SQLiteBroker, clock: ManualClock
) -> None:
    held = await started(broker, clock)
    clock.advance(100)
    await broker.extend([Beat(lease=lease) for lease, _ in held], lease_ms=LEASE_MS)
    until_ms = clock.mono_ms() + LEASE_MS
    for lease, status in held:
        expected = lifecycle.extended(status, lease_until_ms=until_ms, progress=None, saved=None)
        assert (await record_of(broker, lease.job)).status == expected


async def test_jobs_with_a_history_are_told_apart_from_plain_ones(
    broker: SQLiteBroker, clock: ManualClock
) -> None:
    """One batch mixes plain jobs with such that were snoozed, retried or crashed before."""
    await broker.enqueue([make_job() for _ in range(4)])
    first = await take(broker)
    outcomes: list[Outcome] = [Retry(lease=first[0], delay_ms=0), Release(lease=first[1])]
    await broker.settle(outcomes)
    clock.advance(LEASE_MS)
    await broker.maintain()  # the other two crashed
    before = {record.job.id: record for record in (await broker.find(Filter())).records}
    leases = await take(broker)
    assert len(leases) == 4
    for lease in leases:
        expected = lifecycle.start(
            before[lease.job.id].status,
            worker=WORKER,
            token=lease.token,
            lease_until_ms=lease.expires_at_ms,
            now_ms=clock.wall_ms(),
        )
        assert (await record_of(broker, lease.job)).status == expected
        assert lease == lifecycle.lease(lease.job, expected)


async def test_a_unique_job_among_plain_ones_lets_its_key_go(broker: SQLiteBroker) -> None:
    unique = make_job(unique=UniqueKey(key="k"))
    await broker.enqueue([make_job(), unique, make_job()])
    await broker.settle([Ack(lease=lease) for lease in await take(broker)])
    again = msgspec.structs.replace(unique, id=new_id())
    ((answer),) = await broker.enqueue([again])
    assert answer.answer is EnqueueAnswer.OK


async def test_jobs_too_big_for_one_statement_go_one_by_one(
    broker: SQLiteBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ropeway.brokers.sqlite.enqueue._STATEMENT_MAX_BYTES", 1_000)
    jobs = [Job(id=new_id(), task="t", payload=b"x" * 400) for _ in range(5)]
    await broker.enqueue(jobs)
    assert [lease.job.id for lease in await take(broker)] == [job.id for job in jobs]


async def test_counts_stay_true(broker: SQLiteBroker, clock: ManualClock) -> None:
    held = await started(broker, clock)
    await broker.settle([Ack(lease=lease) for lease, _ in held[:3]])
    await broker.settle([Retry(lease=held[3][0], delay_ms=5)])
    (info,) = await broker.queues()
    records = (await broker.find(Filter())).records
    assert info.counts == {
        state: n
        for state in State
        if (n := sum(record.status.state is state for record in records))
    }
