"""`get`, `find`, `count`, `peek`, `queues`: what a store says is true, at every point."""

from collections import Counter
from typing import Any

import pytest

from ropeway.action import CancelJob, DeleteJob
from ropeway.broker import Filter, JobStore
from ropeway.errors import ConfigError
from ropeway.job import PRIORITY_MAX, Failure, Job, JobRef, State, UniqueKey
from ropeway.outcome import Ack, Bury, Release, Retry, Snooze
from ropeway.runtime import new_id
from ropeway.testing.manual_clock import ManualClock
from ropeway.testing.steps import (
    HOUR_MS,
    LEASE_MS,
    act,
    all_records,
    bring_to,
    crash,
    enqueue,
    ids,
    make_job,
    put,
    settle,
    take,
    take_one,
)


async def found(broker: JobStore, **where: Any) -> list[str]:
    """The ids that a filter finds; the count must agree."""
    matching = Filter(**where)
    result = ids(await all_records(broker, matching))
    assert await broker.count(matching) == len(result)
    return result


class FindContract:
    """Records are found by what they are."""

    async def test_get_answers_by_position(self, broker: JobStore) -> None:
        a, b = await enqueue(broker), await enqueue(broker, queue="b")
        refs = [b.ref, JobRef(new_id()), JobRef(a.id), JobRef(b.id), JobRef(a.id, "nowhere")]
        records = await broker.get(refs)
        assert [None if r is None else r.job.id for r in records] == [
            b.id,
            None,
            a.id,
            b.id,
            None,
        ]
        assert await broker.get([]) == []

    async def test_everything_is_found_newest_first(self, broker: JobStore) -> None:
        jobs = [await enqueue(broker, priority=n % 3) for n in range(5)]
        assert await found(broker) == ids(jobs)[::-1]

    async def test_find_by_state(self, broker: JobStore) -> None:
        jobs = {state: (await bring_to(broker, state, queue=state))[0] for state in State}
        for state, job in jobs.items():
            assert await found(broker, states=frozenset({state})) == [job.id]
        both = {State.DEAD, State.PENDING}
        assert set(await found(broker, states=both)) == {
            jobs[State.DEAD].id,
            jobs[State.PENDING].id,
        }

    @pytest.mark.parametrize(
        ("fields", "where"),
        [
            ({"queue": "mail"}, {"queue": "mail"}),
            ({"task": "send"}, {"task": "send"}),
            ({"tags": ("a", "b")}, {"tag": "b"}),
            ({"unique": UniqueKey(key="k")}, {"unique_key": "k"}),
        ],
        ids=["queue", "task", "tag", "unique_key"],
    )
    async def test_find_by_words(
        self, broker: JobStore, fields: dict[str, Any], where: dict[str, Any]
    ) -> None:
        await enqueue(broker, queue="q", task="t", tags=("ab",), unique=UniqueKey(key="kk"))
        job = await enqueue(broker, **fields)
        assert await found(broker, **where) == [job.id]

    async def test_find_by_error(self, broker: JobStore) -> None:
        failed, buried, fine = [await enqueue(broker) for _ in range(3)]
        a, b, c = await take(broker)
        failure = Failure(at_ms=1, attempt=1, type="app.TimeoutError", message="100% of host_x")
        await broker.settle(
            [
                Retry(lease=a, delay_ms=1, failure=failure),
                Bury(lease=b, reason="crashed_worker"),
                Ack(lease=c),
            ]
        )
        assert await found(broker, error="TimeoutError") == [failed.id]
        assert await found(broker, error="% of host_") == [failed.id]
        assert await found(broker, error="crashed") == [buried.id]
        assert await found(broker, error="host%x") == []
        assert fine.id in await found(broker)

    async def test_find_by_worker(self, broker: JobStore) -> None:
        job = await enqueue(broker)
        await enqueue(broker)
        await take_one(broker, worker="w7")
        assert await found(broker, worker="w7") == [job.id]

    async def test_find_by_time(self, broker: JobStore, clock: ManualClock) -> None:
        jobs: list[Job] = []
        for _ in range(4):
            jobs.append(await enqueue(broker))
            await settle(broker, Ack(lease=await take_one(broker)))
            clock.advance(10)
        start_ms = clock.wall_ms() - 40
        window = ids(jobs[1:3])[::-1]
        assert (
            await found(broker, created_from_ms=start_ms + 10, created_before_ms=start_ms + 30)
            == window
        )
        assert (
            await found(broker, finished_from_ms=start_ms + 10, finished_before_ms=start_ms + 30)
            == window
        )

    async def test_an_unfinished_job_has_no_time_of_finishing(self, broker: JobStore) -> None:
        await enqueue(broker)
        assert await found(broker, finished_from_ms=0) == []
        assert await found(broker, finished_before_ms=2**50) == []

    async def test_every_given_field_must_match(self, broker: JobStore) -> None:
        await enqueue(broker, queue="a", task="x")
        job = await enqueue(broker, queue="a", task="y")
        await enqueue(broker, queue="b", task="y")
        available = frozenset({State.AVAILABLE})
        assert await found(broker, queue="a", task="y", states=available) == [job.id]
        assert await found(broker, queue="a", task="y", states=frozenset({State.DEAD})) == []

    async def test_no_state_at_all_matches_nothing(self, broker: JobStore) -> None:
        await enqueue(broker)
        assert await found(broker, states=frozenset()) == []

    async def test_pages_hold_at_most_their_limit_and_all_together(self, broker: JobStore) -> None:
        jobs = [make_job() for _ in range(7)]
        await put(broker, *jobs)
        pages: list[list[str]] = []
        cursor: str | None = None
        while True:
            page = await broker.find(Filter(), after=cursor, limit=3)
            pages.append(ids(page.records))
            cursor = page.cursor
            if cursor is None:
                break
        assert all(len(page) <= 3 for page in pages)
        assert [i for page in pages for i in page] == ids(jobs)[::-1]

    async def test_a_cursor_stays_valid_while_jobs_come_and_go(self, broker: JobStore) -> None:
        jobs = [await enqueue(broker) for _ in range(12)]
        gone = {jobs[n].id for n in (1, 4, 9, 10)}
        shown: list[str] = []
        page = await broker.find(Filter(), limit=3)  # 11 10 9
        shown += ids(page.records)
        for n in (1, 4, 9, 10):
            await act(broker, DeleteJob(ref=jobs[n].ref))
        await put(broker, *(make_job() for _ in range(3)))
        await settle(broker, Ack(lease=await take_one(broker)))
        await act(broker, CancelJob(ref=jobs[5].ref))
        while page.cursor is not None:
            page = await broker.find(Filter(), after=page.cursor, limit=3)
            shown += ids(page.records)
        staying = [job.id for job in reversed(jobs) if job.id not in gone]
        assert [i for i in shown if i not in gone] == staying

    async def test_a_rare_record_is_found_among_very_many(self, broker: JobStore) -> None:
        rare = await enqueue(broker, task="rare")
        for _ in range(3):
            await put(broker, *(make_job() for _ in range(4_000)))
        assert await found(broker, task="rare") == [rare.id]

    async def test_a_cursor_from_elsewhere_is_refused(self, broker: JobStore) -> None:
        await enqueue(broker)
        for cursor in ("", "nonsense", "\x00", "-5.x"):
            with pytest.raises(ConfigError):
                await broker.find(Filter(), after=cursor)


class PeekContract:
    """`peek` shows the line as `reserve` will see it."""

    async def test_peek_is_the_order_of_reserve_at_any_offset(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        for n in range(12):
            await enqueue(broker, priority=n % 3, delay_ms=(n % 4) * 10)
            clock.advance(1)
        clock.advance(100)
        await broker.maintain()
        line = ids(await broker.peek("default", limit=100))
        assert len(line) == 12
        for offset in (0, 1, 5, 11, 12, 50):
            page = await broker.peek("default", limit=4, offset=offset)
            assert ids(page) == line[offset : offset + 4]
        assert ids(await take(broker)) == line

    async def test_peek_shows_what_is_available_only(self, broker: JobStore) -> None:
        for state in State:
            job, _ = await bring_to(broker, state)
            if state is State.AVAILABLE:  # out of the way of the states that are reserved
                assert ids(await broker.peek("default")) == [job.id]
                await act(broker, DeleteJob(ref=job.ref))
        assert await broker.peek("default") == []

    async def test_peek_takes_nothing(self, broker: JobStore) -> None:
        job = await enqueue(broker)
        await broker.peek("default")
        assert ids(await take(broker)) == [job.id]

    async def test_peek_of_an_unknown_queue_is_empty(self, broker: JobStore) -> None:
        assert await broker.peek("nowhere") == []


class QueuesContract:
    """The counts are exact after every single step."""

    async def test_queues_are_listed_by_name(self, broker: JobStore) -> None:
        for name in ("b", "c", "a"):
            await enqueue(broker, queue=name)
        await broker.pause("paused-and-empty")
        infos = await broker.queues()
        assert [(i.name, i.paused) for i in infos] == [
            ("a", False),
            ("b", False),
            ("c", False),
            ("paused-and-empty", True),
        ]

    async def test_a_queue_without_records_is_not_listed(self, broker: JobStore) -> None:
        job = await enqueue(broker)
        await act(broker, DeleteJob(ref=job.ref))
        assert await broker.queues() == []

    async def test_the_age_of_a_queue_is_that_of_its_first_available_job(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        await enqueue(broker, delay_ms=HOUR_MS)
        (info,) = await broker.queues()
        assert info.oldest_due_ms is None
        start_ms = clock.wall_ms()
        await enqueue(broker)
        clock.advance(500)
        await enqueue(broker)
        (info,) = await broker.queues()
        assert info.oldest_due_ms == start_ms

    @pytest.mark.parametrize("priority", [0, PRIORITY_MAX])
    async def test_the_first_available_job_may_have_any_priority(
        self, broker: JobStore, clock: ManualClock, priority: int
    ) -> None:
        start_ms = clock.wall_ms()
        await enqueue(broker, priority=priority)
        clock.advance(500)
        await enqueue(broker, priority=PRIORITY_MAX - priority)
        (info,) = await broker.queues()
        assert info.oldest_due_ms == start_ms

    async def test_counts_are_exact_after_every_step(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        async def agree() -> None:
            seen: dict[str, Counter[State]] = {}
            for record in await all_records(broker):
                seen.setdefault(record.job.queue, Counter())[record.status.state] += 1
            told = {i.name: Counter(i.counts) for i in await broker.queues()}
            assert {n: +c for n, c in told.items()} == seen

        parent = make_job(queue="a")
        await put(broker, parent, *(make_job(queue="a") for _ in range(8)))
        await put(broker, make_job(queue="b", parents=(parent.id,)), make_job(delay_ms=50))
        await agree()
        leases = await take(broker, "a")
        await agree()
        for outcome in (
            Ack(lease=leases[0], then=(make_job(queue="c"),)),
            Retry(lease=leases[1], delay_ms=20),
            Snooze(lease=leases[2], delay_ms=20),
            Release(lease=leases[3]),
            Bury(lease=leases[4]),
            Ack(lease=leases[0]),
        ):
            await settle(broker, outcome)
            await agree()
        clock.advance(LEASE_MS + 1)
        await broker.maintain(limit=2)
        await agree()
        await broker.maintain()
        await agree()
        await crash(broker, clock, "b")
        await agree()
        await broker.purge("a", states=frozenset({State.DEAD}))
        await agree()
        clock.advance(HOUR_MS)
        await broker.maintain()
        await agree()
