"""The master is found through the sentinels, and found anew when it changes."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from opened import Opened

from ropeway.brokers.redis.wire.client import Script
from ropeway.brokers.redis.wire.replies import Refused
from ropeway.errors import Disconnected
from ropeway.testing.servers import RedisSentinel, RedisServer, RespError

pytestmark = pytest.mark.anyio

INCR = Script("incr", "return redis.call('incr', '{t}n')")


@pytest.fixture(scope="module")
def sentinel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisSentinel]:
    with RedisSentinel(tmp_path_factory.mktemp("sentinel")) as group:
        yield group


async def test_the_master_is_found_although_the_first_sentinels_are_gone(
    sentinel: RedisSentinel, opened: Opened
) -> None:
    hosts = f"127.0.0.1:1,127.0.0.1:2,127.0.0.1:{sentinel.sentinels[0].port}"
    client = await opened(f"redis+sentinel://{hosts}/mymaster")
    assert client.kind == "sentinel"
    assert client.nodes == [f"127.0.0.1:{sentinel.master().port}"]


async def test_an_unknown_master_lists_the_known_ones(
    sentinel: RedisSentinel, opened: Opened
) -> None:
    with pytest.raises(Refused, match="knows no master 'other', but mymaster"):
        await opened(sentinel.url.replace("/mymaster", "/other"))


async def test_no_sentinel_at_all_is_told_for_each(opened: Opened) -> None:
    with pytest.raises(Disconnected, match=r"127\.0\.0\.1:1 cannot .*127\.0\.0\.1:2 cannot"):
        await opened("redis+sentinel://127.0.0.1:1,127.0.0.1:2/mymaster")


async def test_a_server_is_no_sentinel_and_a_sentinel_no_server(
    sentinel: RedisSentinel, server: RedisServer, opened: Opened
) -> None:
    with pytest.raises(Refused, match="give a redis:// URL"):
        await opened(f"redis+sentinel://127.0.0.1:{server.port}/mymaster")
    with pytest.raises(Refused, match=r"give a redis\+sentinel:// URL"):
        await opened(f"redis://127.0.0.1:{sentinel.sentinels[0].port}")


async def test_a_killed_master_is_replaced_while_calls_repeat(
    sentinel: RedisSentinel, opened: Opened
) -> None:
    client = await opened(sentinel.url, reply_s=1.0, connect_s=1.0)
    old = await asyncio.to_thread(sentinel.kill_master)
    started = time.monotonic()
    while True:
        try:
            await client.run(INCR, "{t}", ())
            break
        except Disconnected:
            assert time.monotonic() - started < 20
            await asyncio.sleep(0.05)
    new = await asyncio.to_thread(sentinel.wait_new_master, old)
    assert client.nodes == [f"127.0.0.1:{new.port}"]


async def test_an_ordered_failover_is_followed_while_the_old_master_still_takes_writes(
    sentinel: RedisSentinel, opened: Opened
) -> None:
    client = await opened(sentinel.url)
    await client.run(INCR, "{t}", ())
    old = sentinel.master()

    def fail_over() -> None:
        with sentinel.sentinels[0].client() as asked:
            while True:
                try:
                    asked.call("SENTINEL", "FAILOVER", "mymaster")
                    break
                except RespError:  # the one before has not ended yet
                    time.sleep(0.1)
        sentinel.wait_new_master(old)

    blocked = asyncio.create_task(client.block("{t}", "BLPOP", "{t}b", 30, timeout_s=30))
    await asyncio.to_thread(fail_over)
    switched = time.monotonic()
    while client.nodes != [f"127.0.0.1:{sentinel.master().port}"]:
        assert time.monotonic() - switched < 5
        with suppress(Disconnected):
            await client.run(INCR, "{t}", ())
        await asyncio.sleep(0.05)
    with pytest.raises(Disconnected):
        await blocked
