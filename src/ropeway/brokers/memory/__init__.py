"""The memory broker: the specification in code. Nothing survives the process."""

from ropeway.brokers.memory.broker import MemoryBroker

__all__ = ["MemoryBroker"]
