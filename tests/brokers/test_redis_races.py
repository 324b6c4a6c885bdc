"""Eight processes race over one Redis: one job a key, no place and no slot too many, none lost."""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator

import flow_racer
import pytest

from ropeway.broker import Filter
from ropeway.brokers.redis import RedisBroker
from ropeway.flow.rules import LimitRule, QueueRule, Slots
from ropeway.job import State
from ropeway.runtime import new_id
from ropeway.testing.steps import all_records

pytestmark = pytest.mark.anyio

RACES = 2_000 if os.environ.get("HYPOTHESIS_PROFILE") == "nightly" else 50
PLACES = 5
SLOTS = 2


@pytest.fixture
def url(redis_url: str) -> str:
    return f"{redis_url}?prefix=races-{new_id()}"


@pytest.fixture
async def broker(url: str) -> AsyncIterator[RedisBroker]:
    broker = RedisBroker(url)
    await broker.open()
    yield broker
    await broker.close()


async def test_of_a_unique_key_there_is_one_job_and_everybody_learns_which(
    broker: RedisBroker, url: str
) -> None:
    told = flow_racer.race(flow_racer.unique, url, RACES)
    for answers in zip(*told, strict=True):
        words = Counter(word for word, _ in answers)
        assert words == {"ok": 1, "duplicate_key": flow_racer.PROCESSES - 1}
        assert len({job for _, job in answers}) == 1
    assert await broker.count(Filter()) == RACES


async def most_meanwhile(racing: asyncio.Task[list[flow_racer.Told]], broker: RedisBroker) -> int:
    """The most slots of one key, or jobs that wait, that were seen while the others raced."""
    most = 0
    while not racing.done():
        for info in await broker.keys("slots"):
            most = max(most, info.used)
        for queue in await broker.queues():
            most = max(most, queue.counts.get(State.AVAILABLE, 0) if queue.name == "default" else 0)
        await asyncio.sleep(0.001)
    return most


async def test_a_bounded_queue_never_takes_more_than_its_length(
    broker: RedisBroker, url: str
) -> None:
    await broker.declare([QueueRule(name="default", max_length=PLACES)])
    racing = asyncio.create_task(asyncio.to_thread(flow_racer.race, flow_racer.bounded, url, RACES))
    assert 0 < await most_meanwhile(racing, broker) <= PLACES
    words = Counter(word for answers in await racing for word, _ in answers)
    assert words["full"]
    assert words["ok"] == await broker.count(Filter())
    assert words["ok"] + words["full"] == 2 * RACES * flow_racer.PROCESSES


async def test_never_more_jobs_of_a_key_run_than_it_has_slots_and_all_run_in_the_end(
    broker: RedisBroker, url: str
) -> None:
    """Also when leases are lost: their slots come back, and counts stay those of the records."""
    await broker.declare([LimitRule(name="slots", limit=Slots(SLOTS))])
    racing = asyncio.create_task(asyncio.to_thread(flow_racer.race, flow_racer.slots, url, RACES))
    assert await most_meanwhile(racing, broker) == SLOTS
    states = Counter(record.status.state for record in await all_records(broker))
    assert states == {State.COMPLETED: RACES * flow_racer.PROCESSES}
    assert sum(info.counts[State.COMPLETED] for info in await broker.queues()) == states.total()
    assert await broker.keys("slots") == []
    starts = Counter(job for answers in await racing for _, job in answers)
    assert len(starts) == RACES * flow_racer.PROCESSES
    assert max(starts.values()) > 1, "no lease was lost"
