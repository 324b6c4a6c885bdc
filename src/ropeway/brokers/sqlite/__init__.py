"""The SQLite broker."""

from ropeway.brokers.sqlite.broker import SQLiteBroker

__all__ = ["SQLiteBroker"]
