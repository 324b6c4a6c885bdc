"""What was refused, removed or only looked at leaves no trace."""

import asyncio

import pytest

from ropeway.action import BuryJob
from ropeway.broker import EnqueueAnswer, Entry, Filter, JobStore
from ropeway.errors import ConfigError, IdConflict
from ropeway.job import Failure, State, UniqueKey
from ropeway.outcome import Ack, Bury
from ropeway.testing.steps import (
    HOUR_MS,
    QUEUE,
    act,
    all_records,
    bring_to,
    enqueue,
    ids,
    make_job,
    put,
    restart,
    settle,
    status_of,
    take,
    take_one,
)

OK, DUPLICATE_ID = EnqueueAnswer.OK, EnqueueAnswer.DUPLICATE_ID
KEY = UniqueKey(key="k", window_ms=HOUR_MS)


class TracesContract:
    """Nothing is left of what was not stored, or is no longer."""

    async def test_a_job_that_is_known_by_its_id_takes_no_key(self, broker: JobStore) -> None:
        known = await enqueue(broker)
        again = make_job(id=known.id, unique=KEY)
        assert await put(broker, again) == [DUPLICATE_ID]
        assert await put(broker, make_job(unique=KEY)) == [OK]

    async def test_a_refused_call_takes_no_key(self, broker: JobStore) -> None:
        known = await enqueue(broker)
        with pytest.raises(IdConflict):
            await broker.enqueue([make_job(unique=KEY), make_job(id=known.id, payload=b"other")])
        with pytest.raises(ConfigError):
            await broker.enqueue([make_job(unique=KEY), make_job(priority=99)])
        assert await put(broker, make_job(unique=KEY)) == [OK]

    async def test_a_purged_queue_leaves_nothing_behind(self, broker: JobStore) -> None:
        dead, lease = await bring_to(broker, State.RUNNING, unique=KEY)
        await broker.append([Entry(lease=lease, kind="log", at_ms=1, data="line")])
        await settle(broker, Bury(lease=lease))
        head = await enqueue(broker, ordering_key="o")
        await enqueue(broker, delay_ms=HOUR_MS, unique=UniqueKey(key="later"))
        await broker.purge(QUEUE)
        await restart(broker)
        assert await broker.queues() == []
        assert await broker.events(dead.ref) == []
        assert await broker.count(Filter()) == 0
        again = [
            make_job(id=dead.id, task="another.task", unique=KEY),
            make_job(id=head.id, task="another.task", ordering_key="o"),
            make_job(unique=UniqueKey(key="later")),
        ]
        assert await put(broker, *again) == [OK] * 3
        assert ids(await take(broker)) == ids(again)

    async def test_an_emptied_queue_is_listed_again_with_its_next_job(
        self, broker: JobStore
    ) -> None:
        await enqueue(broker)
        await broker.purge(QUEUE)
        await enqueue(broker)
        await restart(broker)
        assert [(i.name, i.counts) for i in await broker.queues()] == [
            (QUEUE, {State.AVAILABLE: 1})
        ]

    async def test_a_drained_queue_is_like_one_that_never_was(self, broker: JobStore) -> None:
        await enqueue(broker, queue="drained", retention_ms=0)
        await settle(broker, Ack(lease=await take_one(broker, "drained")))
        for queue in ("drained", "never"):
            assert await take(broker, queue) == []
            assert await broker.peek(queue) == []
            assert await broker.purge(queue) == 0
            assert await broker.count(Filter(queue=queue)) == 0
        assert await broker.queues() == []

    async def test_no_place_and_no_token_is_given_twice(self, broker: JobStore) -> None:
        await enqueue(broker, retention_ms=0)
        lease = await take_one(broker)
        seq = (await status_of(broker, lease.job)).seq
        await settle(broker, Ack(lease=lease))
        await restart(broker)
        job = await enqueue(broker)
        assert (await status_of(broker, job)).seq > seq
        assert (await take_one(broker)).token > lease.token

    async def test_looking_changes_nothing(self, broker: JobStore) -> None:
        jobs = [(await bring_to(broker, state))[0] for state in State]
        before = await all_records(broker)
        queues = await broker.queues()
        for _ in range(3):
            await broker.get([job.ref for job in jobs])
            await broker.peek(QUEUE)
            await broker.count(Filter(queue=QUEUE))
            await broker.wait([job.ref for job in jobs], timeout_ms=0)
            await broker.events(jobs[0].ref)
            await broker.workers()
        assert await all_records(broker) == before
        assert await broker.queues() == queues

    async def test_one_may_look_while_others_enqueue_to_new_queues(self, broker: JobStore) -> None:
        async def look() -> None:
            for _ in range(20):
                await broker.queues()
                await broker.find(Filter())
                await asyncio.sleep(0)

        async def fill(name: str) -> None:
            for number in range(20):
                await enqueue(broker, queue=f"{name}-{number}")

        await asyncio.gather(look(), fill("a"), look(), fill("b"))
        assert len(await broker.queues()) == 40

    async def test_a_job_buried_unrun_is_shown_like_any_dead_one(self, broker: JobStore) -> None:
        failed, lease = await bring_to(broker, State.RUNNING)
        await settle(
            broker, Bury(lease=lease, failure=Failure(at_ms=1, attempt=1, type="ValueError"))
        )
        unrun, _ = await bring_to(broker, State.SCHEDULED)
        await act(broker, BuryJob(ref=unrun.ref, reason="by hand"))
        dead = frozenset({State.DEAD})
        assert ids(await all_records(broker, Filter(states=dead))) == ids([unrun, failed])
        assert ids(await all_records(broker, Filter(states=dead, error="ValueError"))) == [
            failed.id
        ]
        assert ids(await all_records(broker, Filter(states=dead, error="by hand"))) == [unrun.id]
        assert (await status_of(broker, unrun)).errors == ()
