"""Users, databases, TLS, socket files, servers of another kind, and full or read-only ones."""

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from opened import Opened

from ropeway.brokers.redis.wire.address import parse
from ropeway.brokers.redis.wire.client import Script, connect
from ropeway.brokers.redis.wire.replies import Refused
from ropeway.errors import ConfigError, Disconnected, StorageFull, StorageReadOnly
from ropeway.testing.servers import RedisServer

pytestmark = pytest.mark.anyio

USERS = {
    "requirepass": "secret",
    "user": ["limited on >pw resetchannels ~q:* +get +set +eval +evalsha +script|load"],
}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("guarded"), options=USERS) as server:
        yield server


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("tls"), tls=True) as server:
        yield server


async def test_a_password_lets_in(guarded: RedisServer, opened: Opened) -> None:
    client = await opened(guarded.url)
    assert b"name=ropeway" in await client.call("", "CLIENT", "LIST")


async def test_without_the_password_the_error_says_where_to_put_it(
    guarded: RedisServer, opened: Opened
) -> None:
    with pytest.raises(Refused, match="redis://user:password@host") as caught:
        await opened(f"redis://127.0.0.1:{guarded.port}")
    assert isinstance(caught.value, ConfigError)


async def test_a_wrong_password_names_the_user_and_is_not_shown(
    guarded: RedisServer, opened: Opened
) -> None:
    with pytest.raises(Refused, match="'limited'") as caught:
        await opened(guarded.url_as("limited", "not-this-one"))
    assert "not-this-one" not in str(caught.value)


async def test_a_password_that_the_server_has_not_is_refused(
    server: RedisServer, opened: Opened
) -> None:
    with pytest.raises(Refused, match="leave it out"):
        await opened(f"redis://:secret@127.0.0.1:{server.port}")


async def test_a_user_with_few_rights_connects_and_learns_which_are_missing(
    guarded: RedisServer, opened: Opened
) -> None:
    client = await opened(guarded.url_as("limited", "pw"))
    assert await client.run(Script("one", "return redis.call('set', 'q:1', 1)"), "q:", ()) == b"OK"
    with pytest.raises(Refused, match="user 'limited' lacks a right .*ACL SETUSER limited"):
        await client.call("", "FLUSHALL")
    with pytest.raises(Refused, match="user 'limited' lacks a right"):
        await client.run(Script("two", "return redis.call('flushall')"), "q:", ())


async def test_databases_are_apart(server: RedisServer, opened: Opened) -> None:
    url = f"redis://127.0.0.1:{server.port}"
    one, other = await opened(f"{url}/1"), await opened(f"{url}?db=2")
    await one.call("", "SET", "k", 1)
    assert await other.call("", "GET", "k") is None
    with pytest.raises(Refused, match="give a smaller one"):
        await opened(f"{url}/9999")


async def test_a_socket_file_is_a_way_in(opened: Opened) -> None:
    folder = Path(tempfile.mkdtemp(prefix="rw"))  # a socket's path has to be short
    try:
        with RedisServer(folder) as server:
            path = server.unix_url.rpartition("unix://")[2]
            client = await opened(f"redis+unix://{path}")
            assert await client.call("", "PING") == b"PONG"
            assert client.nodes == [str(folder / "redis.sock")]
            await client.close()
            with pytest.raises(Disconnected, match=r"gone\.sock cannot be reached"):
                await opened(f"redis+unix://{folder}/gone.sock")
    finally:
        shutil.rmtree(folder)


async def test_tls_carries_big_values(encrypted: RedisServer, opened: Opened) -> None:
    client = await opened(encrypted.url)
    big = b"x" * 2_000_000
    await client.call("", "SET", "big", big)
    assert await client.call("", "GET", "big") == big


async def test_an_unknown_authority_is_refused(encrypted: RedisServer, opened: Opened) -> None:
    with pytest.raises(Refused, match="not trusted .*ssl_ca_certs"):
        await opened(f"rediss://127.0.0.1:{encrypted.port}")
    client = await opened(f"rediss://127.0.0.1:{encrypted.port}?ssl_cert_reqs=none")
    assert await client.call("", "PING") == b"PONG"


async def test_a_host_that_the_certificate_does_not_name_is_refused(
    encrypted: RedisServer, opened: Opened
) -> None:
    url = encrypted.url.replace("127.0.0.1", "127.0.0.2")
    with pytest.raises((Refused, Disconnected)):
        await opened(url)


async def test_tls_or_not_is_hinted_at(
    server: RedisServer, encrypted: RedisServer, opened: Opened
) -> None:
    with pytest.raises(Disconnected, match="write redis instead of rediss"):
        await opened(f"rediss://127.0.0.1:{server.port}", connect_s=0.3)
    with pytest.raises(Disconnected, match="write rediss instead of redis"):
        await opened(f"redis://127.0.0.1:{encrypted.port}")


def test_a_missing_tls_file_is_named() -> None:
    with pytest.raises(ConfigError, match="/nowhere/ca.pem"):
        connect(parse("rediss://h?ssl_ca_certs=/nowhere/ca.pem")[0])


async def test_what_is_not_redis_is_told_apart(opened: Opened) -> None:
    async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1_000)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    other = await asyncio.start_server(web, "127.0.0.1", 0)
    async with other:
        port = other.sockets[0].getsockname()[1]
        with pytest.raises(Disconnected, match="does not speak Redis's protocol"):
            await opened(f"redis://127.0.0.1:{port}")


async def test_a_host_that_does_not_exist_is_named(opened: Opened) -> None:
    with pytest.raises(Disconnected, match=r"no-such-host\.invalid:6379 cannot be reached"):
        await opened("redis://no-such-host.invalid")


async def test_a_server_without_room_for_connections_says_so(
    tmp_path: Path, opened: Opened
) -> None:
    with RedisServer(tmp_path, options={"maxclients": "2"}) as server:
        await opened(server.url)
        await opened(server.url)
        with pytest.raises(Disconnected, match="maxclients"):
            await opened(server.url)


async def test_a_full_server_writes_nothing(tmp_path: Path, opened: Opened) -> None:
    with RedisServer(tmp_path, options={"maxmemory-policy": "noeviction"}) as server:
        client = await opened(server.url)
        script = Script("set", "return redis.call('set', KEYS[1], ARGV[1])")
        await client.run(script, "k", (1,))
        await client.call("", "CONFIG", "SET", "maxmemory", 1)
        with pytest.raises(StorageFull, match="maxmemory"):
            await client.call("k", "SET", "k", 2)
        with pytest.raises(StorageFull, match="maxmemory"):
            await client.run(script, "k", (2,))
        assert await client.call("k", "GET", "k") == b"1"


async def test_a_replica_is_read_only(tmp_path: Path, opened: Opened) -> None:
    with RedisServer(tmp_path) as server:
        client = await opened(server.url)
        await client.call("", "SET", "k", 1)
        await client.call("", "REPLICAOF", "127.0.0.1", 1)
        with pytest.raises(StorageReadOnly, match=r"redis\+sentinel://"):
            await client.call("", "SET", "k", 2)
        assert await client.call("", "GET", "k") == b"1"
        await client.call("", "REPLICAOF", "NO", "ONE")
        assert await client.call("", "SET", "k", 2) == b"OK"


async def test_a_busy_server_is_away(tmp_path: Path, opened: Opened) -> None:
    with RedisServer(tmp_path, options={"busy-reply-threshold": "50"}) as server:
        client, other = await opened(server.url), await opened(server.url)
        endless = asyncio.create_task(client.run(Script("endless", "while true do end"), "", ()))
        await asyncio.sleep(0.3)
        with pytest.raises(Disconnected, match="SCRIPT KILL"):
            await other.call("", "GET", "k")
        await other.call("", "SCRIPT", "KILL")
        with pytest.raises(Exception, match="Script killed"):
            await endless
