"""`heartbeat`, `workers`, `abandon`: who is there, and what becomes of the jobs of the dead."""

import msgspec

from ropeway.broker import WORKER_GONE_MS, JobStore, WorkerInfo
from ropeway.job import State
from ropeway.outcome import Ack, Settled
from ropeway.testing.manual_clock import ManualClock
from ropeway.testing.steps import (
    HOUR_MS,
    enqueue,
    ids,
    settle,
    state_of,
    status_of,
    take,
    take_one,
)


def worker(worker_id: str = "w1") -> WorkerInfo:
    """A worker as it describes itself."""
    return WorkerInfo(
        id=worker_id,
        host="h",
        pid=7,
        queues={"a": 2, "b": 1},
        strict=False,
        concurrency=3,
        running=("j1", "j2"),
        processed=10,
        failed=1,
        started_at_ms=5,
        state="quiet",
        version="1.0",
        tasks=("t",),
    )


class WorkersContract:
    """The list of workers."""

    async def test_a_worker_is_listed_as_it_described_itself(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        await broker.heartbeat(worker())
        expected = msgspec.structs.replace(worker(), seen_at_ms=clock.wall_ms())
        assert await broker.workers() == [expected]

    async def test_the_last_heartbeat_counts(self, broker: JobStore, clock: ManualClock) -> None:
        await broker.heartbeat(worker())
        clock.advance(1_000)
        await broker.heartbeat(msgspec.structs.replace(worker(), processed=11))
        (info,) = await broker.workers()
        assert (info.processed, info.seen_at_ms) == (11, clock.wall_ms())

    async def test_workers_are_listed_in_the_order_of_their_start(self, broker: JobStore) -> None:
        for started_at_ms in (20, 30, 10):
            name = str(started_at_ms)
            info = msgspec.structs.replace(worker(name), started_at_ms=started_at_ms)
            await broker.heartbeat(info)
        assert [w.id for w in await broker.workers()] == ["10", "20", "30"]

    async def test_a_silent_worker_is_listed_for_a_minute(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        await broker.heartbeat(worker("old"))
        clock.advance(WORKER_GONE_MS - 1)
        await broker.heartbeat(worker("new"))
        assert {w.id for w in await broker.workers()} == {"old", "new"}
        clock.advance(2)
        assert {w.id for w in await broker.workers()} == {"new"}


class AbandonContract:
    """A worker known to be dead loses its leases at once."""

    async def test_its_jobs_are_handed_back_at_once(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        jobs = [await enqueue(broker) for _ in range(3)]
        a, *_ = await take(broker, limit=2, lease_ms=HOUR_MS, worker="dead")
        alive = await take_one(broker, lease_ms=HOUR_MS, worker="alive")
        assert await broker.abandon(["dead", "nobody"]) == 2
        status = await status_of(broker, jobs[0])
        assert (status.state, status.attempt) == (State.AVAILABLE, 0)
        assert [tuple(c) for c in status.crashes] == [(a.token, clock.wall_ms())]
        assert ids(await take(broker)) == ids(jobs[:2])
        assert await settle(broker, Ack(lease=alive)) is Settled.OK

    async def test_it_counts_as_a_crash(self, broker: JobStore) -> None:
        job = await enqueue(broker, crash_max=1)
        for _ in range(2):
            await take_one(broker, worker="dead")
            await broker.abandon(["dead"])
        status = await status_of(broker, job)
        assert (status.state, status.reason) == (State.DEAD, "crashed_worker")

    async def test_its_tokens_are_lost(self, broker: JobStore) -> None:
        job = await enqueue(broker)
        lease = await take_one(broker, worker="dead")
        await broker.abandon(["dead"])
        assert await settle(broker, Ack(lease=lease)) is Settled.LOST
        assert await state_of(broker, job) is State.AVAILABLE

    async def test_it_is_forgotten(self, broker: JobStore) -> None:
        await broker.heartbeat(worker("dead"))
        await broker.heartbeat(worker("alive"))
        assert await broker.abandon(["dead"]) == 0
        assert [w.id for w in await broker.workers()] == ["alive"]

    async def test_a_job_it_has_settled_stays_settled(self, broker: JobStore) -> None:
        job = await enqueue(broker)
        await settle(broker, Ack(lease=await take_one(broker, worker="dead")))
        assert await broker.abandon(["dead"]) == 0
        assert await state_of(broker, job) is State.COMPLETED

    async def test_nobody_to_abandon_is_fine(self, broker: JobStore) -> None:
        assert await broker.abandon([]) == 0
