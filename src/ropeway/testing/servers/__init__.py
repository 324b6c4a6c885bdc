"""Real servers for tests and benches: private ones to break, and shared ones.

`RedisServer`, `RedisSentinel` and `RedisCluster` are private: they listen on free ports of
127.0.0.1, keep their data in a folder of the caller's, can be killed, frozen and restarted, and end
with this interpreter. `Services` shares one of each among processes; `scripts/services` is its
command.

```python
with RedisServer(tmp_path) as server:
    use(server.url)
    server.kill()
    server.start()  # the same data on the same port
```

Nothing here imports a third-party client.
"""

from ropeway.testing.servers.redis import (
    RedisCluster,
    RedisSentinel,
    RedisServer,
    RespClient,
    RespError,
    key_slot,
    redis_8,
    redis_server,
    valkey,
)
from ropeway.testing.servers.services import SERVICES, Services
from ropeway.testing.servers.waiting import ServerError

__all__ = [
    "SERVICES",
    "RedisCluster",
    "RedisSentinel",
    "RedisServer",
    "RespClient",
    "RespError",
    "ServerError",
    "Services",
    "key_slot",
    "redis_8",
    "redis_server",
    "valkey",
]
