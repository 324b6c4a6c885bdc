"""The fixture of the worker's tests."""

from collections.abc import AsyncGenerator

import pytest
from worker_bench import Bench

from ropeway.brokers.memory import MemoryBroker


@pytest.fixture
async def bench() -> AsyncGenerator[Bench]:
    broker = MemoryBroker()
    bench = Bench(broker)
    async with bench.app:
        yield bench
