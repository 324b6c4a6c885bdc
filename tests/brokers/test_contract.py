"""Every broker keeps the whole contract."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from brokers import BROKERS
from ropeway import lifecycle
from ropeway.broker import Filter, JobStore
from ropeway.job import State
from ropeway.outcome import Ack
from ropeway.testing.contract import JobStoreContract
from ropeway.testing.manual_clock import ManualClock
from ropeway.testing.steps import (
    all_records,
    bring_to,
    ids,
    make_job,
    settle_time,
    state_of,
    take,
)


async def open_broker(name: str, folder: Path, clock: ManualClock) -> JobStore:
    broker = BROKERS[name](folder, clock)
    await broker.open()
    return broker


class TestEveryBroker(JobStoreContract):
    @pytest.fixture(params=list(BROKERS))
    async def broker(
        self, request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock
    ) -> AsyncIterator[JobStore]:
        broker = await open_broker(request.param, tmp_path, clock)
        yield broker
        await broker.close()


@pytest.mark.anyio
@pytest.mark.parametrize("name", list(BROKERS))
async def test_a_queue_keeps_its_newest_completed_records(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "COMPLETED_KEPT", 3)
    broker = await open_broker(name, tmp_path, ManualClock())
    dead, _ = await bring_to(broker, State.DEAD)
    scheduled, _ = await bring_to(broker, State.SCHEDULED)
    jobs = [make_job() for _ in range(5)]
    await broker.enqueue([make_job(queue="other"), *jobs])
    await broker.settle([Ack(lease=lease) for lease in await take(broker, "default", "other")])
    await broker.enqueue([make_job()])
    await settle_time(broker)
    completed = Filter(queue="default", states=frozenset({State.COMPLETED}))
    assert ids(await all_records(broker, completed)) == ids(jobs[:1:-1])
    assert await state_of(broker, dead) is State.DEAD
    assert await state_of(broker, scheduled) is State.SCHEDULED
    assert await broker.count(Filter()) == 3 + 1 + 1 + 2
    await broker.close()


@pytest.mark.anyio
@pytest.mark.parametrize("name", list(BROKERS))
async def test_pruning_by_number_is_counted_and_keeps_its_limit(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "COMPLETED_KEPT", 1)
    broker = await open_broker(name, tmp_path, ManualClock())
    await broker.enqueue([make_job(queue=queue) for queue in ("a", "b") for _ in range(3)])
    await broker.settle([Ack(lease=lease) for lease in await take(broker, "a", "b")])
    rounds = [await broker.maintain(limit=3) for _ in range(3)]
    assert [(r.pruned, r.more) for r in rounds] == [(3, True), (1, False), (0, False)]
    await broker.close()
