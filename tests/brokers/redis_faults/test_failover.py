"""Sentinel makes a replica the master under load: everybody follows, and what that may lose."""

import asyncio
import time

import pytest
from faulted import Load, until

from ropeway.brokers.redis import RedisBroker
from ropeway.errors import Disconnected
from ropeway.testing.servers import RedisSentinel, RedisServer

pytestmark = pytest.mark.anyio

FOLLOWED_S = 10.0  # to notice, to elect and to follow; it takes about 3 s on a free machine
CUT_S = 6.0


async def acknowledges_again(load: Load) -> float:
    """Seconds until both an enqueue and a run have happened from now on."""
    began, acknowledged, runs = time.monotonic(), len(load.acknowledged), load.runs.total()
    await until(
        lambda: len(load.acknowledged) > acknowledged + 20 and load.runs.total() > runs + 20
    )
    return time.monotonic() - began


async def test_clients_follow_when_the_master_is_killed(sentinel: RedisSentinel) -> None:
    load = Load(sentinel.url)
    async with load.working(), load.producing():
        await until(lambda: len(load.acknowledged) > 100)
        old = await asyncio.to_thread(sentinel.kill_master)
        assert await acknowledges_again(load) < FOLLOWED_S
        assert sentinel.master() is not old
    async with load.working():
        await load.drain()
    assert load.errors == []


async def test_clients_follow_when_an_operator_moves_the_master(sentinel: RedisSentinel) -> None:
    load = Load(sentinel.url)
    async with load.working(), load.producing():
        await until(lambda: len(load.acknowledged) > 100)
        moving = asyncio.create_task(asyncio.to_thread(sentinel.failover))
        assert await acknowledges_again(load) < FOLLOWED_S
        await moving
        assert await acknowledges_again(load) < FOLLOWED_S
    async with load.working():
        await load.drain()
    assert load.errors == []


@pytest.mark.parametrize("copies", [1, 2])
async def test_with_a_copy_on_each_replica_an_operators_failover_loses_nothing(
    sentinel: RedisSentinel, copies: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """The old master goes on for a second: one replica still confirms, the new master does not."""
    load = Load(f"{sentinel.url}?durability=replica&copies={copies}")
    async with load.producing(4, resend=False):
        await until(lambda: len(load.acknowledged) > 1_000)
        before = len(load.acknowledged)
        await asyncio.to_thread(sentinel.failover)
        await asyncio.sleep(2.0)
        await asyncio.to_thread(sentinel.restore)
        await acknowledges_again_without_workers(load)
    lost = await load.lost()
    if copies == 2:
        assert load.errors
        assert lost == []
        await load.expect_all_done_once()
    with capsys.disabled():
        print(f"\ncopies={copies}, an operator's fail-over after {before} jobs: {len(lost)} lost")


async def test_with_replica_no_acknowledged_job_is_lost_to_replicas_that_were_cut_off(
    sentinel: RedisSentinel,
) -> None:
    load = Load(f"{sentinel.url}?durability=replica")
    async with load.producing(4, resend=False):
        await until(lambda: len(load.acknowledged) > 100)
        await cut_off_and_promote(sentinel)
        await acknowledges_again_without_workers(load)
    told = {str(error) for error in load.errors if "no replica has confirmed" in str(error)}
    assert told, load.errors
    assert all(isinstance(error, Disconnected) for error in load.errors)
    await load.expect_all_done_once()


async def test_with_server_a_failover_loses_what_no_replica_had(
    sentinel: RedisSentinel, capsys: pytest.CaptureFixture[str]
) -> None:
    """The loss that `durability=replica` is against; docs/redis.md has the figures."""
    load = Load(sentinel.url)
    async with load.producing(4, resend=False):
        await asyncio.sleep(CUT_S)
        cut, killed = await cut_off_and_promote(sentinel)
        await acknowledges_again_without_workers(load)
    lost = await load.lost()
    assert lost, "it would be luck"
    assert all(load.acknowledged[id_] > cut - 1 for id_ in lost), "older jobs were on the replicas"
    with capsys.disabled():
        before = sum(at <= killed for at in load.acknowledged.values())
        while_cut = [at for at in load.acknowledged.values() if cut <= at <= killed]
        print(
            f"\nreplicas cut off for {CUT_S:g} s, then a fail-over: {len(lost)} of "
            f"{before} acknowledged until then ({100 * len(lost) / before:.0f} %), "
            f"{len(while_cut)} of them in that time"
        )


async def test_min_replicas_to_write_refuses_by_name_and_workers_come_back(
    sentinel: RedisSentinel,
) -> None:
    with sentinel.master().client() as client:
        client.call("CONFIG", "SET", "min-replicas-to-write", 1)
        client.call("CONFIG", "SET", "min-replicas-max-lag", 2)
    load = Load(sentinel.url)
    async with load.working(), load.producing(resend=False):
        await until(lambda: len(load.acknowledged) > 50)
        sentinel.cut_replicas()
        await until(lambda: any("min-replicas-to-write" in str(error) for error in load.errors))
        assert all(isinstance(error, Disconnected) for error in load.errors)
        await asyncio.to_thread(sentinel.restore)
        assert await acknowledges_again(load) < FOLLOWED_S
    await load.expect_all_done_once()


async def test_a_replica_is_refused_with_the_way_to_its_master(sentinel: RedisSentinel) -> None:
    broker = RedisBroker(sentinel.replicas()[0].url)
    with pytest.raises(Exception, match="read-only replica.*redis[+]sentinel://"):
        await broker.open()


async def cut_off_and_promote(sentinel: RedisSentinel) -> tuple[float, float]:
    """Cut the replicas off for a while, then kill the master: when each of the two happened.

    A frozen replica would still find in its socket what was sent to it, so that is closed too.
    """
    sentinel.cut_replicas()
    with sentinel.master().client() as client:
        client.call("CLIENT", "KILL", "TYPE", "replica")
    cut = time.monotonic()
    await asyncio.sleep(CUT_S)
    old: RedisServer = await asyncio.to_thread(sentinel.kill_master)
    killed = time.monotonic()
    for node in sentinel.nodes:
        if node is not old:
            node.resume()
    await asyncio.to_thread(sentinel.wait_new_master, old)
    return cut, killed


async def acknowledges_again_without_workers(load: Load) -> None:
    before = len(load.acknowledged)
    await until(lambda: len(load.acknowledged) > before + 20)
