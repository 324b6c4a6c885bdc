"""A disk that is full for a while, files that go away under an open broker: each has a name."""

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from disks import BadDisk, in_use, is_sound

from ropeway import Ropeway
from ropeway.broker import Filter
from ropeway.brokers.sqlite import SQLiteBroker
from ropeway.brokers.sqlite.broker import Durability
from ropeway.errors import Disconnected, StorageFull, StorageGone
from ropeway.job import State
from ropeway.outcome import Ack
from ropeway.testing.steps import HOUR_MS, all_records, enqueue, make_job, record_of, take_one
from ropeway.worker import Worker, WorkerOptions

pytestmark = pytest.mark.anyio

BIG = b"x" * 100_000
SOON_S = 10


@asynccontextmanager
async def opened(path: Path, durability: Durability) -> AsyncIterator[SQLiteBroker]:
    broker = SQLiteBroker(path, durability=durability)
    await broker.open()
    yield broker
    await broker.close()


@pytest.fixture(params=["full", "fast"])
def durability(request: pytest.FixtureRequest) -> Durability:
    return request.param


# ------------------------------------------------------------------------------ no space


class Disk:
    """A folder whose space can be taken away and given back."""

    def __init__(self, folder: Path, fill: Callable[[], None], free: Callable[[], None]) -> None:
        self.folder = folder
        self.fill = fill
        self.free = free


@contextmanager
def shim(folder: Path) -> Generator[Disk, None, None]:
    def set_full(to: bool) -> None:
        disk.is_full = to

    with in_use(BadDisk()) as disk:
        yield Disk(folder, lambda: set_full(True), lambda: set_full(False))


@contextmanager
def mounted(folder: Path) -> Generator[Disk, None, None]:
    """A real file system of 4 MB."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, check=False).returncode:
        pytest.skip("only who may mount can have a real file system for this test")
    filler = folder / "filler"

    def fill() -> None:
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))

    try:
        yield Disk(folder, fill, filler.unlink)
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(params=[shim, mounted])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Disk, None, None]:
    with request.param(tmp_path) as disk:
        yield disk


async def test_a_full_disk_refuses_calls_by_name_and_is_over_when_there_is_space(
    disk: Disk, durability: Durability
) -> None:
    async with opened(disk.folder / "jobs.db", durability) as broker:
        job = await enqueue(broker)
        lease = await take_one(broker, lease_ms=HOUR_MS)
        disk.fill()
        calls: list[Awaitable[Any]] = [
            broker.enqueue([make_job(payload=BIG) for _ in range(3)]),
            broker.enqueue([make_job(payload=BIG)]),
            broker.settle([Ack(lease=lease, result=BIG)]),
        ]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(answer) for answer in answers] == [StorageFull] * 3
        assert "jobs.db" in str(answers[0])
        assert await broker.count(Filter()) == 1
        assert (await record_of(broker, job)).status.state is State.RUNNING
        disk.free()
        await broker.settle([Ack(lease=lease, result=BIG)])
        await broker.enqueue([make_job(payload=BIG) for _ in range(3)])
        counts = (await broker.queues())[0].counts
        assert counts == {State.COMPLETED: 1, State.AVAILABLE: 3}
    assert is_sound(disk.folder / "jobs.db")


async def test_a_new_file_on_a_full_disk_is_refused_by_name(disk: Disk) -> None:
    disk.fill()
    broker = SQLiteBroker(disk.folder / "jobs.db")
    with pytest.raises(StorageFull, match="no space"):
        await broker.open()
    disk.free()
    await broker.open()
    await enqueue(broker)
    await broker.close()


async def test_a_worker_lives_through_a_full_disk(disk: Disk, durability: Durability) -> None:
    async with opened(disk.folder / "jobs.db", durability) as broker, Ropeway(broker) as app:
        begun, go_on = asyncio.Event(), asyncio.Event()

        @app.task
        async def grows() -> str:
            begun.set()
            await go_on.wait()
            return "x" * 100_000

        handle = await grows.enqueue()
        async with working(app):
            await begun.wait()
            disk.fill()
            go_on.set()
            await asyncio.sleep(0.3)
            assert (await handle.record()).status.state is State.RUNNING
            disk.free()
            assert len(await asyncio.wait_for(handle, SOON_S)) == 100_000
            assert (await handle.record()).status.attempt == 1


@asynccontextmanager
async def working(app: Ropeway[None]) -> AsyncIterator[Worker]:
    worker = Worker(app.store, app.definitions, options=WorkerOptions(wait_ms=100))
    running = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        worker.stop()
        await asyncio.wait_for(running, SOON_S)


async def test_a_failed_sync_refuses_the_call_and_no_other(tmp_path: Path) -> None:
    with in_use(BadDisk()) as disk:
        async with opened(tmp_path / "jobs.db", "full") as broker:
            kept = await enqueue(broker)
            disk.is_broken = True
            with pytest.raises(Disconnected, match="file system failed"):
                await enqueue(broker)
            assert [record.job.id for record in await all_records(broker)] == [kept.id]
            disk.is_broken = False
            await enqueue(broker)
            assert await broker.count(Filter()) == 2
    assert is_sound(tmp_path / "jobs.db")


# ------------------------------------------------------------------------------ other files


def delete(path: Path) -> None:
    path.unlink()


def delete_journal(path: Path) -> None:
    path.with_name("jobs.db-wal").unlink()


def delete_all(path: Path) -> None:
    for file in path.parent.glob("jobs.db*"):
        file.unlink()


def replace(path: Path) -> None:
    shutil.copy(path, path.with_name("copy.db"))
    path.with_name("copy.db").rename(path)


@pytest.mark.parametrize("strike", [delete, delete_journal, delete_all, replace])
async def test_nothing_is_acknowledged_into_a_file_that_is_gone(
    tmp_path: Path, durability: Durability, strike: Callable[[Path], None]
) -> None:
    path = tmp_path / "jobs.db"
    async with opened(path, durability) as broker:
        job = await enqueue(broker)
        strike(path)
        calls: list[Awaitable[Any]] = [
            broker.enqueue([make_job()]),
            broker.enqueue([make_job() for _ in range(500)]),
            broker.reserve(["default"], worker="w", limit=1, lease_ms=1000),
            broker.reserve(["empty"], worker="w", limit=1, lease_ms=1000),
            broker.signals(after=0),
            broker.get([job.ref]),
            broker.queues(),
            broker.maintain(),
        ]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(answer) for answer in answers] == [StorageGone] * len(calls)
        assert str(path) in str(answers[0])


async def test_a_file_that_was_moved_away_and_back_is_used_again(
    tmp_path: Path, durability: Durability
) -> None:
    path, away = tmp_path / "jobs.db", tmp_path / "away"
    away.mkdir()
    async with opened(path, durability) as broker, Ropeway(broker) as app:

        @app.task
        async def answers() -> int:
            return 42

        async with working(app):
            move(tmp_path, away)
            with pytest.raises(StorageGone):
                await answers.enqueue()
            await asyncio.sleep(0.3)  # the worker meets it too
            move(away, tmp_path)
            assert await asyncio.wait_for(await answers.enqueue(), SOON_S) == 42


def move(from_: Path, to: Path) -> None:
    for file in from_.glob("jobs.db*"):
        file.rename(to / file.name)
