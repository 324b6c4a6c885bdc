"""Pipelining, cancellation, lost and half-open connections, on both event loops."""

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opened import Opened

from ropeway.brokers.redis.wire.client import Client, Script
from ropeway.brokers.redis.wire.replies import Lost, ReplyError
from ropeway.errors import Disconnected
from ropeway.testing.servers import RedisServer

pytestmark = pytest.mark.anyio

ECHO = Script("echo", "return ARGV[1]")


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


@pytest.fixture
def own(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that the test may break."""
    with RedisServer(tmp_path) as server:
        yield server


async def told(act: Callable[[], Any]) -> Any:
    """Let the server's own client work without holding up the loop."""
    return await asyncio.to_thread(act)


async def stat(server: RedisServer, section: str, name: str) -> int:
    """A number out of INFO, asked on a connection of its own."""

    def ask() -> int:
        with server.client() as client:
            return int(client.facts("INFO", section)[name])

    return await told(ask)


async def calls_of(client: Client, name: str) -> int:
    lines = (await client.call("", "INFO", "commandstats")).decode().splitlines()
    return next((int(x.split("=")[1].split(",")[0]) for x in lines if x.startswith(name)), 0)


async def test_concurrent_callers_get_their_own_replies(
    server: RedisServer, opened: Opened
) -> None:
    client = await opened(server.url)
    replies = await asyncio.gather(*(client.run(ECHO, "{t}", (i,)) for i in range(1000)))
    assert replies == [b"%d" % i for i in range(1000)]
    assert client.kind == "standalone"
    assert client.version.split(".")[0].isdigit()
    assert client.nodes == [f"127.0.0.1:{server.port}"]


async def test_the_first_caller_of_a_turn_leaves_at_once_and_the_others_together(
    server: RedisServer, opened: Opened
) -> None:
    client = await opened(server.url)
    link = client._node.linked  # type: ignore[attr-defined]
    writes: list[int] = []
    write = link._transport.write

    class Counting:
        def write(self, data: bytes) -> None:
            writes.append(len(data))
            write(data)

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

    real, link._transport = link._transport, Counting()
    await asyncio.gather(*(client.call("", "PING") for _ in range(100)))
    assert len(writes) == 2
    assert writes[1] == 99 * writes[0]


async def test_a_cancelled_caller_takes_only_itself_out(
    server: RedisServer, opened: Opened
) -> None:
    client = await opened(server.url)
    tasks = [asyncio.create_task(client.run(ECHO, "{t}", (i,))) for i in range(10)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert results[1::2] == [b"%d" % i for i in range(1, 10, 2)]
    assert all(isinstance(result, asyncio.CancelledError) for result in results[::2])
    assert await client.run(ECHO, "{t}", ("next",)) == b"next"


async def test_an_unknown_script_is_loaded_once_for_all(own: RedisServer, opened: Opened) -> None:
    client = await opened(own.url)
    for loads in (1, 2):
        await client.call("", "SCRIPT", "FLUSH")
        replies = await asyncio.gather(*(client.run(ECHO, "{t}", (i,)) for i in range(50)))
        assert replies == [b"%d" % i for i in range(50)]
        assert await calls_of(client, "cmdstat_script|load") == loads


async def test_a_batch_answers_by_position_and_errors_are_items(
    server: RedisServer, opened: Opened
) -> None:
    client = await opened(server.url)
    key = "{t}list"
    replies = await client.call_all(
        [(key, ("DEL", key)), (key, ("RPUSH", key, 1)), (key, ("GET", key)), (key, ("LLEN", key))]
    )
    assert [type(reply) for reply in replies] == [int, int, ReplyError, int]
    assert replies[2].code == "WRONGTYPE"
    assert replies[3] == 1
    assert await client.call_all([]) == []


async def test_an_error_of_a_script_keeps_its_code(server: RedisServer, opened: Opened) -> None:
    client = await opened(server.url)
    script = Script("no", "return redis.error_reply('MINE says no')")
    with pytest.raises(ReplyError, match="says no") as caught:
        await client.run(script, "{t}", ())
    assert (caught.value.code, caught.value.message) == ("MINE", "says no")


async def test_big_values_pass_between_small_ones(server: RedisServer, opened: Opened) -> None:
    client = await opened(server.url)
    big = bytes(range(256)) * 32 * 1024
    results = await asyncio.gather(
        client.call("", "SET", "{t}small", 1),
        client.call("", "SET", "{t}big", big),
        client.call("", "GET", "{t}small"),
        client.call("", "GET", "{t}big"),
        client.call("", "STRLEN", "{t}big"),
    )
    assert results[2:] == [b"1", big, len(big)]
    await client.call("", "DEL", "{t}big")


async def test_a_killed_connection_fails_those_in_flight_and_one_reconnect_serves_all(
    own: RedisServer, opened: Opened
) -> None:
    client = await opened(own.url)
    await told(own.pause)
    tasks = [asyncio.create_task(client.call("", "INCR", "n")) for _ in range(20)]
    await asyncio.sleep(0.05)
    await told(own.kill)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(result) for result in results} == {Lost}
    assert f"127.0.0.1:{own.port}" in str(results[0])
    assert "not known" in str(results[0])
    with pytest.raises(Disconnected, match="cannot be reached") as caught:
        await client.call("", "PING")
    assert not isinstance(caught.value, Lost)
    await told(own.start)
    received = await stat(own, "stats", "total_connections_received")
    await asyncio.gather(*(client.call("", "INCR", "n") for _ in range(20)))
    now = await stat(own, "stats", "total_connections_received")
    assert now - received == 2  # the client's and the one that asks


async def test_client_kill_is_survived(own: RedisServer, opened: Opened) -> None:
    client = await opened(own.url)

    def kill_all_others() -> None:
        with own.client() as other:
            other.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    await told(kill_all_others)
    await asyncio.sleep(0.05)
    assert await client.call("", "PING") == b"PONG"


async def test_a_server_that_hangs_is_noticed_by_all_callers_at_once(
    own: RedisServer, opened: Opened
) -> None:
    client = await opened(own.url, reply_s=0.5)
    await told(own.pause)
    started = time.monotonic()
    results = await asyncio.gather(
        *(client.call("", "PING") for _ in range(5)), return_exceptions=True
    )
    lasted = time.monotonic() - started
    assert {type(result) for result in results} == {Lost}
    assert "has not answered for 0.5 s" in str(results[0])
    assert 0.45 < lasted < 2.0
    await told(own.resume)
    assert await client.call("", "PING") == b"PONG"


async def test_no_answer_to_the_handshake_ends_the_attempt(
    own: RedisServer, opened: Opened
) -> None:
    await told(own.pause)
    with pytest.raises(Disconnected, match="no answer within 0.3 s"):
        await opened(own.url, connect_s=0.3)
    await told(own.resume)


async def test_slow_replies_are_no_loss_while_bytes_come(own: RedisServer, opened: Opened) -> None:
    client = await opened(own.url, reply_s=0.5)
    for _ in range(4):  # longer in all than the deadline
        await asyncio.sleep(0.2)
        assert await client.call("", "PING") == b"PONG"


async def test_a_held_up_loop_is_not_taken_for_a_dead_server(
    server: RedisServer, opened: Opened
) -> None:
    client = await opened(server.url, reply_s=0.2)
    call = asyncio.create_task(client.call("", "PING"))
    await asyncio.sleep(0.001)
    time.sleep(0.5)  # noqa: ASYNC251 - a handler that computes without giving way
    assert await call == b"PONG"


async def test_blocking_calls_do_not_hold_up_others(server: RedisServer, opened: Opened) -> None:
    client = await opened(server.url)
    blocked = asyncio.create_task(client.block("{t}", "BLPOP", "{t}b", 5, timeout_s=5))
    await asyncio.sleep(0.05)
    assert await client.call("{t}", "PING") == b"PONG"
    await client.call("{t}", "RPUSH", "{t}b", "x")
    assert await blocked == [b"{t}b", b"x"]
    assert await client.block("{t}", "BLPOP", "{t}b", 0.1, timeout_s=0.1) is None


async def test_a_cancelled_blocking_call_leaves_no_reply_to_the_next(
    server: RedisServer, opened: Opened
) -> None:
    client = await opened(server.url)
    for _ in range(2):
        blocked = asyncio.create_task(client.block("{t}", "BLPOP", "{t}c", 5, timeout_s=5))
        await asyncio.sleep(0.05)
        blocked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await blocked
    await asyncio.sleep(0.05)  # the server has seen the end of both connections
    await client.call("{t}", "RPUSH", "{t}c", "kept")
    assert await client.block("{t}", "BLPOP", "{t}c", 1, timeout_s=1) == [b"{t}c", b"kept"]


async def test_blocking_connections_are_used_again(own: RedisServer, opened: Opened) -> None:
    client = await opened(own.url)
    for _ in range(5):
        await client.block("{t}", "BLPOP", "{t}d", 0.01, timeout_s=0.01)
    # The shared one, the blocking one, and the one that asks.
    assert await stat(own, "clients", "connected_clients") == 3


async def test_a_blocking_call_to_a_hanging_server_ends(own: RedisServer, opened: Opened) -> None:
    client = await opened(own.url, reply_s=0.3)
    blocked = asyncio.create_task(client.block("{t}", "BLPOP", "{t}e", 0.3, timeout_s=0.3))
    await asyncio.sleep(0.05)
    await told(own.pause)
    with pytest.raises(Lost):
        await asyncio.wait_for(blocked, 3)
    await told(own.resume)


async def test_close_may_be_repeated_and_fails_those_in_flight(
    own: RedisServer, opened: Opened
) -> None:
    client = await opened(own.url)
    blocked = asyncio.create_task(client.block("", "BLPOP", "x", 5, timeout_s=5))
    await asyncio.sleep(0.05)
    await told(own.pause)
    call = asyncio.create_task(client.call("", "PING"))
    await asyncio.sleep(0.05)
    await client.close()
    await client.close()
    results = await asyncio.gather(call, blocked, return_exceptions=True)
    assert [type(result) for result in results] == [Lost, Lost]
    await told(own.resume)
    with pytest.raises(Disconnected, match="closed"):
        await client.call("", "PING")
    await client.open()
    assert await client.call("", "PING") == b"PONG"


async def test_callers_who_wait_for_a_connection_learn_of_the_close(
    own: RedisServer, opened: Opened
) -> None:
    client = await opened(own.url, reply_s=0.2)
    await told(own.pause)
    await asyncio.gather(client.call("", "PING"), return_exceptions=True)
    calls = [asyncio.create_task(client.call("", "PING")) for _ in range(3)]
    calls[0].cancel()
    await asyncio.sleep(0.05)
    await client.close()
    results = await asyncio.gather(*calls, return_exceptions=True)
    await told(own.resume)
    assert [type(result) for result in results] == [
        asyncio.CancelledError,
        Disconnected,
        Disconnected,
    ]


async def test_a_long_upload_that_moves_is_no_loss(opened: Opened) -> None:
    """A reader slower than the deadline, but steady."""
    total = 24_000_000

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"ropeway\r\n")
        writer.write(b"-ERR none\r\n+OK\r\n")
        got = 0
        while got < total:
            got += len(await reader.read(400_000))
            await asyncio.sleep(0.02)
        writer.write(b"+OK\r\n")
        await writer.drain()
        await reader.read()
        writer.close()

    other = await asyncio.start_server(slow, "127.0.0.1", 0)
    async with other:
        port = other.sockets[0].getsockname()[1]
        client = await opened(f"redis://127.0.0.1:{port}", reply_s=0.5)
        started = time.monotonic()
        assert await client.call("", "SET", "k", b"x" * total) == b"OK"
        assert time.monotonic() - started > 0.8
        await client.close()
