"""The type of the fixture that opens clients."""

from collections.abc import Awaitable, Callable

from ropeway.brokers.redis.wire.client import Client

Opened = Callable[..., Awaitable[Client]]
