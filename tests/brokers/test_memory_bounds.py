"""The memory broker keeps nothing of jobs that it has removed."""

import gc
from collections import deque
from collections.abc import AsyncIterator

import pytest

from ropeway import lifecycle
from ropeway.broker import CALLS_KEPT_MS
from ropeway.brokers.memory import MemoryBroker
from ropeway.brokers.memory.row import Row
from ropeway.job import Job
from ropeway.outcome import Ack
from ropeway.testing.manual_clock import ManualClock
from ropeway.testing.steps import HOUR_MS, make_job, settle_time, take

pytestmark = pytest.mark.anyio

ROUNDS, BATCH = 30, 200


@pytest.fixture
async def broker(clock: ManualClock) -> AsyncIterator[MemoryBroker]:
    broker = MemoryBroker(clock=clock)
    await broker.open()
    yield broker
    await broker.close()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def rows(broker: MemoryBroker) -> int:
    """How many rows the broker still refers to; the collector itself does not know them."""
    met: dict[int, object] = {}
    found: list[object] = [broker._state]
    while found:
        met |= {id(thing): thing for thing in found}
        found = [
            thing
            for thing in gc.get_referents(*filter(is_container, found))
            if id(thing) not in met
        ]
    return sum(isinstance(thing, Row) for thing in met.values())


def is_container(thing: object) -> bool:
    own = type(thing).__module__.startswith("ropeway.brokers.memory")
    return isinstance(thing, (dict, list, tuple, set, deque)) or (own and type(thing) is not Row)


async def test_rows_are_counted(broker: MemoryBroker) -> None:
    await broker.enqueue([make_job() for _ in range(BATCH)])
    assert rows(broker) == BATCH


async def run(broker: MemoryBroker, jobs: list[Job]) -> None:
    await broker.enqueue(jobs)
    await broker.settle([Ack(lease=lease) for lease in await take(broker, limit=BATCH)])


async def test_completed_jobs_beyond_the_kept_ones_are_gone(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "COMPLETED_KEPT", BATCH)
    for _ in range(ROUNDS):
        await run(broker, [make_job() for _ in range(BATCH)])
        await settle_time(broker)
    assert rows(broker) < ROUNDS * BATCH / 2


@pytest.mark.parametrize(
    "fields",
    [
        {"retention_ms": 0},
        {"retention_ms": 0, "expires_after_ms": HOUR_MS},
    ],
)
async def test_completed_jobs_that_are_not_kept_are_gone(
    broker: MemoryBroker, fields: dict[str, int]
) -> None:
    for _ in range(ROUNDS):
        await run(broker, [make_job(**fields) for _ in range(BATCH)])
        await broker.maintain()
    assert rows(broker) < ROUNDS * BATCH / 2


@pytest.mark.parametrize("fields", [{}, {"delay_ms": 24 * HOUR_MS}])
async def test_purged_jobs_are_gone(broker: MemoryBroker, fields: dict[str, int]) -> None:
    for _ in range(ROUNDS):
        await broker.enqueue([make_job(**fields) for _ in range(BATCH)])
        await broker.purge("default")
    assert rows(broker) < ROUNDS * BATCH / 2


async def test_the_answers_of_old_calls_are_gone(broker: MemoryBroker, clock: ManualClock) -> None:
    for number in range(ROUNDS):
        await broker.enqueue([make_job(retention_ms=0)], call_id=f"call-{number}")
        clock.advance(CALLS_KEPT_MS // 2)
    assert len(broker._state.calls) <= 3  # those of the last minute
