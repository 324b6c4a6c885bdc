"""What a process holds does not grow: descriptors, threads, tasks, the write-ahead log.

The long version, with memory: `python -m ropeway.testing.soak URL --jobs 1000000`; apps come and go
10,000 times with `HYPOTHESIS_PROFILE=nightly`.
"""

import asyncio
import gc
import os
import threading
from pathlib import Path

import pytest

from ropeway.app import Ropeway
from ropeway.broker import JobStore
from ropeway.brokers.memory import MemoryBroker
from ropeway.brokers.sqlite import SQLiteBroker
from ropeway.errors import ConfigError
from ropeway.job import Job
from ropeway.testing.soak import Sample, descriptors, slope_bytes, soak
from ropeway.testing.steps import ids, make_job, take

pytestmark = pytest.mark.anyio

WAL_MAX_BYTES = 64 * 2**20
CYCLES = 10_000 if os.environ.get("HYPOTHESIS_PROFILE") == "nightly" else 100


def held() -> tuple[int, int, int]:
    """Descriptors, threads and tasks of this process."""
    gc.collect()
    return descriptors(), threading.active_count(), len(asyncio.all_tasks())


async def cycle(broker: JobStore, job: Job | None = None) -> None:
    await broker.open()
    if job is not None:
        await broker.enqueue([job])
        assert ids(await take(broker, limit=1)) == [job.id]
    await broker.close()


async def test_opening_and_closing_a_memory_broker_leaks_nothing() -> None:
    await cycle(MemoryBroker(), make_job())
    before = held()
    job = make_job()
    for _ in range(10_000):
        await cycle(MemoryBroker(), job)
    assert held() == before


@pytest.mark.parametrize("durability", ["fast", "full"])
async def test_opening_and_closing_an_sqlite_broker_leaks_nothing(
    tmp_path: Path, durability: str
) -> None:
    def broker() -> JobStore:
        return SQLiteBroker.from_url(f"sqlite:///{tmp_path}/jobs.db?durability={durability}")

    await cycle(broker(), make_job())
    before = held()
    for _ in range(200):
        await cycle(broker(), make_job())
    assert held() == before


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_apps_that_come_and_go_leave_nothing_behind(kind: str, tmp_path: Path) -> None:
    url = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/jobs.db?durability=fast"}[kind]

    async def come_and_go() -> None:
        app = Ropeway(url)

        @app.task
        async def noop(number: int) -> int:
            return number

        async with app:
            await noop.enqueue(1)

    await come_and_go()
    before = held()
    for _ in range(CYCLES):
        await come_and_go()
    assert held() == before


async def test_a_broker_that_cannot_be_opened_leaks_nothing(tmp_path: Path) -> None:
    (tmp_path / "jobs.db").write_bytes(b"not a database" * 100)

    async def attempt() -> None:
        broker = SQLiteBroker(tmp_path / "jobs.db")
        with pytest.raises(Exception, match="database"):
            await broker.open()
        await broker.close()

    await attempt()
    before = held()
    for _ in range(100):
        await attempt()
    assert held() == before


async def test_callers_that_give_up_leak_nothing(tmp_path: Path) -> None:
    async def give_up(broker: JobStore) -> None:
        waiting = asyncio.create_task(
            broker.reserve(["default"], worker="w", limit=1, lease_ms=1_000, wait_ms=60_000)
        )
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

    for broker in (MemoryBroker(), SQLiteBroker(tmp_path / "jobs.db")):
        await broker.open()
        await give_up(broker)
        before = held()
        for _ in range(300):
            await give_up(broker)
        assert held() == before
        await broker.close()


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_thousands_of_jobs_leave_no_more_behind_than_the_first(
    kind: str, tmp_path: Path
) -> None:
    url = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/jobs.db?durability=fast"}[kind]
    await asyncio.to_thread(int)  # the loop's own pool of threads stays
    before = held()
    first, *later = await soak(url, jobs=30_000, every=10_000)
    assert {(s.descriptors, s.threads) for s in later} == {(first.descriptors, first.threads)}
    assert later[-1].tasks <= later[0].tasks + 1  # slots are made when needed, and stay
    assert later[-1].wal_max_bytes < WAL_MAX_BYTES
    assert held() == before


def sampled(jobs: int, rss_bytes: int) -> Sample:
    return Sample(
        jobs=jobs,
        rss_bytes=rss_bytes,
        descriptors=0,
        threads=0,
        tasks=0,
        database_bytes=0,
        wal_max_bytes=0,
    )


def test_the_slope_is_that_of_a_warm_process() -> None:
    samples = [sampled(0, 0), *(sampled(n * 10_000, 1_000 + n) for n in range(5, 10))]
    assert slope_bytes(samples) == pytest.approx(10)


def test_too_few_samples_give_no_slope() -> None:
    with pytest.raises(ConfigError, match="run more jobs"):
        slope_bytes([sampled(10_000, 1), sampled(60_000, 1)])
