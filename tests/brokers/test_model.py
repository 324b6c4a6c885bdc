"""Random histories: SQLite and Redis agree with the memory broker after every step."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from ropeway.broker import JobStore
from ropeway.brokers.redis import RedisBroker
from ropeway.brokers.sqlite import SQLiteBroker
from ropeway.runtime import new_id
from ropeway.testing.flow_model import FlowMachine
from ropeway.testing.manual_clock import ManualClock
from ropeway.testing.model import machine_for
from shared_servers import redis_url

NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
HISTORIES = 1_000 if NIGHTLY else 50

folders: list[Path] = []


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> Iterator[None]:
    folders.append(tmp_path)
    yield
    folders.pop()


async def open_sqlite(clock: ManualClock) -> JobStore:
    broker = SQLiteBroker(folders[-1] / f"{new_id()}.db", durability="fast", clock=clock)
    await broker.open()
    return broker


async def open_redis(clock: ManualClock) -> JobStore:
    broker = RedisBroker(f"{redis_url()}?prefix=model-{new_id()}", clock=clock)
    await broker.open()
    return broker


TestSQLiteAgreesWithMemory = machine_for(open_sqlite).TestCase
TestSQLiteAgreesWithMemory.settings = settings(
    max_examples=HISTORIES,
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

TestSQLiteAgreesWithMemoryOnFlow = machine_for(open_sqlite, FlowMachine).TestCase
TestSQLiteAgreesWithMemoryOnFlow.settings = settings(
    TestSQLiteAgreesWithMemory.settings,
    # Many more rules, hence few histories that meet what is rare: the same ones on every run, so
    # that a failure can be repeated. The nightly profile looks for new ones.
    derandomize=not NIGHTLY,
    database=None,
)

TestRedisAgreesWithMemory = machine_for(open_redis).TestCase
TestRedisAgreesWithMemory.settings = TestSQLiteAgreesWithMemory.settings

TestRedisAgreesWithMemoryOnFlow = machine_for(open_redis, FlowMachine).TestCase
TestRedisAgreesWithMemoryOnFlow.settings = TestSQLiteAgreesWithMemoryOnFlow.settings
