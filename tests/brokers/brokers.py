"""The one list of brokers that every test of the contract runs over."""

from collections.abc import Callable
from pathlib import Path

from shared_servers import redis_url

from ropeway.broker import JobStore
from ropeway.brokers.memory import MemoryBroker
from ropeway.brokers.redis import RedisBroker
from ropeway.brokers.sqlite import SQLiteBroker
from ropeway.clock import Clock
from ropeway.runtime import new_id


def _redis(url: str, clock: Clock) -> RedisBroker:
    """A broker with keys of its own on a server that all tests share."""
    return RedisBroker(f"{url}?prefix=test-{new_id()}", clock=clock)


BROKERS: dict[str, Callable[[Path, Clock], JobStore]] = {
    "memory": lambda _, clock: MemoryBroker(clock=clock),
    "sqlite": lambda folder, clock: SQLiteBroker(folder / "jobs.db", clock=clock),
    "redis": lambda _, clock: _redis(redis_url(), clock),
}
