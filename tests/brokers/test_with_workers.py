"""Every broker under a real worker: what holds only when the two work together."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from brokers import BROKERS
from ropeway import Backoff, Ropeway
from ropeway.action import CancelJob, RetryJob
from ropeway.broker import JobStore
from ropeway.clock import SystemClock
from ropeway.job import FINAL, JobRecord, JobRef, State
from ropeway.worker import Worker, WorkerOptions

pytestmark = pytest.mark.anyio

SOON_S = 8.0
LEASE_MS = 300


@pytest.fixture(params=list(BROKERS))
async def broker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[JobStore]:
    broker = BROKERS[request.param](tmp_path, SystemClock())
    await broker.open()
    yield broker
    await broker.close()


@pytest.fixture
async def app(broker: JobStore) -> AsyncIterator[Ropeway[None]]:
    async with Ropeway(broker) as app:
        yield app


@asynccontextmanager
async def working(app: Ropeway[Any], *, workers: int = 1, **options: Any) -> AsyncIterator[None]:
    settings = {"lease_ms": LEASE_MS, "grace_ms": 2_000, **options}
    made = [
        Worker(app.store, app.definitions, options=WorkerOptions(**settings))
        for _ in range(workers)
    ]
    running = [asyncio.create_task(worker.run()) for worker in made]
    try:
        yield
    finally:
        for worker in made:
            worker.stop()
        await asyncio.wait_for(asyncio.gather(*running), SOON_S)


async def ended(broker: JobStore, ref: JobRef) -> JobRecord:
    """The record of a job, once it is final."""
    end = time.monotonic() + SOON_S
    while True:
        (record,) = await broker.get([ref])
        assert record is not None
        if record.status.state in FINAL:
            return record
        assert time.monotonic() < end, record.status
        await asyncio.sleep(0.005)


async def test_a_dead_job_that_is_retried_gets_all_its_attempts_again(
    app: Ropeway[None], broker: JobStore
) -> None:
    attempts: list[int] = []

    @app.task(attempts=2, retry=Backoff.constant(0.01, jitter=False))
    async def fails() -> None:
        attempts.append(len(attempts))
        raise ValueError("as planned")

    ref = (await fails.enqueue()).ref
    async with working(app):
        assert (await ended(broker, ref)).status.attempt == 2
        await broker.act([RetryJob(ref=ref)])
        assert (await ended(broker, ref)).status.attempt == 2
    assert len(attempts) == 4


async def test_a_job_longer_than_many_leases_starts_once_among_new_jobs(
    app: Ropeway[None], broker: JobStore
) -> None:
    starts = 0

    @app.task
    async def long() -> None:
        nonlocal starts
        starts += 1
        await asyncio.sleep(5 * LEASE_MS / 1000)

    @app.task
    async def short() -> None: ...

    ref = (await long.enqueue()).ref
    async with working(app, workers=2):
        for _ in range(20):
            await short.enqueue()
            await asyncio.sleep(0.05)
        status = (await ended(broker, ref)).status
    assert (starts, status.attempt, status.crashes) == (1, 1, ())


async def test_a_vanished_workers_job_runs_again_on_a_queue_without_traffic(
    app: Ropeway[None], broker: JobStore
) -> None:
    @app.task
    async def work() -> None: ...

    ref = (await work.enqueue()).ref
    leases = await broker.reserve(["default"], worker="gone", limit=1, lease_ms=LEASE_MS)
    assert len(leases) == 1
    async with working(app):
        began = time.monotonic()
        status = (await ended(broker, ref)).status
    assert time.monotonic() - began < LEASE_MS / 1000 + 1
    assert (status.state, status.attempt, len(status.crashes)) == (State.COMPLETED, 1, 1)


async def test_a_handler_that_ignores_its_timeout_keeps_its_slot(
    app: Ropeway[None], broker: JobStore
) -> None:
    running, most = 0, 0

    @app.task(attempts=1, timeout=0.05)
    async def deaf() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            try:
                await asyncio.sleep(0.02)
            except asyncio.CancelledError:
                continue
        running -= 1

    refs = [(await deaf.enqueue()).ref for _ in range(4)]
    async with working(app, concurrency=1):
        for ref in refs:
            await ended(broker, ref)
    assert most == 1


async def test_a_cancelled_job_that_fails_at_its_end_is_not_tried_again(
    app: Ropeway[None], broker: JobStore
) -> None:
    began = asyncio.Event()

    @app.task(retry=Backoff.constant(0.01, jitter=False))
    async def sulky() -> None:
        began.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise ValueError("not like this") from None

    ref = (await sulky.enqueue()).ref
    async with working(app):
        await began.wait()
        await broker.act([CancelJob(ref=ref)])
        status = (await ended(broker, ref)).status
    assert (status.state, status.attempt) == (State.CANCELLED, 1)
