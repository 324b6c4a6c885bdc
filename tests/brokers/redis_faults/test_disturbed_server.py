"""What happens to a server while it works: scripts forgotten, clients thrown out, data gone."""

import asyncio
import logging

import pytest
from faulted import Load, job, unfinished, until

from ropeway import Ropeway
from ropeway.errors import ResultExpired
from ropeway.job import State
from ropeway.outcome import Ack, Settled
from ropeway.testing.servers import RedisServer

pytestmark = pytest.mark.anyio


async def test_scripts_may_be_flushed_at_any_time(server: RedisServer) -> None:
    load = Load(server.url)
    async with load.working(), load.producing():
        for _ in range(100):
            with server.client() as client:
                client.call("SCRIPT", "FLUSH")
            await asyncio.sleep(0.01)
    assert load.errors == []
    assert len(load.acknowledged) > 200
    await load.expect_all_done_once()


async def test_clients_may_be_thrown_out_again_and_again(server: RedisServer) -> None:
    load = Load(server.url)
    async with load.working(), load.producing():
        for _ in range(20):
            with server.client() as client:
                client.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await asyncio.sleep(0.1)
    assert load.errors == []
    assert len(load.acknowledged) > 100
    await load.expect_all_done_once()


async def test_a_store_that_was_emptied_goes_on_with_new_jobs(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    load = Load(server.url)
    async with load.working(), load.producing():
        await until(lambda: len(load.acknowledged) > 100)
        with server.client() as client:
            client.call("FLUSHALL")
        runs, acknowledged = load.runs.total(), len(load.acknowledged)
        await until(lambda: len(load.acknowledged) > acknowledged + 100)
        await until(lambda: load.runs.total() > runs + 100)
    async with load.working():
        await load.drain()
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_a_job_that_ran_while_the_store_was_emptied_is_lost_to_its_holder(
    server: RedisServer,
) -> None:
    load = Load(server.url)
    async with load.opened() as broker:
        await broker.enqueue([job()])
        (lease,) = await broker.reserve(["default"], worker="w", limit=1, lease_ms=60_000)
        with server.client() as client:
            client.call("FLUSHALL")
        assert await broker.settle([Ack(lease=lease)]) == [Settled.LOST]
        assert await broker.get([lease.job.ref]) == [None]
        await broker.enqueue([job()])
        (other,) = await broker.reserve(["default"], worker="w", limit=1, lease_ms=60_000)
        assert await broker.settle([Ack(lease=lease)]) == [Settled.LOST]
        assert await broker.settle([Ack(lease=other)]) == [Settled.OK]
        assert await unfinished(broker) == {}


async def test_who_waits_for_a_job_that_is_gone_is_told(server: RedisServer) -> None:
    async with Ropeway(server.url) as app:

        @app.task
        async def nobody_runs_this() -> None: ...

        handle = await nobody_runs_this.enqueue()
        waiting = asyncio.create_task(handle.result())
        await asyncio.sleep(0.3)
        with server.client() as client:
            client.call("FLUSHALL")
        with pytest.raises(ResultExpired):
            await asyncio.wait_for(waiting, 15)


async def test_who_waits_is_answered_although_the_server_was_restarted(
    server: RedisServer,
) -> None:
    async with Ropeway(server.url) as app:

        @app.task(name="work")
        async def work(name: str) -> str:
            return name

        handle = await work.enqueue("x")
        waiting = asyncio.create_task(handle.result())
        await asyncio.sleep(0.2)
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        load = Load(server.url)
        async with load.working():
            assert await asyncio.wait_for(waiting, 15) == "x"
        async with load.opened() as broker:
            (record,) = await broker.get([handle.ref])
            assert record is not None
            assert record.status.state is State.COMPLETED


async def test_a_clock_that_was_ahead_stops_time_until_it_is_put_right(
    server: RedisServer,
) -> None:
    """Time never runs backwards: the latest one that was seen counts. See docs/redis.md."""
    async with Load(server.url).opened() as broker:
        await broker.enqueue([job()])
        with server.client() as client:
            ahead = int(client.text("HGET", "{ropeway}:m", "clock")) + 3_600_000
            client.call("HSET", "{ropeway}:m", "clock", ahead)
            await broker.enqueue([delayed := job(delay_ms=10)])
            await asyncio.sleep(0.05)
            await broker.maintain()
            (record,) = await broker.get([delayed.ref])
            assert record is not None
            assert record.status.state is State.SCHEDULED
            client.call("HDEL", "{ropeway}:m", "clock")
        await broker.enqueue([again := job(delay_ms=10)])
        await asyncio.sleep(0.05)
        leases = await broker.reserve(["default"], worker="w", limit=9, lease_ms=1_000)
        assert again.id in {lease.job.id for lease in leases}
