"""An operator's verbs: by id, by several ids, by filter, and what a dry run tells."""

from datetime import date

import pytest
from app_under_test import Desk

from ropeway import CodecError, ConfigError, Filter, JobNotFound, State, Unique
from ropeway.action import Answer
from ropeway.operate import Changed

pytestmark = pytest.mark.anyio

DAY = date(2026, 5, 1)


async def states(desk: Desk) -> dict[State, int]:
    found = [record.status.state async for record in desk.app.jobs.find()]
    return {state: found.count(state) for state in found}


async def test_find_reads_every_page_newest_first(desk: Desk):
    handles = await desk.words.enqueue_many([str(n) for n in range(1203)])
    await desk.report.enqueue(DAY)
    found = [r.job.id async for r in desk.app.jobs.find(Filter(task="words"))]
    assert found == [h.id for h in reversed(handles)]
    assert await desk.app.jobs.count(Filter(task="words")) == 1203
    page = await desk.app.jobs.page(Filter(task="words"), limit=3)
    assert [r.job.id for r in page.records] == found[:3]


async def test_get_takes_an_id_a_reference_or_a_handle(desk: Desk):
    job = await desk.words.enqueue("a")
    for name in (job, job.id, job.ref):
        assert (await desk.app.jobs.get(name)).job.id == job.id
    with pytest.raises(JobNotFound, match="ghost"):
        await desk.app.jobs.get("ghost")
    with pytest.raises(ConfigError, match="names no job"):
        await desk.app.jobs.get(3)


async def test_one_job_several_jobs_or_all_that_a_filter_finds(desk: Desk):
    one, two, three, _four = await desk.words.enqueue_many(["1", "2", "3", "4"])
    assert await desk.app.jobs.cancel(one) == Changed(done=1)
    changed = await desk.app.jobs.cancel([one.id, two.ref, three, "ghost"])
    assert (changed.done, changed.refused, changed.not_found, changed.matched) == (2, 1, 1, 4)
    assert changed.details[0].startswith(one.id)
    assert await desk.app.jobs.cancel(Filter(queue="words")) == Changed(done=1)
    assert await states(desk) == {State.CANCELLED: 4}


async def test_an_action_by_filter_reaches_every_page(desk: Desk):
    await desk.words.enqueue_many(["x"] * 1_700)
    where = Filter(task="words")
    assert await desk.app.jobs.cancel(where, dry_run=True) == Changed(done=1_700)
    assert await states(desk) == {State.AVAILABLE: 1_700}
    assert (await desk.app.jobs.cancel(where)).done == 1_700
    assert (await desk.app.jobs.retry(where)).done == 1_700
    assert (await desk.app.jobs.delete(where)).done == 1_700
    assert await desk.app.jobs.count() == 0


async def test_a_dry_run_counts_only_what_would_change(desk: Desk):
    await desk.report.opts(delay=60).enqueue_many([DAY, DAY])
    await desk.report.enqueue(DAY)
    running = (await desk.take()).job.id
    jobs = desk.app.jobs
    assert (await jobs.run_now(Filter(), dry_run=True)).done == 2
    assert (await jobs.bury(Filter(), dry_run=True)).done == 2
    assert (await jobs.retry(Filter(), dry_run=True)).done == 0
    assert (await jobs.delete(Filter(states=frozenset({State.RUNNING})), dry_run=True)).done == 0
    foretold = await jobs.delete([running, "ghost"], dry_run=True)
    assert (foretold.refused, foretold.not_found) == (1, 1)
    assert "running" in foretold.details[0]


async def test_running_jobs_are_asked_to_stop(desk: Desk):
    await desk.report.enqueue(DAY)
    await desk.take()
    assert await desk.app.jobs.cancel(Filter()) == Changed(requested=1)


async def test_run_now_bury_and_move(desk: Desk):
    job = await desk.words.opts(delay=60).enqueue("a")
    assert (await desk.app.jobs.move(job, "slow")).done == 1
    assert (await desk.app.jobs.run_now(job.id)).done == 1
    assert (await desk.app.jobs.get(job.id)).status.state is State.AVAILABLE
    assert (await desk.app.jobs.bury(Filter(queue="slow"), reason="bad")).done == 1
    record = await desk.app.jobs.get(job.id)
    assert (record.status.state, record.status.reason) == (State.DEAD, "bad")


async def test_queues_are_paused_resumed_peeked_and_purged(desk: Desk):
    handles = await desk.words.enqueue_many(["1", "2", "3"])
    queues = desk.app.queues
    assert [r.job.id for r in await queues.peek("words", limit=1, offset=1)] == [handles[1].id]
    await queues.pause("words")
    (info,) = await queues.list()
    assert (info.name, info.paused, info.counts) == ("words", True, {State.AVAILABLE: 3})
    await queues.resume("words")
    assert not (await queues.list())[0].paused
    assert await queues.purge("words", states={State.DEAD}) == 0
    assert await queues.purge("words") == 3
    with pytest.raises(ConfigError, match="queue=''"):
        await queues.pause("")


# -- edit -----------------------------------------------------------------------------------


async def test_an_edit_changes_what_is_named_and_nothing_else(desk: Desk):
    job = await desk.report.opts(priority=2, tags=["a"]).enqueue(DAY, lines=1)
    acted = await desk.app.jobs.edit(job, {"lines": 9}, priority=5, tags=["b"], delay=60)
    assert acted.answer is Answer.DONE
    record = await job.record()
    assert record.job.payload == b'{"day":"2026-05-01","lines":9}'
    assert (record.job.priority, record.job.tags, record.job.revision) == (5, ("b",), 1)
    assert record.status.state is State.SCHEDULED


async def test_edited_arguments_must_fit_the_task(desk: Desk):
    job = await desk.report.enqueue(DAY)
    with pytest.raises(CodecError, match="lines"):
        await desk.app.jobs.edit(job, {"lines": "many"})
    with pytest.raises(CodecError, match="colour"):
        await desk.app.jobs.edit(job, {"colour": 3})
    with pytest.raises(ConfigError, match="unknown option of an edit 'queue'"):
        await desk.app.jobs.edit(job, queue="other")
    assert (await job.record()).job.revision == 0


async def test_an_edit_of_a_job_whose_code_is_elsewhere_keeps_its_other_arguments(desk: Desk):
    job = await desk.app.send("far", {"a": 1, "b": [2]}, codec="msgpack")
    await desk.app.jobs.edit(job, {"a": 3})
    await desk.app.jobs.edit(job, priority=1)
    record = await job.record()
    assert (record.job.codec, record.job.priority, record.job.revision) == ("msgpack", 1, 2)
    assert b"\xa1a\x03" in record.job.payload


async def test_a_running_job_is_not_edited(desk: Desk):
    job = await desk.report.enqueue(DAY)
    await desk.take()
    assert (await desk.app.jobs.edit(job, priority=5)).answer is Answer.REFUSED


async def test_an_edit_moves_the_unique_key_with_the_arguments(desk: Desk):
    @desk.app.task(unique=Unique())
    def fetch(url: str) -> None: ...

    job = await fetch.enqueue("/a")
    taken = await fetch.enqueue("/b")
    refused = await desk.app.jobs.edit(job, {"url": "/b"})
    assert (refused.answer, taken.id in refused.detail) == (Answer.REFUSED, True)
    assert (await desk.app.jobs.edit(job, {"url": "/c"})).answer is Answer.DONE
    assert (await fetch.enqueue("/c")).id == job.id
    assert (await fetch.enqueue("/a")).created
