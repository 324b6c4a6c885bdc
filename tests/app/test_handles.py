"""Handles: awaiting a job, and what its end means to whoever awaits it."""

import asyncio
from datetime import date

import pytest
from app_under_test import Desk, Report

from ropeway import (
    CodecError,
    ConfigError,
    JobCancelled,
    JobExpired,
    JobFailed,
    JobNotFound,
    JobTimeout,
    ResultExpired,
    State,
    handle,
)
from ropeway.action import Answer
from ropeway.errors import Disconnected
from ropeway.job import Progress
from ropeway.outcome import Ack

pytestmark = pytest.mark.anyio

DAY = date(2026, 5, 1)


async def test_awaiting_a_job_gives_its_result_in_the_annotated_type(desk: Desk):
    job = await desk.report.enqueue(DAY, lines=3)
    waiting = asyncio.ensure_future(job.result())
    await asyncio.sleep(0)
    await desk.complete(Report(DAY, 3))
    assert await waiting == Report(DAY, 3)
    assert await job == Report(DAY, 3)


async def test_the_same_job_can_be_awaited_again_from_its_id(desk: Desk):
    job = await desk.report.enqueue(DAY)
    await desk.complete(Report(DAY, 1))
    assert await desk.report.handle(job.id) == Report(DAY, 1)
    assert await desk.app.handle(job.id) == {"day": "2026-05-01", "lines": 1}


async def test_a_job_without_a_result_gives_none(desk: Desk):
    job = await desk.app.send("elsewhere")
    await desk.settle(Ack(lease=await desk.take()))
    assert await job is None


async def test_a_result_that_does_not_fit_says_where(desk: Desk):
    job = await desk.report.enqueue(DAY)
    await desk.complete({"day": "2026-05-01", "lines": "many"})
    with pytest.raises(CodecError, match=rf"result of job {job.id} \(report\).*lines"):
        await job


async def test_a_dead_job_raises_with_the_traceback_of_its_worker(desk: Desk):
    job = await desk.report.enqueue(DAY)
    await desk.fail(reason="attempts spent", traceback="Traceback …\n  File x, line 3")
    with pytest.raises(JobFailed, match="ValueError: no such page") as caught:
        await job
    error = caught.value
    assert (error.job_id, error.error_type) == (job.id, "ValueError")
    assert error.remote_traceback.startswith("Traceback")
    assert "line 3" in error.__notes__[0]
    assert not isinstance(error, JobTimeout | JobExpired)


@pytest.mark.parametrize("kind", ["timeout", "deadline"])
async def test_a_job_that_ran_too_long_raises_job_timeout(desk: Desk, kind):
    job = await desk.report.enqueue(DAY)
    await desk.fail(kind, reason="attempts spent")
    with pytest.raises(JobTimeout, match="no such page"):
        await job


async def test_a_handlers_own_timeout_error_is_a_plain_failure(desk: Desk):
    job = await desk.report.enqueue(DAY)
    await desk.fail("TimeoutError", reason="attempts spent")
    with pytest.raises(JobFailed) as caught:
        await job
    assert not isinstance(caught.value, JobTimeout)


async def test_a_job_that_was_not_started_in_time_raises_job_expired(desk: Desk):
    job = await desk.report.opts(expires=0).enqueue(DAY)
    await desk.store.maintain()
    with pytest.raises(JobExpired, match="not started in time"):
        await job


async def test_a_buried_job_raises_with_its_reason(desk: Desk):
    job = await desk.report.enqueue(DAY)
    await desk.app.jobs.bury(job, reason="bad input")
    with pytest.raises(JobFailed, match="bad input"):
        await job


async def test_a_cancelled_job_raises_job_cancelled(desk: Desk):
    job = await desk.report.enqueue(DAY)
    await desk.cancel("the user is gone")
    with pytest.raises(JobCancelled, match="was cancelled: the user is gone"):
        await job


async def test_a_pruned_record_raises_result_expired(desk: Desk):
    job = await desk.report.opts(retention=0).enqueue(DAY)
    await desk.complete(Report(DAY, 1))
    with pytest.raises(ResultExpired, match="keep it longer with retention="):
        await job
    with pytest.raises(JobNotFound):
        await job.record()


async def test_a_waiter_that_came_first_gets_the_result_whatever_the_retention(desk: Desk):
    job = await desk.report.opts(retention=0).enqueue(DAY)
    waiting = asyncio.ensure_future(job.result())
    lease = await desk.take()
    for _ in range(10):
        await asyncio.sleep(0.005)
    data = b'{"day":"2026-05-01","lines":7}'
    await desk.settle(Ack(lease=lease, result=data))
    assert (await waiting).lines == 7


async def test_a_time_limit_ends_the_waiting_and_not_the_job(desk: Desk):
    job = await desk.report.enqueue(DAY)
    with pytest.raises(TimeoutError, match=r"did not end within 0.01 s; it goes on"):
        await job.result(timeout=0.01)
    assert await job.state() is State.AVAILABLE
    with pytest.raises(ConfigError, match="timeout=-1"):
        await job.result(timeout=-1)


async def test_wait_gives_the_record_of_any_end(desk: Desk):
    job = await desk.report.enqueue(DAY)
    await desk.cancel("x")
    assert (await job.wait(timeout=1)).status.state is State.CANCELLED


async def test_a_handle_follows_its_job_to_another_queue(desk: Desk):
    job = await desk.report.enqueue(DAY)
    await desk.app.jobs.move(job.id, "slow")
    assert await job.state() is State.AVAILABLE
    assert job.ref.queue == "slow"
    await desk.complete(Report(DAY, 2), "slow")
    assert (await job).lines == 2


async def test_cancelling_a_waiting_job_ends_it_and_a_running_one_is_asked(desk: Desk):
    waiting = await desk.report.opts(delay=60).enqueue(DAY)
    assert (await waiting.cancel()).answer is Answer.DONE
    running = await desk.report.enqueue(DAY)
    await desk.take()
    assert (await running.cancel("stop it")).answer is Answer.REQUESTED
    assert (await running.record()).status.cancel_requested
    assert (await waiting.cancel()).answer is Answer.REFUSED


async def test_a_dead_job_can_be_run_again(desk: Desk):
    job = await desk.report.enqueue(DAY)
    await desk.fail()
    assert (await job.retry()).answer is Answer.DONE
    await desk.complete(Report(DAY, 1))
    assert (await job).lines == 1


async def test_an_unknown_job_is_not_found(desk: Desk):
    ghost = desk.report.handle("ghost")
    for call in (ghost.record, ghost.state, ghost.progress, ghost.cancel, ghost.retry):
        with pytest.raises(JobNotFound, match="ghost"):
            await call()
    with pytest.raises(ResultExpired):
        await ghost


async def test_progress_is_what_the_job_said_last(desk: Desk):
    job = await desk.report.enqueue(DAY)
    assert await job.progress() is None
    await desk.advance(await desk.take(), 0.25)
    assert await job.progress() == Progress(0.25)


async def test_events_are_followed_to_the_end_of_the_job(desk: Desk):
    job = await desk.report.enqueue(DAY)
    lease = await desk.take()
    await desk.say(lease, "one", "two")
    seen: list[str] = []

    async def follow() -> None:
        seen.extend([event.data async for event in job.events()])

    following = asyncio.ensure_future(follow())
    await asyncio.sleep(0.01)
    await desk.say(lease, "three")
    await desk.settle(Ack(lease=lease))
    await following
    assert seen == ["one", "two", "three"]
    late = [event async for event in job.events()]
    assert [e.data async for e in job.events(after=late[0].seq)] == ["two", "three"]


async def test_events_of_a_job_that_is_gone_end_at_once(desk: Desk):
    assert [event async for event in desk.report.handle("ghost").events()] == []


async def test_waiting_survives_a_broker_that_is_away_for_a_while(desk: Desk, monkeypatch):
    monkeypatch.setattr(handle, "_AWAY_PAUSE_S", 0.0)
    job = await desk.report.enqueue(DAY)
    await desk.complete(Report(DAY, 1))
    outages = [Disconnected("away")] * 3
    wait = desk.store.wait

    async def flaky(refs, *, timeout_ms):
        if outages:
            raise outages.pop()
        return await wait(refs, timeout_ms=timeout_ms)

    monkeypatch.setattr(desk.store, "wait", flaky)
    assert await job == Report(DAY, 1)
    outages.append(Disconnected("away for good"))
    monkeypatch.setattr(handle, "_AWAY_MAX_S", 0.0)
    with pytest.raises(Disconnected, match="for good"):
        await job
