"""The one list of brokers that every test of the contract runs over."""

from collections.abc import Callable
from pathlib import Path

from ropeway.broker import JobStore
from ropeway.brokers.memory import MemoryBroker
from ropeway.brokers.redis import ClusterBroker, RedisBroker
from ropeway.brokers.sqlite import SQLiteBroker
from ropeway.clock import Clock
from ropeway.runtime import new_id
from shared_servers import redis_cluster_url, redis_sentinel_url, redis_url


def _own(url: str) -> str:
    """Keys of its own on servers that all tests share."""
    return f"{url}?prefix=test-{new_id()}"


BROKERS: dict[str, Callable[[Path, Clock], JobStore]] = {
    "memory": lambda _, clock: MemoryBroker(clock=clock),
    "sqlite": lambda folder, clock: SQLiteBroker(folder / "jobs.db", clock=clock),
    "redis": lambda _, clock: RedisBroker(_own(redis_url()), clock=clock),
    "sentinel": lambda _, clock: RedisBroker(_own(redis_sentinel_url()), clock=clock),
    "cluster": lambda _, clock: ClusterBroker(_own(redis_cluster_url()), clock=clock),
}
