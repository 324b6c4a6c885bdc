"""A flipped bit of the file is an error with a name, wherever it is, or it changes nothing."""

import asyncio
import random
from pathlib import Path

import pytest

from ropeway import Ropeway
from ropeway.broker import Filter
from ropeway.brokers.sqlite import SQLiteBroker
from ropeway.errors import StorageCorrupt
from ropeway.job import JobRecord
from ropeway.outcome import Ack
from ropeway.testing.steps import HOUR_MS, make_job
from ropeway.worker import Worker, WorkerOptions

pytestmark = pytest.mark.anyio
JOBS = 120
FLIPS = 150


async def filled(path: Path) -> None:
    """A file with jobs that wait, run and are done, and nothing in its journal."""
    broker = SQLiteBroker(path)
    await broker.open()
    await broker.enqueue([make_job(payload=b'{"n":%d}' % n) for n in range(JOBS)])
    leases = await broker.reserve(["default"], worker="w", limit=40, lease_ms=HOUR_MS)
    await broker.settle([Ack(lease=lease, result=b"%d" % lease.seq) for lease in leases[:20]])
    await broker.close()


async def looked_at(path: Path) -> tuple[list[JobRecord], list[JobRecord | None], list[str]]:
    """Everything in the file by several ways, and what a worker gets."""
    broker = SQLiteBroker(path)
    await broker.open()
    try:
        page = await broker.find(Filter(), limit=JOBS)
        each = await broker.get([record.job.ref for record in page.records])
        leases = await broker.reserve(["default"], worker="w", limit=JOBS, lease_ms=HOUR_MS)
        return page.records, each, [lease.job.id for lease in leases]
    finally:
        await broker.close()


async def test_a_flipped_bit_is_named_or_changes_nothing(tmp_path: Path) -> None:
    sound, broken = tmp_path / "jobs.db", tmp_path / "broken.db"
    await filled(sound)
    content = sound.read_bytes()
    broken.write_bytes(content)
    expected = await looked_at(broken)
    assert len(expected[0]) == len(expected[1]) == JOBS
    assert len(expected[2]) == JOBS - 40
    rng = random.Random(20)
    named = 0
    for _ in range(FLIPS):
        at, bit = rng.randrange(len(content)), rng.randrange(8)
        damaged = bytearray(content)
        damaged[at] ^= 1 << bit
        broken.write_bytes(damaged)
        try:
            assert await looked_at(broken) == expected, f"byte {at}, bit {bit}"
        except StorageCorrupt as error:
            named += str(broken) in str(error)
    assert named > FLIPS / 3


@pytest.mark.parametrize("at", [20, 60, 68], ids=["reserved bytes", "version", "program"])
async def test_a_damaged_header_is_named(tmp_path: Path, at: int) -> None:
    path = tmp_path / "jobs.db"
    await filled(path)
    content = bytearray(path.read_bytes())
    content[at] ^= 8
    path.write_bytes(content)
    with pytest.raises(StorageCorrupt, match=str(path)):
        await looked_at(path)


async def test_a_worker_on_a_damaged_file_gives_no_handler_wrong_words(
    tmp_path: Path,
) -> None:
    """It goes on with what is sound; what is not is told in its log, and ends no process."""
    path = tmp_path / "jobs.db"
    app, runs = Ropeway(f"sqlite:///{path}"), list[tuple[int, str]]()

    @app.task
    def note(n: int, word: str) -> None:
        runs.append((n, word))

    async with app:
        await app.enqueue_many([note.s(n, f"word {n}") for n in range(JOBS)])
    content = path.read_bytes()
    for n in random.Random(21).sample(range(JOBS), 5):
        damaged = bytearray(content)
        damaged[content.index(b'"word %d"' % n) + 2] ^= 1
        path.write_bytes(damaged)
        runs.clear()
        async with app:
            await work_for_a_while(app)
        assert n not in dict(runs)
        assert all(word == f"word {n}" for n, word in runs)


async def work_for_a_while(app: Ropeway[None]) -> None:
    options = WorkerOptions(grace_ms=100)
    worker = Worker(app.store, app.definitions, options=options)
    running = asyncio.create_task(worker.run())
    await asyncio.sleep(0.2)
    worker.stop()
    await asyncio.wait_for(running, 10)
