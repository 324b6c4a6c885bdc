"""What cannot work is refused at `open`, in words that say what to change."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
from faulted import Load, until

from ropeway.brokers.redis import RedisBroker
from ropeway.errors import BrokerError, ConfigError, Disconnected
from ropeway.testing.servers import RedisServer
from ropeway.testing.servers.ports import free_port

pytestmark = pytest.mark.anyio


async def told(url: str) -> BrokerError:
    broker = RedisBroker(url)
    with pytest.raises(BrokerError) as raised:
        await broker.open()
    return raised.value


async def test_a_port_without_a_server() -> None:
    error = await told(f"redis://127.0.0.1:{free_port()}")
    assert isinstance(error, Disconnected)
    assert "cannot be reached" in str(error)
    assert "Is the server up" in str(error)


@pytest.fixture(params=[b"HTTP/1.1 400 Bad Request\r\n\r\n", b"220 mail ready\r\n", b""])
async def stranger(request: pytest.FixtureRequest) -> AsyncIterator[int]:
    """A port where something else than Redis answers, or hangs up without a word."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(request.param)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def test_a_port_where_something_else_listens(stranger: int) -> None:
    error = await told(f"redis://127.0.0.1:{stranger}")
    assert isinstance(error, Disconnected)
    assert str(stranger) in str(error)
    assert "does not speak Redis's protocol" in str(error) or "closed the connection" in str(error)


async def test_a_port_where_nobody_answers_is_given_up_after_five_seconds() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        async with asyncio.timeout(8):
            error = await told(f"redis://127.0.0.1:{port}")
    assert "no answer within 5 s" in str(error)


async def test_a_wrong_password_is_refused_without_showing_it(server: RedisServer) -> None:
    with server.client() as client:
        client.call("CONFIG", "SET", "requirepass", "right")
    wrong = await told(f"redis://:secret-1@127.0.0.1:{server.port}")
    none = await told(server.url)
    assert isinstance(wrong, ConfigError)
    assert isinstance(none, ConfigError)
    assert "does not know user 'default' with this password" in str(wrong)
    assert "secret-1" not in repr(wrong)
    assert "needs a password" in str(none)


async def test_a_right_that_is_taken_away_is_told_and_given_back_is_used(
    server: RedisServer,
) -> None:
    """An operator who changes rights at run time stops no worker for good."""
    with server.client() as client:
        client.call("ACL", "SETUSER", "ann", "on", ">pw", "~*", "+@all")
    load = Load(server.url_as("ann", "pw"))
    async with load.working(), load.producing(resend=False):
        await until(lambda: load.runs.total() > 20)
        with server.client() as client:
            client.call("ACL", "SETUSER", "ann", "-evalsha")
        await until(lambda: load.errors)
        assert "no permissions to run the 'evalsha' command" in str(load.errors[0])
        with server.client() as client:
            client.call("ACL", "SETUSER", "ann", "+evalsha")
        runs = load.runs.total()
        await until(lambda: load.runs.total() > runs + 20)
    await load.expect_all_done_once()
