"""The Redis broker: one server, Sentinel, or a Cluster (`cluster/`)."""

from ropeway.brokers.redis.broker import RedisBroker
from ropeway.brokers.redis.cluster.broker import ClusterBroker

__all__ = ["ClusterBroker", "RedisBroker"]
