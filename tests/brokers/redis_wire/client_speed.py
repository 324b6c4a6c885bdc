"""Calls a second of Ropeway's client, and of redis-py if it is installed: EVALSHA of `return 1`.

    python tests/brokers/redis_wire/client_speed.py [redis+cluster]

starts a server (or cluster) of its own and prints, for asyncio and uvloop, the best of three runs
with 1, 50 and 500 concurrent callers. redis-py has one connection, or a pool of 50.
"""

import asyncio
import importlib
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvloop

from ropeway.brokers.redis.wire.address import parse
from ropeway.brokers.redis.wire.client import Script, connect
from ropeway.testing.servers import RedisCluster, RedisServer

SCRIPT = Script("one", "return 1")
RUNS = ((1, 4_000), (50, 20_000), (500, 30_000))

Call = Callable[[], Awaitable[Any]]


async def rate(call: Call, callers: int, calls: int) -> float:
    async def repeat() -> None:
        for _ in range(calls // callers):
            await call()

    best = 0.0
    for _ in range(3):
        started = time.perf_counter()
        await asyncio.gather(*(repeat() for _ in range(callers)))
        best = max(best, calls / (time.perf_counter() - started))
    return best


async def report(name: str, call: Call) -> None:
    await call()
    rates = [f"{callers}: {await rate(call, callers, calls):9,.0f}/s" for callers, calls in RUNS]
    print(f"{name:24}", *rates)


async def ours(url: str) -> None:
    client = connect(parse(url)[0])
    await client.open()
    await report("Ropeway", lambda: client.run(SCRIPT, "{t}", ("abc", 5)))
    await client.close()


async def redis_py(url: str, **options: Any) -> None:
    try:
        module = importlib.import_module("redis.asyncio")
    except ModuleNotFoundError:
        return
    client = module.BlockingConnectionPool.from_url(url, protocol=2, **options)
    redis = module.Redis.from_pool(client)
    await redis.script_load(SCRIPT.source)
    name = f"redis-py, connections: {options['max_connections']}"
    await report(name, lambda: redis.evalsha(SCRIPT.sha, 1, "{t}", "abc", 5))
    await redis.aclose()


async def compare(url: str) -> None:
    print(type(asyncio.get_running_loop()).__module__)
    await ours(url)
    if not url.startswith("redis+cluster"):
        await redis_py(url, max_connections=1)
        await redis_py(url, max_connections=50)


if __name__ == "__main__":
    start = RedisCluster if sys.argv[1:] == ["redis+cluster"] else RedisServer
    with tempfile.TemporaryDirectory() as folder, start(Path(folder)) as server:
        asyncio.run(compare(server.url))
        uvloop.run(compare(server.url))
