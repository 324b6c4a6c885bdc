"""`durability=`: what an answer promises when the server dies, and when it cannot promise it."""

import asyncio
import time
from pathlib import Path

import pytest
from faulted import Load, job, until

from ropeway.brokers.redis import RedisBroker
from ropeway.errors import ConfigError, Disconnected
from ropeway.job import State
from ropeway.outcome import Ack, Settled
from ropeway.testing.servers import RedisServer, redis_8, valkey

pytestmark = pytest.mark.anyio

WITH_WAITAOF = {"redis_8": redis_8, "valkey": valkey}


async def test_fsync_is_refused_by_a_server_without_waitaof(server: RedisServer) -> None:
    broker = RedisBroker(f"{server.url}?durability=fsync")
    with pytest.raises(ConfigError, match=r"Redis 7\.0\.15 has no WAITAOF.*Redis 7\.2.*durability"):
        await broker.open()


async def test_fsync_is_refused_by_a_server_without_an_append_only_file(tmp_path: Path) -> None:
    options = {"appendonly": "no"}
    with RedisServer(tmp_path, binary=redis_8(), options=options) as server:
        broker = RedisBroker(f"{server.url}?durability=fsync")
        with pytest.raises(ConfigError, match="no append-only file"):
            await broker.open()


@pytest.mark.parametrize(
    "options", ["durability=replica&copies=0", "durability=replica&copies=x", "copies=2"]
)
def test_copies_that_cannot_be_meant_are_refused(options: str) -> None:
    with pytest.raises(ConfigError, match="copies"):
        RedisBroker(f"redis://127.0.0.1?{options}")


@pytest.mark.parametrize("binary", WITH_WAITAOF)
async def test_with_fsync_the_life_of_a_job_is_as_usual(tmp_path: Path, binary: str) -> None:
    with RedisServer(tmp_path, binary=WITH_WAITAOF[binary]()) as server:
        broker = RedisBroker(f"{server.url}?durability=fsync")
        assert "fsync" in broker.capabilities.durability
        await broker.open()
        await broker.enqueue([job(), job(priority=3)])
        (lease,) = await broker.reserve(["default"], worker="w", limit=1, lease_ms=10_000)
        assert lease.job.priority == 3
        answers, (other,) = await broker.exchange(
            [Ack(lease=lease)], ["default"], worker="w", limit=1, lease_ms=10_000
        )
        assert answers == [Settled.OK]
        assert await broker.settle([Ack(lease=other)]) == [Settled.OK]
        records = await broker.get([lease.job.ref, other.job.ref])
        assert [r and r.status.state for r in records] == [State.COMPLETED] * 2
        await broker.close()


@pytest.mark.parametrize("binary", WITH_WAITAOF)
async def test_with_fsync_a_frozen_disk_gets_no_acknowledgement(
    tmp_path: Path, binary: str
) -> None:
    """`appendfsync no` stands for a disk that does not come to it: nothing is synced in time."""
    with RedisServer(tmp_path, binary=WITH_WAITAOF[binary](), appendfsync="no") as server:
        broker = RedisBroker(f"{server.url}?durability=fsync")
        await broker.open()
        with pytest.raises(Disconnected, match="not on the disk within"):
            await broker.enqueue([job()])
        await broker.close()


async def test_with_server_and_everysec_a_kill_loses_at_most_the_last_two_seconds(
    tmp_path: Path,
) -> None:
    """Redis writes before it answers, but not while its last fsync is still under way."""
    with RedisServer(tmp_path, appendfsync="everysec") as server:
        load = Load(server.url)
        async with load.producing(3, resend=False):
            await asyncio.sleep(2.5)
            killed = time.monotonic()
            await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        assert len(load.acknowledged) > 100
        assert all(killed - load.acknowledged[id_] < 3 for id_ in await load.lost())


@pytest.mark.parametrize("binary", WITH_WAITAOF)
async def test_with_fsync_a_kill_loses_nothing_acknowledged(tmp_path: Path, binary: str) -> None:
    """With everysec an answer takes until the next fsync, and many calls share it."""
    with RedisServer(tmp_path, binary=WITH_WAITAOF[binary]()) as server:
        load = Load(f"{server.url}?durability=fsync")
        async with load.producing(5, resend=False):
            await until(lambda: len(load.acknowledged) >= 25)
            await asyncio.to_thread(server.kill)
        assert all(isinstance(error, Disconnected) for error in load.errors)
        await asyncio.to_thread(server.start)
        await load.expect_all_done_once()
