"""Every reason why a job does not run is found and said, on every broker."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from brokers import BROKERS
from ropeway.action import CancelJob
from ropeway.broker import JobStore, WorkerInfo
from ropeway.flow.rules import Breaker, GroupRule, Limit, LimitRule, QueueRule, Rate, Scope, Slots
from ropeway.job import Failure, Job, JobRef, LimitKey
from ropeway.outcome import Ack, Bury, Crashed, Retry, Snooze
from ropeway.testing.manual_clock import ManualClock
from ropeway.testing.steps import (
    act,
    enqueue,
    make_job,
    put,
    record_of,
    settle,
    take,
    take_one,
)
from ropeway.why import Kind, Reason, Why, explain

pytestmark = pytest.mark.anyio

WORKER = WorkerInfo(
    id="w1", host="pine", pid=1, queues={"default": 1}, concurrency=2, tasks=("test.task",)
)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=list(BROKERS))
async def store(
    request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock
) -> AsyncIterator[JobStore]:
    """A store with a worker that serves the default queue and has room for two jobs."""
    store = BROKERS[request.param](tmp_path, clock)
    await store.open()
    await store.heartbeat(WORKER)
    yield store
    await store.close()


class Ask:
    """Asks why, at the time of the test's clock."""

    def __init__(self, store: JobStore, clock: ManualClock) -> None:
        self._store = store
        self._clock = clock

    async def __call__(self, job: Job | JobRef) -> Why:
        record = await record_of(self._store, job)
        return await explain(self._store, record, now_ms=self._clock.wall_ms())

    async def only(self, job: Job | JobRef) -> Reason:
        """The reason, where there is one."""
        (reason,) = (await self(job)).reasons
        return reason

    async def kinds(self, job: Job | JobRef) -> list[Kind]:
        return [reason.kind for reason in (await self(job)).reasons]


@pytest.fixture
def why(store: JobStore, clock: ManualClock) -> Ask:
    return Ask(store, clock)


async def limited(
    store: JobStore, limit: Limit, *, key: str = "k", scope: Scope = "queue"
) -> dict[str, Any]:
    """Declare the limit `x`; the fields of a job under one of its keys."""
    await store.declare([LimitRule(name="x", limit=limit, scope=scope)])
    return {"limits": (LimitKey("x", key),)}


# -- it does not wait ---------------------------------------------------------------------------


async def test_a_finished_job_says_how_and_when_it_ended(
    store: JobStore, why: Ask, clock: ManualClock
) -> None:
    done, dead, gone = [await enqueue(store) for _ in range(3)]
    await settle(store, Ack(lease=await take_one(store)))
    failure = Failure(at_ms=0, attempt=1, type="ValueError", message="no such page")
    await settle(store, Bury(lease=await take_one(store), failure=failure, reason="hopeless"))
    await act(store, CancelJob(ref=gone.ref, reason="not wanted"))
    texts = [(await why(job)).text for job in (done, dead, gone)]
    assert texts == [
        "it is completed",
        "it is dead (hopeless) after ValueError: no such page",
        "it is cancelled (not wanted)",
    ]
    assert (await why(done)).kind is Kind.ENDED
    assert (await why.only(done)).since_ms == clock.wall_ms()


async def test_a_running_job_says_where_and_since_when(
    store: JobStore, why: Ask, clock: ManualClock
) -> None:
    job = await enqueue(store)
    began_ms = clock.wall_ms()
    await take(store, worker="w7")
    clock.advance(500)
    reason = await why.only(job)
    assert (reason.kind, reason.workers, reason.since_ms) == (Kind.RUNNING, ("w7",), began_ms)
    assert reason.text == "it runs on worker w7"
    await act(store, CancelJob(ref=job.ref))
    assert (await why(job)).text == "it runs on worker w7 and was asked to stop"


async def test_a_job_that_nothing_holds_back_says_so(store: JobStore, why: Ask) -> None:
    job = await enqueue(store)
    assert (await why.only(job)).kind is Kind.NOTHING
    assert (await why(job)).text == "nothing holds it back: it will run at once"


# -- not yet ------------------------------------------------------------------------------------


async def test_a_scheduled_job_says_when(store: JobStore, why: Ask, clock: ManualClock) -> None:
    job = await enqueue(store, delay_ms=5_000)
    reason = await why.only(job)
    assert (reason.kind, reason.until_ms) == (Kind.SCHEDULED, clock.wall_ms() + 5_000)
    clock.advance(5_000)
    assert await why.kinds(job) == [Kind.NOTHING], "due jobs count before they are promoted"


async def test_a_job_between_two_runs_says_what_failed(
    store: JobStore, why: Ask, clock: ManualClock
) -> None:
    job = await enqueue(store)
    failure = Failure(at_ms=0, attempt=1, type="TimeoutError")
    await settle(store, Retry(lease=await take_one(store), delay_ms=3_000, failure=failure))
    reason = await why.only(job)
    assert (reason.kind, reason.until_ms) == (Kind.RETRY, clock.wall_ms() + 3_000)
    assert reason.text == "it waits for its next run after TimeoutError"


async def test_a_pending_job_names_its_parents_and_their_states(store: JobStore, why: Ask) -> None:
    await put(store, make_job(id="p1"), make_job(id="p2", queue="other"))
    child = await enqueue(store, parents=("p1", "p2", "p3"))
    await take(store, "other")
    reason = await why.only(child)
    assert reason.kind is Kind.PARENTS
    assert reason.text == "it waits for parents p1 (available), p2 (running), p3 (not known yet)"
    assert [ref.id for ref in reason.jobs] == ["p1", "p2", "p3"]


async def test_an_overdue_job_will_not_run(store: JobStore, why: Ask, clock: ManualClock) -> None:
    job = await enqueue(store, expires_after_ms=1_000)
    clock.advance(1_000)
    assert await why.kinds(job) == [Kind.OVERDUE]


async def test_what_will_still_hold_it_back_later_is_told_too(store: JobStore, why: Ask) -> None:
    job = await enqueue(store, delay_ms=1_000, queue="unserved")
    await store.pause("unserved")
    assert await why.kinds(job) == [Kind.SCHEDULED, Kind.PAUSED, Kind.NO_WORKER]


# -- the queue and its workers ------------------------------------------------------------------


async def test_a_paused_queue_is_named(store: JobStore, why: Ask) -> None:
    job = await enqueue(store)
    await store.pause("default")
    reason = await why.only(job)
    assert (reason.kind, reason.text) == (
        Kind.PAUSED,
        "queue 'default' is paused; resume it to go on",
    )


async def test_a_queue_without_workers_is_told_from_no_workers_at_all(
    store: JobStore, why: Ask, clock: ManualClock
) -> None:
    job = await enqueue(store, queue="mail")
    assert (await why.only(job)).text == "none of the workers known (1) serves queue 'mail'"
    await store.heartbeat(
        WorkerInfo(id="w2", host="h", pid=2, queues={"mail": 1}, concurrency=1, state="quiet")
    )
    reason = await why.only(job)
    assert (reason.kind, reason.workers) == (Kind.NO_WORKER, ("w2",))
    assert reason.text == "queue 'mail' has only workers that start no more jobs: worker w2 (quiet)"
    clock.advance(60_001)
    assert (await why.only(job)).text == "no worker was heard of in the last minute"


async def test_a_task_that_no_worker_knows_is_named(
    store: JobStore, why: Ask, clock: ManualClock
) -> None:
    job = await enqueue(store, task="elsewhere")
    reason = await why.only(job)
    assert (reason.kind, reason.workers) == (Kind.UNKNOWN_TASK, ("w1",))
    assert "'elsewhere'" in reason.text
    snooze = Snooze(lease=await take_one(store), delay_ms=1_000, reason="unknown_task")
    await settle(store, snooze)
    first, second = (await why(job)).reasons
    assert (first.kind, first.until_ms) == (Kind.UNKNOWN_TASK, clock.wall_ms() + 1_000)
    assert second.kind is Kind.UNKNOWN_TASK


async def test_busy_workers_and_the_jobs_before_it_are_counted(store: JobStore, why: Ask) -> None:
    jobs = [make_job() for _ in range(5)]
    await put(store, *jobs)
    assert (await why(jobs[4])).text == (
        "nothing holds it back: it will run after the 4 jobs before it"
    )
    busy = WorkerInfo(
        id="w1", host="pine", pid=1, queues={"default": 1}, concurrency=2, running=("a", "b")
    )
    await store.heartbeat(busy)
    reason = await why.only(jobs[4])
    assert (reason.kind, reason.count, reason.workers) == (Kind.BUSY, 4, ("w1",))
    assert reason.text == "worker w1 of queue 'default' has no free place; 4 jobs are before it"


async def test_a_suspect_waits_for_a_worker_that_runs_nothing(store: JobStore, why: Ask) -> None:
    job = await enqueue(store)
    for _ in range(2):
        await settle(store, Crashed(lease=await take_one(store)))
    assert await why.kinds(job) == [Kind.NOTHING]
    one_running = WorkerInfo(
        id="w1", host="h", pid=1, queues={"default": 1}, concurrency=2, running=("a",)
    )
    await store.heartbeat(one_running)
    assert (await why(job)).kind is Kind.SUSPECT


# -- other jobs ---------------------------------------------------------------------------------


async def test_the_holder_of_an_ordering_key_is_named(store: JobStore, why: Ask) -> None:
    first, second, third = [make_job(ordering_key="k") for _ in range(3)]
    await put(store, first, make_job(ordering_key="other"), second, third)

    async def says_first(state: str) -> None:
        reason = await why.only(third)
        assert (reason.kind, reason.jobs) == (Kind.ORDERING, (first.ref,))
        assert f"job {first.id} ({state})" in reason.text

    await says_first("available")
    lease = await take_one(store)
    await says_first("running")
    await settle(store, Retry(lease=lease, delay_ms=60_000))
    await says_first("retryable")
    assert await why.kinds(first) == [Kind.RETRY]


async def test_a_gathering_job_says_when_its_batch_is_ready(
    store: JobStore, why: Ask, clock: ManualClock
) -> None:
    await store.declare([GroupRule(name="test.task", size=3, within_ms=5_000, grace_ms=1_000)])
    job = await enqueue(store, group_key="g")
    reason = await why.only(job)
    assert (reason.kind, reason.until_ms) == (Kind.GATHERING, clock.wall_ms() + 5_000)
    assert "'g'" in reason.text
    assert "3 jobs" in reason.text
    clock.advance(5_000)
    assert await why.kinds(job) == [Kind.NOTHING]


# -- limits -------------------------------------------------------------------------------------


async def test_a_full_key_names_the_jobs_and_workers_that_hold_it(
    store: JobStore, why: Ask
) -> None:
    fields = await limited(store, Slots(2))
    jobs = [make_job(**fields) for _ in range(4)]
    await put(store, *jobs)
    await take(store, limit=1, worker="a")
    await take(store, limit=9, worker="b")
    reason = await why.only(jobs[3])
    assert (reason.kind, reason.limit, reason.count) == (Kind.LIMIT, LimitKey("x", "k"), 2)
    assert (reason.jobs, reason.workers) == ((jobs[0].ref, jobs[1].ref), ("a", "b"))
    assert reason.text == (
        f"limit 'x' of key 'k' has no free slot: 2 of 2 held by jobs {jobs[0].id}, "
        f"{jobs[1].id} on workers a, b"
    )


async def test_a_full_limit_is_found_before_a_worker_has_asked(store: JobStore, why: Ask) -> None:
    over_all = store.capabilities.app_limits
    fields = await limited(store, Slots(1), scope="app" if over_all else "queue")
    holder = await enqueue(store, queue="other" if over_all else "default", **fields)
    await take(store, holder.queue)
    assert await why.kinds(await enqueue(store, **fields)) == [Kind.LIMIT]


async def test_another_key_or_another_queue_is_no_reason(store: JobStore, why: Ask) -> None:
    fields = await limited(store, Slots(1))
    await enqueue(store, **fields)
    await enqueue(store, queue="other", **fields)
    await take(store, "default", "other")
    free = await enqueue(store, limits=(LimitKey("x", "free"),))
    assert await why.kinds(free) == [Kind.NOTHING]


async def test_a_rate_says_when_it_lets_the_next_start(
    store: JobStore, why: Ask, clock: ManualClock
) -> None:
    fields = await limited(store, Rate(1, 2_000, 1), key="")
    jobs = [make_job(**fields) for _ in range(2)]
    await put(store, *jobs)
    await settle(store, Ack(lease=(await take(store))[0]))
    reason = await why.only(jobs[1])
    assert (reason.kind, reason.until_ms) == (Kind.RATE, clock.wall_ms() + 2_000)
    assert reason.text == "limit 'x' starts no more than 1 per 2 s, burst 1"
    clock.advance(2_000)
    assert await why.kinds(jobs[1]) == [Kind.NOTHING]


async def test_a_breaker_says_how_long_it_rests_and_that_it_tries(
    store: JobStore, why: Ask, clock: ManualClock
) -> None:
    fields = await limited(store, Breaker(1, 5_000))
    jobs = [make_job(**fields) for _ in range(3)]
    await put(store, *jobs)
    await settle(store, Bury(lease=await take_one(store)))
    assert await take(store) == []
    reason = await why.only(jobs[2])
    assert (reason.kind, reason.until_ms) == (Kind.BREAKER, clock.wall_ms() + 5_000)
    assert reason.text == "limit 'x' of key 'k' rests after 1 failure in a row"
    clock.advance(5_000)
    await take(store)
    reason = await why.only(jobs[2])
    assert (reason.kind, reason.until_ms) == (Kind.BREAKER, None)
    assert "tries one job" in reason.text


async def test_of_several_limits_each_that_refuses_is_told(store: JobStore, why: Ask) -> None:
    await store.declare(
        [LimitRule(name="a", limit=Slots(1)), LimitRule(name="b", limit=Rate(1, 1_000, 1))]
    )
    both = (LimitKey("a"), LimitKey("b"))
    await enqueue(store, limits=both)
    job = await enqueue(store, limits=both)
    await take(store)
    assert sorted(await why.kinds(job)) == [Kind.LIMIT, Kind.RATE]


@pytest.mark.parametrize(
    ("limit", "kind"),
    [(Slots(1), Kind.LIMIT), (Rate(1, 1_000, 1), Kind.RATE), (Breaker(1, 1_000), Kind.BREAKER)],
)
async def test_a_limit_of_the_queue_itself_is_named(
    store: JobStore, why: Ask, limit: Limit, kind: Kind
) -> None:
    await store.declare([QueueRule(name="default", limits=(limit,))])
    await enqueue(store)
    job = await enqueue(store)
    assert await why.kinds(job) == [Kind.NOTHING]
    lease = await take_one(store)
    if kind is Kind.BREAKER:
        await settle(store, Bury(lease=lease))
    reason = await why.only(job)
    assert reason.kind is kind
    assert reason.text.startswith("queue 'default' ")
    assert reason.limit is not None
    assert reason.limit.name == "queue:default"


async def test_of_a_very_long_queue_only_so_much_is_looked_through(
    store: JobStore, why: Ask
) -> None:
    head, tail, last = make_job(ordering_key="k"), make_job(ordering_key="k"), make_job()
    await put(store, head)
    await put(store, *(make_job() for _ in range(10_000)))
    await put(store, tail, last)
    reason = await why.only(tail)
    assert (reason.kind, reason.jobs) == (Kind.ORDERING, ())
    assert reason.text == "an earlier job of the same ordering key 'k' is before it"
    assert "at least 10,000 jobs" in (await why(last)).text
