"""The one list of brokers that every test of the contract runs over."""

from collections.abc import Callable
from pathlib import Path

from ropeway.broker import JobStore
from ropeway.brokers.memory import MemoryBroker
from ropeway.brokers.sqlite import SQLiteBroker
from ropeway.clock import Clock

BROKERS: dict[str, Callable[[Path, Clock], JobStore]] = {
    "memory": lambda _, clock: MemoryBroker(clock=clock),
    "sqlite": lambda folder, clock: SQLiteBroker(folder / "jobs.db", clock=clock),
}
