"""The fault proxy, between real clients and a real server: each fault is what it says it is."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from typing import NamedTuple

import pytest

from ropeway.errors import ConfigError
from ropeway.verify.faults.proxy import Proxy, server_of

pytestmark = pytest.mark.anyio

SHORT_S = 0.1
LONG_S = 20.0


class Line(NamedTuple):
    """A client's connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def call(self, word: str) -> str:
        """Send a line, and wait for the answer."""
        self.writer.write(f"{word}\n".encode())
        return (await asyncio.wait_for(self.reader.readline(), LONG_S)).decode()

    async def hears_nothing(self) -> bool:
        """No byte comes, and no end."""
        try:
            await asyncio.wait_for(self.reader.read(1), SHORT_S)
        except TimeoutError:
            return True
        return False


Dial = Callable[[], Awaitable[Line]]


class Echo:
    """A server that answers each line in capitals, and keeps what it was told."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                self.heard.append(line.decode().strip())
                writer.write(line.upper())
        except ConnectionError:
            self.heard.append("reset")
        writer.close()


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
async def proxy(echo: Echo) -> AsyncGenerator[Proxy]:
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    async with server, Proxy("127.0.0.1", server.sockets[0].getsockname()[1]) as proxy:
        yield proxy


@pytest.fixture
async def dial(proxy: Proxy) -> AsyncGenerator[Dial]:
    lines: list[Line] = []

    async def connect() -> Line:
        lines.append(Line(*await asyncio.open_connection("127.0.0.1", proxy.port)))
        return lines[-1]

    yield connect
    for line in lines:
        line.writer.close()
        with suppress(OSError):
            await line.writer.wait_closed()


async def test_without_a_fault_bytes_pass_both_ways(proxy: Proxy, dial: Dial) -> None:
    line = await dial()
    assert [await line.call("a"), await line.call("b")] == ["A\n", "B\n"]
    large = "x" * 60_000
    assert await line.call(large) == f"{large.upper()}\n"
    line.writer.write_eof()
    assert await line.reader.read() == b""
    assert proxy.accepted == 1


async def test_the_end_of_what_a_client_sends_is_passed_on_and_the_answers_still_come(
    proxy: Proxy,
    dial: Dial,
) -> None:
    line = await dial()
    line.writer.write(b"a\nb\n")
    line.writer.write_eof()
    assert await line.reader.read() == b"A\nB\n"


async def test_a_cut_ends_open_connections_and_lets_new_ones_pass(
    proxy: Proxy, dial: Dial, echo: Echo
) -> None:
    lines = [await dial(), await dial()]
    assert [await line.call("a") for line in lines] == ["A\n"] * 2
    assert proxy.cut() == 2
    assert [await line.reader.read() for line in lines] == [b""] * 2
    assert await (await dial()).call("b") == "B\n"
    assert "reset" not in echo.heard


async def test_a_cut_by_reset_is_an_error_on_both_sides(
    proxy: Proxy, dial: Dial, echo: Echo
) -> None:
    line = await dial()
    await line.call("a")
    proxy.cut(reset=True)
    with pytest.raises(ConnectionResetError):
        await line.reader.read()
    while "reset" not in echo.heard:  # noqa: ASYNC110 - the server hears of it a moment later
        await asyncio.sleep(0.001)


async def test_half_open_connections_are_accepted_and_swallow_everything(
    proxy: Proxy, dial: Dial, echo: Echo
) -> None:
    before = await dial()
    await before.call("a")
    proxy.swallow()
    during = await dial()
    for line in (before, during):
        line.writer.write(b"lost\n")
        assert await line.hears_nothing()
    await proxy.heal()
    for line in (before, during):
        with pytest.raises(ConnectionResetError):
            await line.reader.read()
    assert await (await dial()).call("b") == "B\n"
    assert "lost" not in echo.heard


async def test_a_connection_that_was_silent_while_half_open_goes_on_afterwards(
    proxy: Proxy,
    dial: Dial,
) -> None:
    line = await dial()
    await line.call("a")
    proxy.swallow()
    await proxy.heal()
    assert await line.call("b") == "B\n"


async def test_a_delay_holds_each_way_up(proxy: Proxy, dial: Dial) -> None:
    line = await dial()
    await line.call("a")
    proxy.slow(delay_s=SHORT_S)
    began_s = time.monotonic()
    assert await line.call("b") == "B\n"
    assert time.monotonic() - began_s >= 2 * SHORT_S


async def test_a_bandwidth_is_not_exceeded(proxy: Proxy, dial: Dial) -> None:
    line = await dial()
    await line.call("a")
    proxy.slow(bytes_per_s=50_000)
    began_s = time.monotonic()
    await line.call("x" * 10_000)
    assert time.monotonic() - began_s >= 0.2


@pytest.mark.parametrize("way", ["to_server", "to_client"])
async def test_a_stall_holds_back_one_way_until_it_is_healed(
    way: str, proxy: Proxy, dial: Dial, echo: Echo
) -> None:
    line = await dial()
    await line.call("a")
    proxy.stall("to_server" if way == "to_server" else "to_client")
    line.writer.write(b"b\n")
    assert await line.hears_nothing()
    assert ("b" in echo.heard) == (way == "to_client")
    await proxy.heal()
    assert await asyncio.wait_for(line.reader.readline(), LONG_S) == b"B\n"


async def test_new_connections_are_refused_and_open_ones_stay(proxy: Proxy, dial: Dial) -> None:
    line, port = await dial(), proxy.port
    await line.call("a")
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        await dial()
    assert await line.call("b") == "B\n"
    await proxy.heal()
    assert proxy.port == port
    assert await (await dial()).call("c") == "C\n"


async def test_a_lost_reply_means_that_the_call_took_effect(
    proxy: Proxy, dial: Dial, echo: Echo
) -> None:
    line = await dial()
    proxy.cut_reply(after_bytes=3)
    line.writer.write(b"pay\nagain\n")
    with pytest.raises(ConnectionResetError):
        await line.reader.read()
    assert echo.heard[0] == "pay"
    assert await (await dial()).call("b") == "B\n"  # it happens once


async def test_clients_of_a_server_that_is_away_are_hung_up_on() -> None:
    async with Proxy("127.0.0.1", 1) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        assert await reader.read() == b""
        writer.close()


async def test_a_url_leads_to_the_proxy(proxy: Proxy) -> None:
    url = "redis://user:secret@example.net:6379/3?x=1"
    assert proxy.url(url) == f"redis://user:secret@127.0.0.1:{proxy.port}/3?x=1"


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("redis://user@db.example.net:6380/0", ("db.example.net", 6380)),
        ("sqlite:///x.db", None),
        ("memory://", None),
    ],
)
async def test_a_server_is_told_by_its_host_and_port(
    url: str, server: tuple[str, int] | None
) -> None:
    assert server_of(url) == server


async def test_a_server_without_a_port_is_refused() -> None:
    with pytest.raises(ConfigError, match="give its port"):
        server_of("redis://db.example.net/0")
