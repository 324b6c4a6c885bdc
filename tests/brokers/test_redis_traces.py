"""What has ended in Redis leaves nothing behind, and who waits for a job finds it elsewhere."""

import asyncio
import os
import struct
from collections import Counter
from collections.abc import AsyncIterator
from random import Random

import pytest
from broad_calls import FIRST_RULES, LIMITS, BroadCalls
from varied_calls import QUEUES

from ropeway.action import CancelJob, MoveJob
from ropeway.broker import JobStore
from ropeway.brokers.redis import RedisBroker
from ropeway.brokers.redis.wire.address import parse
from ropeway.brokers.redis.wire.client import Client, connect
from ropeway.errors import ConfigError
from ropeway.job import FINAL, JobRef, State
from ropeway.outcome import Ack
from ropeway.runtime import new_id
from ropeway.testing.manual_clock import ManualClock
from ropeway.testing.steps import (
    HOUR_MS,
    act,
    all_records,
    enqueue,
    make_job,
    settle,
    settle_time,
    take_one,
)

pytestmark = pytest.mark.anyio

SEEDS = range(300 if os.environ.get("HYPOTHESIS_PROFILE") == "nightly" else 5)
STEPS = 250
SOON_S = 3.0  # real seconds: less than a waiter waits before it looks again
KEPT = {":m", ":queues", ":rl", ":sg", ":wk"}  # counters, names, rules, signals, workers


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def url(redis_url: str) -> str:
    return f"{redis_url}?prefix=traces-{new_id()}"


@pytest.fixture
async def broker(url: str, clock: ManualClock) -> AsyncIterator[RedisBroker]:
    broker = RedisBroker(url, clock=clock)
    await broker.open()
    yield broker
    await broker.close()


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Client]:
    client = connect(parse(redis_url)[0])
    await client.open()
    yield client
    await client.close()


@pytest.mark.parametrize("seed", SEEDS)
async def test_when_all_has_ended_and_its_time_is_over_nothing_is_left(
    broker: RedisBroker, client: Client, clock: ManualClock, url: str, seed: int
) -> None:
    tag = "{" + url.rpartition("=")[2] + "}"
    await broker.declare(FIRST_RULES)
    async for _ in BroadCalls(broker, clock, Random(seed)).walk(STEPS):
        pass
    await counts_are_those_of_the_records(broker)
    await end_all(broker, clock)
    clock.advance(91 * 24 * HOUR_MS)
    for _ in range(3):  # children go before their parents, which are looked at every second
        await settle_time(broker)
        clock.advance(2_000)
    assert await all_records(broker) == []
    assert [info for name in LIMITS for info in await broker.keys(name) if info.parked] == []
    assert [key for key in await keys_of(client, tag) if not is_usual(key)] == []
    for queue in QUEUES:
        kept = await fields_of(client, f"{tag}:{len(queue)}:{queue}:h")
        assert {kept.get(name, b"0") for name in ("stale", *State)} == {b"0"}, kept
    for key, state in (await fields_of(client, f"{tag}:k")).items():
        _, _, failures, _, parked = struct.unpack(">IdI6sI", state)
        assert (failures > 0, parked) == (True, 0), key  # a breaker remembers


async def counts_are_those_of_the_records(broker: JobStore) -> None:
    records = await all_records(broker)
    assert len({record.job.ref for record in records}) == len(records)
    found = Counter((record.job.queue, record.status.state) for record in records)
    counted = {
        (info.name, state): n for info in await broker.queues() for state, n in info.counts.items()
    }
    assert counted == found


async def end_all(broker: JobStore, clock: ManualClock) -> None:
    """Run what can be run, cancel what waits for what will never come."""
    await broker.resume("b")
    while True:
        clock.advance(2_000)
        await settle_time(broker)
        leases = await broker.reserve(QUEUES, worker="w", limit=100, lease_ms=HOUR_MS)
        leases += await broker.reserve_group(QUEUES, worker="w", lease_ms=HOUR_MS)
        await broker.settle([Ack(lease=lease) for lease in leases])
        left = [one for one in await all_records(broker) if one.status.state not in FINAL]
        if not left:
            return
        pending = [one.job.ref for one in left if one.status.state is State.PENDING]
        if not leases:
            await broker.act([CancelJob(ref=ref) for ref in pending[:5]])


async def keys_of(client: Client, tag: str) -> list[str]:
    """What is behind the tag in every key of it."""
    keys: set[bytes] = set()
    cursor = b"0"
    while True:
        cursor, found = await client.call(tag, "SCAN", cursor, "MATCH", f"{tag}*", "COUNT", "1000")
        keys.update(found)
        if cursor == b"0":
            return sorted(key.decode().removeprefix(tag) for key in keys)


def is_usual(key: str) -> bool:
    """Whether a key stays for good, or goes by itself, or holds what breakers remember."""
    last = key.rpartition(":")[2]
    return (
        key in KEPT
        or key == ":k"
        or key.startswith(":calls")
        or last in {"h", "bell", "bbell"}
        or (last[0] == "t" and last[1:].isdigit())  # tenants; those that were passed go by and by
    )


async def fields_of(client: Client, key: str) -> dict[str, bytes]:
    reply: list[bytes] = await client.call(key, "HGETALL", key)
    return {
        name.decode(errors="replace"): value
        for name, value in zip(reply[::2], reply[1::2], strict=True)
    }


async def test_a_waiter_follows_a_job_to_another_queue(broker: RedisBroker) -> None:
    for retention_ms in (None, 0):
        job = await enqueue(broker, retention_ms=retention_ms)
        waiting = asyncio.create_task(broker.wait([job.ref], timeout_ms=20_000))
        await asyncio.sleep(0.05)
        await act(broker, MoveJob(ref=job.ref, queue="other"))
        await settle(broker, Ack(lease=await take_one(broker, "other"), result=b"1"))
        (record,) = await asyncio.wait_for(waiting, SOON_S)
        assert record is not None
        assert (record.job.queue, record.status.result) == ("other", b"1")
        assert await broker.wait([JobRef(new_id())], timeout_ms=0) == [None]


async def test_a_call_id_used_for_other_jobs_costs_no_other_call(broker: RedisBroker) -> None:
    known = await enqueue(broker)
    await broker.enqueue([known, make_job()], call_id="c")  # one is a duplicate: kept by position
    wrong, right = await asyncio.gather(
        broker.enqueue([make_job()], call_id="c"),
        broker.enqueue([make_job()]),
        return_exceptions=True,
    )
    assert isinstance(wrong, ConfigError)
    assert not isinstance(right, BaseException)
