"""Every broker keeps the whole contract."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from brokers import BROKERS
from ropeway.broker import JobStore
from ropeway.testing.contract import JobStoreContract
from ropeway.testing.manual_clock import ManualClock


class TestEveryBroker(JobStoreContract):
    @pytest.fixture(params=list(BROKERS))
    async def broker(
        self, request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock
    ) -> AsyncIterator[JobStore]:
        broker = BROKERS[request.param](tmp_path, clock)
        await broker.open()
        yield broker
        await broker.close()
