"""A flipped bit of the file is an error with a name, wherever it is, or it changes nothing."""

import random
from pathlib import Path

import pytest

from ropeway.broker import Filter
from ropeway.brokers.sqlite import SQLiteBroker
from ropeway.errors import StorageCorrupt
from ropeway.job import JobRecord
from ropeway.outcome import Ack
from ropeway.testing.steps import HOUR_MS, make_job

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
    named: list[str] = []
    for _ in range(FLIPS):
        at, bit = rng.randrange(len(content)), rng.randrange(8)
        damaged = bytearray(content)
        damaged[at] ^= 1 << bit
        broken.write_bytes(damaged)
        try:
            assert await looked_at(broken) == expected, f"byte {at}, bit {bit}"
        except StorageCorrupt as error:
            named.append(str(error))
    assert all(str(broken) in message for message in named)
    assert len(named) > FLIPS / 4


@pytest.mark.parametrize("at", [20, 60, 68], ids=["reserved bytes", "version", "program"])
async def test_a_damaged_header_is_named(tmp_path: Path, at: int) -> None:
    path = tmp_path / "jobs.db"
    await filled(path)
    content = bytearray(path.read_bytes())
    content[at] ^= 8
    path.write_bytes(content)
    with pytest.raises(StorageCorrupt, match=str(path)):
        await looked_at(path)
