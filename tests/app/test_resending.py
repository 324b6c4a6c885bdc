"""Enqueueing over a broken connection: resent while that is safe, then said to be unknown."""

import asyncio
from collections.abc import Sequence

import pytest

from ropeway import ConfigError, EnqueueUnknown, Ropeway, submit
from ropeway.broker import Enqueued
from ropeway.brokers.memory import MemoryBroker
from ropeway.errors import Disconnected, StorageFull
from ropeway.job import Job

pytestmark = pytest.mark.anyio


class Flaky(MemoryBroker):
    """Loses the answer of the first calls, having stored their jobs or not."""

    def __init__(self, *, losses: int, stores: bool, error: type[Exception] = Disconnected) -> None:
        super().__init__()
        self.losses = losses
        self.stores = stores
        self.error = error
        self.call_ids: list[str | None] = []

    async def enqueue(self, jobs: Sequence[Job], *, call_id: str | None = None) -> list[Enqueued]:
        self.call_ids.append(call_id)
        if len(self.call_ids) > self.losses:
            return await super().enqueue(jobs, call_id=call_id)
        if self.stores:
            await super().enqueue(jobs, call_id=call_id)
        raise self.error("the server hung up")


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(submit, "_FIRST_WAIT_S", 0.0)


@pytest.mark.parametrize("stores", [True, False])
async def test_a_call_whose_answer_was_lost_is_sent_again_under_the_same_id(stores):
    broker = Flaky(losses=3, stores=stores)
    async with Ropeway(broker) as app:
        handle = await app.send("task")
        assert handle.created
        assert await app.jobs.count() == 1
    assert len(broker.call_ids) == 4
    assert len(set(broker.call_ids)) == 1
    assert broker.call_ids[0]


async def test_each_enqueue_has_a_call_id_of_its_own():
    broker = Flaky(losses=0, stores=True)
    async with Ropeway(broker) as app:
        await app.send("task")
        await app.send("task")
    assert len(set(broker.call_ids)) == 2


async def test_after_a_minute_nobody_knows_and_the_error_says_so(monkeypatch):
    monkeypatch.setattr(submit, "CALLS_KEPT_MS", 0)
    async with Ropeway(Flaky(losses=99, stores=True)) as app:
        with pytest.raises(EnqueueUnknown, match="the first of which is my-id") as caught:
            await app.send("task", id="my-id")
    assert isinstance(caught.value.__cause__, Disconnected)


async def test_an_error_that_says_nothing_was_written_is_not_retried():
    broker = Flaky(losses=1, stores=False, error=StorageFull)
    async with Ropeway(broker) as app:
        with pytest.raises(StorageFull):
            await app.send("task")
    assert len(broker.call_ids) == 1


async def test_closing_the_app_ends_the_resending():
    app = Ropeway(Flaky(losses=10**9, stores=False))
    async with app:
        sending = asyncio.ensure_future(app.send("task"))
        for _ in range(5):
            await asyncio.sleep(0)
    with pytest.raises(ConfigError, match="not open"):
        await sending
