"""Enqueueing: what a job carries, what an answer means, and what is refused before any write."""

from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from app_under_test import Desk

from ropeway import (
    CodecError,
    ConfigError,
    Duplicate,
    IdConflict,
    JobRef,
    Ropeway,
    State,
    Unique,
)
from ropeway.brokers.memory import MemoryBroker
from ropeway.errors import PayloadTooLarge
from ropeway.job import Job
from ropeway.runtime import Runtime
from ropeway.submit import submit
from ropeway.testing.manual_clock import ManualClock

pytestmark = pytest.mark.anyio

DAY = date(2026, 5, 1)


async def test_arguments_and_declared_options_travel_in_the_job(desk: Desk):
    job = (await (await desk.words.enqueue("a b")).record()).job
    assert (job.task, job.queue, job.tags) == ("words", "words", ("text",))
    assert (job.payload, job.codec) == (b'{"text":"a b"}', "json")
    assert job.attempt_max is None  # the task's policy decides


async def test_options_of_one_job_override_those_of_the_task(desk: Desk):
    task = desk.words.opts(
        queue="other", priority=9, attempts=2, timeout=1.5, retention=timedelta(hours=1),
        headers={"tenant": "t"}, tags=["extra", "text"], id="my-id", codec="msgpack",
        crash_max=0, deadline=60, expires=30,
    )  # fmt: skip
    handle = await task.enqueue("a")
    job = (await handle.record()).job
    assert handle.ref == JobRef("my-id", "other")
    assert (job.priority, job.attempt_max, job.timeout_ms, job.retention_ms) == (
        9,
        2,
        1500,
        3600000,
    )
    assert (job.headers, job.tags, job.codec) == ({"tenant": "t"}, ("text", "extra"), "msgpack")
    assert job.crash_max == 0
    assert job.expires_at_ms == job.created_at_ms + 30_000
    assert job.deadline_at_ms == job.created_at_ms + 60_000


async def test_later_options_win_and_the_task_itself_is_unchanged(desk: Desk):
    late = desk.words.opts(priority=3, delay=60)
    job = (await (await late.opts(priority=4).enqueue("a")).record()).job
    assert job.priority == 4
    assert job.scheduled_at_ms == job.created_at_ms + 60_000
    assert (await (await desk.words.enqueue("a")).record()).job.priority == 0


async def test_a_delayed_job_is_scheduled_and_a_time_is_kept_to_the_millisecond(desk: Desk):
    at = datetime(2099, 1, 2, 3, 4, 5, 678_000, tzinfo=timezone(timedelta(hours=2)))
    later = await desk.words.opts(at=at).enqueue("a")
    record = await later.record()
    assert record.status.state is State.SCHEDULED
    assert record.job.scheduled_at_ms == round(at.timestamp() * 1000)
    soon = await desk.words.opts(delay=timedelta(minutes=1)).enqueue("a")
    assert await soon.state() is State.SCHEDULED


async def test_at_replaces_an_earlier_delay_and_the_other_way_round(desk: Desk):
    at = datetime(2099, 1, 1, tzinfo=UTC)
    job = (await (await desk.words.opts(delay=5).opts(at=at).enqueue("a")).record()).job
    assert job.scheduled_at_ms == round(at.timestamp() * 1000)
    job = (await (await desk.words.opts(at=at).opts(delay=5).enqueue("a")).record()).job
    assert job.scheduled_at_ms == job.created_at_ms + 5000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dealy": 3}, "unknown job option 'dealy': did you mean 'delay'"),
        ({"at": datetime(2099, 1, 1)}, "has no time zone"),  # noqa: DTZ001
        ({"at": 12345}, "at=12345: give a datetime"),
        ({"expires": datetime(2099, 1, 1)}, "expires=.* has no time zone"),  # noqa: DTZ001
        ({"delay": -1}, "delay=-1"),
        ({"delay": float("inf")}, "delay=inf"),
        ({"delay": "3"}, "delay='3' is a str"),
        ({"delay": 1, "at": datetime(2099, 1, 1, tzinfo=UTC)}, "give one of the two"),
        ({"priority": -1}, "priority=-1: give a whole number, 0 to 10"),
        ({"priority": 2.5}, "priority=2.5"),
        ({"attempts": 0}, "attempts=0"),
        ({"timeout": 0}, "timeout=0"),
        ({"retention": -3}, "retention=-3"),
        ({"crash_max": -1}, "crash_max=-1"),
        ({"id": ""}, "id=''"),
        ({"queue": None}, "queue=None"),
        ({"headers": {"n": 1}}, "headers="),
        ({"tags": "nightly"}, "tags='nightly': give a list"),
        ({"parents": "some-id"}, "parents='some-id': give a list"),
        ({"parents": [3]}, "3 names no job"),
        ({"unique": True}, "unique=True: give Unique"),
        ({"codec": "pickle"}, "codec='pickle'"),
        ({"ordering_key": ""}, "ordering_key=''"),
        ({"on_parent_failed": "explode"}, "on_parent_failed='explode'"),
    ],
)
def test_an_option_that_cannot_be_meant_is_refused_where_it_is_written(options, message):
    @Ropeway("memory://").task
    def words(text: str) -> int:
        return len(text)

    with pytest.raises(ConfigError, match=message):
        words.opts(**options)


@pytest.mark.parametrize(
    ("args", "kwargs", "error", "message"),
    [
        ((), {}, TypeError, "day"),
        ((DAY,), {"colour": 1}, TypeError, "colour"),
        ((DAY, 3), {}, TypeError, "positional"),
        (("not a date",), {}, CodecError, r"day"),
        ((DAY,), {"lines": "many"}, CodecError, "lines"),
        ((object(),), {}, CodecError, "object"),
    ],
)
async def test_a_call_that_does_not_fit_is_an_error_at_the_call(
    desk: Desk, args, kwargs, error, message
):
    with pytest.raises(error, match=message):
        await desk.report.enqueue(*args, **kwargs)
    with pytest.raises(error, match=message):
        await desk.app.enqueue_many([desk.report.s(DAY), desk.report.s(*args, **kwargs)])
    assert await desk.app.jobs.count() == 0


async def test_a_payload_over_the_limit_is_refused(desk: Desk):
    @desk.app.task(payload_max_bytes=100)
    def short(text: str) -> None: ...

    with pytest.raises(PayloadTooLarge, match="100 bytes"):
        await short.enqueue("x" * 101)


# -- several at once ------------------------------------------------------------------------


async def test_many_items_make_one_job_each_in_their_order(desk: Desk):
    handles = await desk.words.enqueue_many(str(n) for n in range(5))
    first = await desk.take("words")
    assert (len(handles), first.job.id) == (5, handles[0].id)
    assert await desk.words.enqueue_many([]) == []


async def test_calls_of_several_tasks_go_in_one_round_trip(desk: Desk, monkeypatch):
    rounds = []
    enqueue = desk.store.enqueue

    async def counting(jobs, *, call_id=None):
        rounds.append(len(jobs))
        return await enqueue(jobs, call_id=call_id)

    monkeypatch.setattr(desk.store, "enqueue", counting)
    calls = [desk.report.s(DAY, lines=3), desk.words.s("a"), desk.words.opts(priority=1).s("b")]
    handles = await desk.app.enqueue_many(calls)
    assert rounds == [3]
    assert [h.ref.queue for h in handles] == ["default", "words", "words"]
    assert repr(calls[1]) == "words.s('a')"


async def test_more_jobs_than_a_call_takes_go_in_several(desk: Desk):
    handles = await desk.words.enqueue_many(["x"] * 10_001)
    assert len({h.id for h in handles}) == 10_001
    assert await desk.app.jobs.count() == 10_001


async def test_one_id_for_several_jobs_of_a_call_is_refused(desk: Desk):
    with pytest.raises(ConfigError, match="id='x' was given to 2 jobs"):
        await desk.words.opts(id="x").enqueue_many(["a", "b"])


async def test_calls_of_another_app_are_refused(desk: Desk):
    @Ropeway("memory://").task
    def foreign() -> None: ...

    with pytest.raises(ConfigError, match="another app"):
        await desk.app.enqueue_many([foreign.s()])


# -- identity -------------------------------------------------------------------------------


async def test_the_same_id_again_is_the_same_job(desk: Desk):
    first = await desk.words.opts(id="x").enqueue("a")
    again = await desk.words.opts(id="x").enqueue("a")
    assert (first.created, again.created, again.id) == (True, False, "x")
    assert await desk.app.jobs.count() == 1


async def test_the_same_id_for_another_call_is_a_conflict(desk: Desk):
    await desk.words.opts(id="x").enqueue("a")
    with pytest.raises(IdConflict, match="'x'"):
        await desk.words.opts(id="x").enqueue("b")


async def test_a_unique_task_returns_the_job_that_is_there(desk: Desk):
    @desk.app.task(unique=Unique(by=["url"]))
    def fetch(url: str, depth: int = 0) -> None: ...

    first = await fetch.enqueue("/a")
    second = await fetch.enqueue("/a", 3)
    other = await fetch.enqueue("/b")
    assert (second.id, second.created) == (first.id, False)
    assert other.created
    assert (await fetch.opts(unique=None).enqueue("/a")).created


async def test_arguments_left_out_are_unique_by_their_defaults(desk: Desk):
    @desk.app.task(unique=Unique())
    def fetch(url: str, depth: int = 0) -> None: ...

    assert (await fetch.enqueue("/")).id == (await fetch.enqueue(url="/", depth=0)).id


async def test_a_rejecting_key_raises_with_the_id_of_the_holder(desk: Desk):
    unique = Unique(on_conflict="reject")
    first = await desk.words.opts(unique=unique).enqueue("a")
    with pytest.raises(Duplicate, match=first.id) as caught:
        await desk.words.opts(unique=unique).enqueue("a")
    assert caught.value.existing_id == first.id
    with pytest.raises(Duplicate, match="1 of 2 jobs; the others are stored"):
        await desk.words.opts(unique=unique).enqueue_many(["a", "b"])
    assert await desk.app.jobs.count() == 2


async def test_a_replacing_key_gives_the_waiting_job_the_new_words(desk: Desk):
    unique = Unique(by=[], on_conflict="replace")
    first = await desk.words.opts(unique=unique).enqueue("old")
    second = await desk.words.opts(unique=unique).enqueue("new")
    assert (second.id, second.created) == (first.id, False)
    assert (await first.record()).job.payload == b'{"text":"new"}'


async def test_a_key_can_be_given_as_it_is(desk: Desk):
    first = await desk.words.opts(unique="import-7").enqueue("a")
    second = await desk.words.opts(unique="import-7").enqueue("b")
    assert second.id == first.id
    assert (await first.record()).job.unique.key == "import-7"


async def test_jobs_of_one_ordering_value_run_one_at_a_time(desk: Desk):
    @desk.app.task(ordering="account")
    def book(account: int, amount: float) -> None: ...

    first = await book.enqueue(7, 1.0)
    await book.enqueue(7, 2.0)
    other = await book.enqueue(8, 1.0)
    leases = await desk.store.reserve(["default"], worker="w", limit=9, lease_ms=60_000)
    assert [lease.job.id for lease in leases] == [first.id, other.id]
    assert leases[0].job.ordering_key == "account:7"
    by_hand = await book.opts(ordering_key="k").enqueue(7, 3.0)
    assert (await by_hand.record()).job.ordering_key == "k"


async def test_a_child_waits_for_its_parents(desk: Desk):
    parent = await desk.words.enqueue("a")
    child = await desk.report.opts(parents=[parent]).enqueue(DAY)
    assert await child.state() is State.PENDING
    await desk.complete(1, "words")
    assert await child.state() is State.AVAILABLE


async def test_a_job_can_be_put_before_a_pending_one(desk: Desk):
    parent = await desk.words.enqueue("a")
    child = await desk.report.opts(parents=[parent.id]).enqueue(DAY)
    await desk.report.opts(unblocks=[child], id="p2").enqueue(DAY)
    await desk.complete(1, "words")
    assert await child.state() is State.PENDING
    await desk.complete({"day": DAY, "lines": 1})
    assert await child.state() is State.AVAILABLE


# -- by name --------------------------------------------------------------------------------


async def test_a_task_elsewhere_is_reached_by_its_name():
    async with Ropeway("memory://", routes={"far.*": "far"}) as app:
        handle = await app.send("far.away", {"n": 1, "day": DAY}, priority=3, unique="k")
        job = (await handle.record()).job
        assert (job.task, job.queue, job.priority) == ("far.away", "far", 3)
        assert job.payload == b'{"n":1,"day":"2026-05-01"}'
        assert job.unique.key == "k"
        assert (await app.send("far.away", queue="near")).ref.queue == "near"
        with pytest.raises(ConfigError, match="unknown job option 'prio'"):
            await app.send("far.away", prio=3)
        with pytest.raises(ConfigError, match="task=''"):
            await app.send("")


async def test_a_task_known_here_is_checked_when_it_is_sent_by_name(desk: Desk):
    handle = await desk.app.send("words", {"text": "a"})
    assert handle.ref.queue == "words"
    with pytest.raises(CodecError, match="text"):
        await desk.app.send("words", {"text": 3})


# -- an app that is not open ----------------------------------------------------------------


async def test_use_before_open_and_after_close_names_async_with(app: Ropeway[None]):
    task = app.task(name="words")(lambda: None)
    for _ in range(2):
        with pytest.raises(ConfigError, match="not open: do this inside `async with app:`"):
            await task.enqueue()
        with pytest.raises(ConfigError, match="not open"):
            await app.jobs.count()
        async with app:
            await task.enqueue()


async def test_an_app_may_be_opened_within_itself(app: Ropeway[None]):
    async with app:
        async with app:
            await app.send("task")
        assert await app.jobs.count() == 1


async def test_jobs_are_still_there_when_the_app_is_opened_again(app: Ropeway[None]):
    async with app:
        handle = await app.send("task")
    async with app:
        assert await handle.state() is State.AVAILABLE


@pytest.mark.parametrize("wrong_ms", [-300_000, 300_000])
async def test_a_delay_is_counted_by_the_brokers_clock_whatever_the_callers_says(wrong_ms: int):
    clock, callers = ManualClock(), ManualClock()
    callers.step_wall(wrong_ms)
    broker = MemoryBroker(clock=clock)
    await broker.open()
    await submit(broker, [Job(id="j", task="t", delay_ms=1_000)], runtime=Runtime(clock=callers))
    handed_out: list[int] = []
    for more_ms in (999, 1):
        clock.advance(more_ms)
        await broker.maintain()
        leases = await broker.reserve(["default"], worker="w", limit=1, lease_ms=1_000)
        handed_out.append(len(leases))
    assert handed_out == [0, 1]
    await broker.close()
