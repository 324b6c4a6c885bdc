"""The network fails between workers and Redis; everybody comes back by themselves."""

import asyncio
import time
from collections.abc import AsyncIterator
from functools import partial

import pytest
from faulted import Load, until

from ropeway.brokers.redis import broker as broker_module
from ropeway.brokers.redis.wire.client import connect
from ropeway.errors import Disconnected
from ropeway.testing.servers import RedisServer
from ropeway.verify.faults.proxy import Proxy

pytestmark = pytest.mark.anyio

BACK_S = 5.0
NOTICED_S = 15.0


@pytest.fixture
async def proxy(server: RedisServer) -> AsyncIterator[Proxy]:
    async with Proxy("127.0.0.1", server.port) as proxy:
        yield proxy


@pytest.fixture
def load(server: RedisServer, proxy: Proxy) -> Load:
    return Load(proxy.url(server.url))


@pytest.fixture
def short_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_module, "connect", partial(connect, reply_s=1.0, connect_s=1.0))


async def goes_on(load: Load, proxy: Proxy) -> None:
    """From the moment at which the network is healed, both sides go on within five seconds."""
    await proxy.heal()
    acknowledged, runs = len(load.acknowledged), load.runs.total()
    await until(
        lambda: len(load.acknowledged) > acknowledged and load.runs.total() > runs, within_s=BACK_S
    )


async def test_workers_and_producers_survive_connections_that_are_cut(
    load: Load, proxy: Proxy
) -> None:
    async with load.working(), load.producing():
        for number in range(20):
            proxy.cut(reset=number % 2 == 0)
            await asyncio.sleep(0.1)
        await goes_on(load, proxy)
    assert load.errors == []
    await load.expect_all_done_once()


async def test_workers_come_back_after_seconds_without_a_network(load: Load, proxy: Proxy) -> None:
    async with load.working(), load.producing():
        await until(lambda: len(load.acknowledged) > 50)
        proxy.refuse()
        proxy.cut()
        await asyncio.sleep(3)
        await goes_on(load, proxy)
    assert load.errors == []
    await load.expect_all_done_once()


@pytest.mark.usefixtures("short_deadlines")
async def test_workers_come_back_from_a_half_open_network(load: Load, proxy: Proxy) -> None:
    async with load.working(), load.producing():
        await until(lambda: len(load.acknowledged) > 50)
        for _ in range(2):
            proxy.swallow()
            await asyncio.sleep(2)
            await goes_on(load, proxy)
    assert load.errors == []
    await load.expect_all_done_once()


async def test_a_half_open_connection_is_noticed_within_fifteen_seconds(
    load: Load, proxy: Proxy
) -> None:
    """With the deadlines that everybody has: of a short call, and of one that waits for jobs."""
    async with load.opened() as broker:
        idle = partial(broker.reserve, ["none"], worker="w", limit=1, lease_ms=1000, wait_ms=60_000)
        waiting = asyncio.create_task(idle())
        await asyncio.sleep(0.2)
        proxy.swallow()
        began = time.monotonic()
        for call in (broker.queues(), waiting):
            with pytest.raises(Disconnected, match="has not answered for"):
                await call
        assert time.monotonic() - began < NOTICED_S
        await proxy.heal()
        await broker.queues()


@pytest.mark.usefixtures("short_deadlines")
async def test_a_direction_that_stalls_costs_no_job(load: Load, proxy: Proxy) -> None:
    async with load.working(), load.producing():
        await until(lambda: len(load.acknowledged) > 50)
        proxy.stall("to_client")  # what was asked for is done, and nobody hears of it
        await asyncio.sleep(2)
        await goes_on(load, proxy)
        proxy.stall("to_server")
        await asyncio.sleep(2)
        await goes_on(load, proxy)
    assert load.errors == []
    await load.expect_all_done_once()


async def test_replies_that_are_lost_again_and_again_double_nothing(
    load: Load, proxy: Proxy
) -> None:
    async with load.working(), load.producing():
        for number in range(30):
            proxy.cut_reply(after_bytes=1 + 37 * number)
            await asyncio.sleep(0.07)
        await goes_on(load, proxy)
    assert load.errors == []
    await load.expect_all_done_once()


async def test_a_slow_network_is_only_slow(load: Load, proxy: Proxy) -> None:
    proxy.slow(delay_s=0.02, bytes_per_s=1_000_000)
    async with load.working(), load.producing():
        await until(lambda: load.runs.total() > 50)
    assert load.errors == []
    await proxy.heal()
    await load.expect_all_done_once()
