"""The Redis broker: `redis://`, `rediss://`, `redis+unix://`, `redis+sentinel://`."""

from ropeway.brokers.redis.broker import RedisBroker

__all__ = ["RedisBroker"]
