"""A node of a Redis Cluster dies, or a slot moves, under load on several queues."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from faulted import Load, until

from ropeway.brokers.redis.wire.slots import slot_of
from ropeway.testing.servers import RedisCluster

pytestmark = pytest.mark.anyio

FOLLOWED_S = 15.0  # to notice (2 s), to elect and to follow


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[RedisCluster]:
    cluster = RedisCluster(tmp_path)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


QUEUES = [f"queue-{number}" for number in range(6)]


async def goes_on_everywhere(load: Load) -> float:
    """Seconds until jobs of each queue have been acknowledged and run from now on."""
    began = time.monotonic()
    for queue in QUEUES:
        acknowledged, runs = load.acknowledged_in[queue], load.runs_in[queue]
        await until(
            lambda q=queue, a=acknowledged, r=runs: (
                load.acknowledged_in[q] > a + 10 and load.runs_in[q] > r + 10
            )
        )
    return time.monotonic() - began


async def test_each_queue_follows_when_a_master_is_killed(cluster: RedisCluster) -> None:
    load = Load(cluster.url, queues=QUEUES)
    async with load.working(), load.producing():
        await goes_on_everywhere(load)
        dead = await asyncio.to_thread(cluster.kill_master, 1)
        assert await goes_on_everywhere(load) < FOLLOWED_S
        await asyncio.to_thread(cluster.wait_failover, dead)
        await goes_on_everywhere(load)
    async with load.working():
        await load.drain()
    assert load.errors == []


async def test_with_replica_a_killed_master_loses_no_acknowledged_job(
    cluster: RedisCluster,
) -> None:
    load = Load(f"{cluster.url}?durability=replica", queues=QUEUES)
    async with load.producing(4, resend=False):
        await until(lambda: len(load.acknowledged) > 500)
        dead = await asyncio.to_thread(cluster.kill_master, 0)
        await asyncio.to_thread(cluster.wait_failover, dead)
        before = len(load.acknowledged)
        await until(lambda: len(load.acknowledged) > before + 50)
    assert load.errors
    # The queues of the dead master's own place are acknowledged again when it is back.
    await asyncio.to_thread(dead.start)
    await asyncio.to_thread(cluster.wait_ready)
    await load.expect_all_done_once()


async def test_slots_move_under_load_and_nothing_is_lost_or_settled_twice(
    cluster: RedisCluster,
) -> None:
    load = Load(cluster.url, queues=QUEUES)
    slots = [slot_of(f"{{ropeway:{queue}}}") for queue in QUEUES[:2]]
    async with load.working(), load.producing():
        await goes_on_everywhere(load)
        for turn in range(3):
            target = cluster.masters()[turn]
            await asyncio.to_thread(cluster.move_slots, slots, target)
        await goes_on_everywhere(load)
    assert load.errors == []
    await load.expect_all_done_once()
