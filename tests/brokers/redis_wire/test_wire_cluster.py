"""A cluster: routing, moved slots, lost nodes."""

import asyncio
import time
from collections.abc import Iterator

import pytest
from opened import Opened

from ropeway.brokers.redis.wire.client import Script
from ropeway.brokers.redis.wire.replies import Refused, ReplyError
from ropeway.brokers.redis.wire.slots import slot_of
from ropeway.errors import Disconnected
from ropeway.testing.servers import RedisCluster, RedisServer, key_slot

pytestmark = pytest.mark.anyio

TAGS = [f"{{q{number}}}" for number in range(30)]
INCR = Script("incr", "return redis.call('incr', KEYS[1] .. 'n')")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    with RedisCluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


def other_master(cluster: RedisCluster, tag: str) -> RedisServer:
    owner = cluster.owner_of(tag)
    return next(node for node in cluster.masters() if node is not owner)


async def test_calls_go_to_the_node_of_their_tag(cluster: RedisCluster, opened: Opened) -> None:
    client = await opened(f"redis+cluster://127.0.0.1:{cluster.nodes[0].port}")
    assert {slot_of(tag) for tag in TAGS} == {key_slot(tag) for tag in TAGS}
    replies = await asyncio.gather(*(client.run(INCR, tag, ()) for tag in TAGS for _ in range(3)))
    assert sorted(replies) == sorted([1, 2, 3] * len(TAGS))
    assert client.kind == "cluster"
    assert client.version
    assert sorted(client.nodes) == sorted(f"127.0.0.1:{n.port}" for n in cluster.masters())
    replies = await client.call_all([(tag, ("GET", f"{tag}n")) for tag in TAGS])
    assert replies == [b"3"] * len(TAGS)


async def test_a_moved_slot_is_followed_by_all_kinds_of_calls(
    cluster: RedisCluster, opened: Opened
) -> None:
    client = await opened(cluster.url)
    tag = "{moved}"
    assert await client.run(INCR, tag, ()) == 1
    for turn in range(3):
        target = await asyncio.to_thread(other_master, cluster, tag)
        await asyncio.to_thread(cluster.move_slots, [slot_of(tag)], target)
        if turn == 0:
            assert await client.run(INCR, tag, ()) == 2
        elif turn == 1:
            replies = await client.call_all(
                [(tag, ("INCR", f"{tag}n")), (tag, ("INCR", f"{tag}n")), ("{x}", ("GET", "{x}"))]
            )
            assert replies == [3, 4, None]
        else:
            await client.call(tag, "RPUSH", f"{tag}l", 1)
            got = await client.block(tag, "BLPOP", f"{tag}l", 1, timeout_s=1)
            assert got == [f"{tag}l".encode(), b"1"]


async def test_during_a_move_single_keys_are_followed_and_scripts_wait(
    cluster: RedisCluster, opened: Opened
) -> None:
    client = await opened(cluster.url)
    tag = "{half}"
    assert await client.run(INCR, tag, ()) == 1
    await client.call(tag, "SET", f"{tag}k", "v")
    target = await asyncio.to_thread(other_master, cluster, tag)
    move = await asyncio.to_thread(cluster.begin_move, slot_of(tag), target)
    # Part of the slot is there, part here; what is new goes to the target.
    await asyncio.to_thread(move.migrate, 1)
    assert await client.call(tag, "GET", f"{tag}k") == b"v"
    assert await client.call(tag, "GET", f"{tag}n") == b"1"
    assert await client.call(tag, "SET", f"{tag}new", 1) == b"OK"
    assert await client.block(tag, "BLPOP", f"{tag}none", 0.1, timeout_s=0.1) is None
    assert await client.call_all([(tag, ("GET", f"{tag}k")), (tag, ("GET", f"{tag}new"))]) == [
        b"v",
        b"1",
    ]
    script = asyncio.create_task(client.run(INCR, tag, ()))
    await asyncio.sleep(0.2)
    assert not script.done()
    await asyncio.to_thread(move.finish)
    assert await script == 2


async def test_a_move_that_lasts_fails_scripts_as_away(
    cluster: RedisCluster, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ropeway.brokers.redis.wire.cluster._PATIENCE_S", 0.2)
    client = await opened(cluster.url)
    tag = "{lasting}"
    target = await asyncio.to_thread(other_master, cluster, tag)
    move = await asyncio.to_thread(cluster.begin_move, slot_of(tag), target)
    with pytest.raises(Disconnected, match="moving the slot"):
        await client.run(INCR, tag, ())
    await asyncio.to_thread(move.finish)
    assert await client.run(INCR, tag, ()) == 1


async def test_an_error_reply_is_an_item_or_raised(cluster: RedisCluster, opened: Opened) -> None:
    client = await opened(cluster.url)
    await client.call("{e}", "SET", "{e}", 1)
    with pytest.raises(ReplyError, match="WRONGTYPE"):
        await client.call("{e}", "LLEN", "{e}")
    replies = await client.call_all([("{e}", ("LLEN", "{e}")), ("{f}", ("GET", "{f}"))])
    assert isinstance(replies[0], ReplyError)
    assert replies[1] is None


async def test_the_wrong_kind_of_url_is_told(
    cluster: RedisCluster, server: RedisServer, opened: Opened
) -> None:
    with pytest.raises(Refused, match=r"give a redis\+cluster:// URL"):
        await opened(cluster.nodes[0].url)
    with pytest.raises(Refused, match="give a redis:// URL"):
        await opened(f"redis+cluster://127.0.0.1:{server.port}")


async def test_no_node_at_all_is_told_for_each(opened: Opened) -> None:
    with pytest.raises(Disconnected, match=r"127\.0\.0\.1:1 cannot .*127\.0\.0\.1:2 cannot"):
        await opened("redis+cluster://127.0.0.1:1,127.0.0.1:2")


async def test_a_killed_master_is_replaced_while_calls_repeat(
    cluster: RedisCluster, opened: Opened
) -> None:
    client = await opened(cluster.url, reply_s=1.0)
    await asyncio.gather(*(client.run(INCR, tag, ()) for tag in TAGS))
    await asyncio.to_thread(cluster.kill_master)
    started = time.monotonic()
    missing = list(TAGS)
    while missing:
        results = await asyncio.gather(
            *(client.run(INCR, tag, ()) for tag in missing), return_exceptions=True
        )
        assert all(isinstance(result, int | Disconnected) for result in results)
        missing = [t for t, r in zip(missing, results, strict=True) if not isinstance(r, int)]
        assert time.monotonic() - started < 20
        await asyncio.sleep(0.05)
