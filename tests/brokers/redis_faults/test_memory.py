"""`maxmemory` is reached: what is refused, what still works, and that nothing is half-written."""

import asyncio
from pathlib import Path

import pytest
from faulted import Load, job, until

from ropeway.broker import Beat, ExtendAnswer
from ropeway.brokers.redis import RedisBroker
from ropeway.errors import ConfigError, StorageFull
from ropeway.job import State
from ropeway.outcome import Ack, Settled
from ropeway.runtime import new_id
from ropeway.testing.servers import RedisServer, redis_8

pytestmark = pytest.mark.anyio


def limit_memory(server: RedisServer, size: int) -> None:
    with server.client() as client:
        client.call("CONFIG", "SET", "maxmemory", size)


def content(server: RedisServer) -> dict[object, object]:
    with server.client() as client:
        keys = client.call("KEYS", "*")
        assert isinstance(keys, list)
        return {key: client.call("DUMP", key) for key in keys if isinstance(key, bytes)}


async def test_full_memory_refuses_an_enqueue_by_name_and_writes_nothing(
    server: RedisServer,
) -> None:
    load = Load(server.url)
    async with load.opened() as broker:
        await broker.enqueue([job(), job(priority=2), job(delay_ms=60_000)])
        limit_memory(server, 1)
        before = content(server)
        for jobs in ([job()], [job() for _ in range(100)], [job(delay_ms=9), job(priority=9)]):
            with pytest.raises(StorageFull, match="has reached maxmemory; nothing was written"):
                await broker.enqueue(jobs, call_id=new_id())
        assert content(server) == before
        limit_memory(server, 0)
        assert len(await broker.enqueue([job()])) == 1


async def test_with_full_memory_what_is_stored_can_be_seen_and_deleted(
    server: RedisServer,
) -> None:
    load = Load(server.url)
    async with load.opened() as broker:
        jobs = [job() for _ in range(50)]
        await broker.enqueue(jobs)
        limit_memory(server, 1)
        assert (await broker.queues())[0].counts[State.AVAILABLE] == 50
        assert (await broker.get([jobs[0].ref]))[0] is not None
        await broker.maintain()
        assert await broker.purge("default") == 50


async def test_with_full_memory_what_is_deleted_is_confirmed_as_well(tmp_path: Path) -> None:
    with RedisServer(tmp_path, binary=redis_8(), appendfsync="always") as server:
        async with Load(f"{server.url}?durability=fsync").opened() as broker:
            await broker.enqueue([job() for _ in range(50)])
            limit_memory(server, 1)
            assert await broker.purge("default") == 50


async def test_with_full_memory_what_is_stored_is_worked_off(server: RedisServer) -> None:
    load = Load(server.url)
    async with load.opened() as broker:
        await broker.enqueue([job() for _ in range(3)])
        first, second = await broker.reserve(["default"], worker="w", limit=2, lease_ms=60_000)
        limit_memory(server, 1)
        assert await broker.settle([Ack(lease=first)]) == [Settled.OK]
        (told,) = await broker.extend([Beat(lease=second)], lease_ms=60_000)
        assert told.answer is ExtendAnswer.OK
        answers, (third,) = await broker.exchange(
            [Ack(lease=second)], ["default"], worker="w", limit=2, lease_ms=60_000
        )
        assert [*answers, *await broker.settle([Ack(lease=third)])] == [Settled.OK, Settled.OK]
        assert {str(state) for state in (await broker.queues())[0].counts} == {"completed"}


async def test_producers_and_workers_go_on_when_there_is_memory_again(
    server: RedisServer,
) -> None:
    load = Load(server.url)
    async with load.working(), load.producing(resend=False):
        await until(lambda: len(load.acknowledged) > 100)
        limit_memory(server, 1)
        await until(lambda: load.errors)
        await asyncio.sleep(0.5)
        assert all(isinstance(error, StorageFull) for error in load.errors)
        limit_memory(server, 0)
        acknowledged, runs = len(load.acknowledged), load.runs.total()
        await until(lambda: len(load.acknowledged) > acknowledged + 100)
        await until(lambda: load.runs.total() > runs + 100)
    await load.expect_all_done_once()


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl", "allkeys-random"])
async def test_a_server_that_may_evict_jobs_is_refused(server: RedisServer, policy: str) -> None:
    with server.client() as client:
        client.call("CONFIG", "SET", "maxmemory-policy", policy)
    with pytest.raises(ConfigError, match=rf"maxmemory-policy is '{policy}'.*noeviction"):
        await RedisBroker(server.url).open()


async def test_a_job_takes_about_half_a_kilobyte(server: RedisServer) -> None:
    """The figure in docs/redis.md: plain jobs with a payload of some 50 bytes."""
    load, count = Load(server.url), 20_000
    async with load.opened() as broker:

        def used() -> int:
            with server.client() as client:
                return int(client.facts("INFO", "memory")["used_memory"])

        empty = used()
        for _ in range(count // 1000):
            await broker.enqueue([job() for _ in range(1000)])
        waiting = (used() - empty) / count
        while leases := await broker.reserve(["default"], worker="w", limit=500, lease_ms=60_000):
            await broker.settle([Ack(lease=lease, result=b"1") for lease in leases])
        kept = (used() - empty) / count
    print(f"waiting {waiting:.0f} bytes, completed {kept:.0f} bytes a job")
    assert waiting < 800
