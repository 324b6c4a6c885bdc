"""Redis and Valkey: one server, a master watched by Sentinels, a cluster."""

from ropeway.testing.servers.redis.binaries import redis_8, redis_server, valkey
from ropeway.testing.servers.redis.cluster import RedisCluster
from ropeway.testing.servers.redis.resp import Reply, RespClient, RespError
from ropeway.testing.servers.redis.sentinel import RedisSentinel, SentinelServer
from ropeway.testing.servers.redis.server import Options, RedisServer
from ropeway.testing.servers.redis.slots import ClusterNode, SlotMove, key_slot

__all__ = [
    "ClusterNode",
    "Options",
    "RedisCluster",
    "RedisSentinel",
    "RedisServer",
    "Reply",
    "RespClient",
    "RespError",
    "SentinelServer",
    "SlotMove",
    "key_slot",
    "redis_8",
    "redis_server",
    "valkey",
]
