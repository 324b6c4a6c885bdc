"""A TCP proxy that does to connections what a bad network does to them.

It sits between clients and a server, on a port of its own on 127.0.0.1. Until a fault is asked for
it only passes bytes on. A fault lasts until `heal`, if it is not over at once; a second one comes
on top.
"""

import asyncio
import socket
import struct
from contextlib import suppress
from typing import Final, Literal, Self
from urllib.parse import urlsplit, urlunsplit

from ropeway.errors import ConfigError

Way = Literal["to_server", "to_client"]

CHUNK: Final = 65_536
SLICE_S: Final = 0.02
"""With a bandwidth, so much time's worth of bytes is passed on at once."""
_NO_LINGER: Final = struct.pack("ii", 1, 0)


class Proxy:
    """Listens while it is entered.

    Args:
        host: of the server.
        port: of the server.

    Attributes:
        port: the proxy's own; it stays the same.
        accepted: how many connections it has accepted.

    """

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._listener: asyncio.Server | None = None
        self._pipes: set[_Pipe] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._swallows = False
        self._delay_s = 0.0
        self._bytes_per_s = 0
        self._reply_left: int | None = None
        self._moves: dict[Way, asyncio.Event] = {}
        self.port: int = 0
        self.accepted: int = 0

    async def __aenter__(self) -> Self:
        self._moves = {"to_server": asyncio.Event(), "to_client": asyncio.Event()}
        await self.heal()
        return self

    async def __aexit__(self, *_error: object) -> None:
        self._close_listener()
        self.cut()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def url(self, url: str) -> str:
        """The URL of the server, with the proxy in its place."""
        parts = urlsplit(url)
        account, at, _ = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{account}{at}127.0.0.1:{self.port}"))

    # -- faults -----------------------------------------------------------------------------------

    def cut(self, *, reset: bool = False) -> int:
        """Close every connection, by FIN or by RST, on both sides; how many. New ones pass."""
        pipes, self._pipes = self._pipes, set()
        for pipe in pipes:
            pipe.cut(reset=reset)
        return len(pipes)

    def swallow(self) -> None:
        """Half-open: connections are accepted and stay, and nothing that is sent ever arrives."""
        self._swallows = True

    def slow(self, *, delay_s: float = 0.0, bytes_per_s: int = 0) -> None:
        """Pass bytes on later, and no more of them in a second (0: any number), each way."""
        self._delay_s, self._bytes_per_s = delay_s, bytes_per_s

    def stall(self, way: Way) -> None:
        """Hold back what goes one way; it arrives when all is healed."""
        self._moves[way].clear()

    def refuse(self) -> None:
        """Refuse new connections; those that are open stay."""
        self._close_listener()

    def cut_reply(self, *, after_bytes: int) -> None:
        """Reset the connection once so many more bytes have come back to clients.

        The server has done what it was asked for, and its client does not hear of it. It happens
        once, to the connection that brings the last of these bytes.
        """
        self._reply_left = after_bytes

    async def heal(self) -> None:
        """End all faults. Connections whose bytes were swallowed are reset: they have a hole."""
        self._swallows, self._reply_left = False, None
        self.slow()
        for pipe in [pipe for pipe in self._pipes if pipe.has_hole]:
            self._pipes.discard(pipe)
            pipe.cut(reset=True)
        for moves in self._moves.values():
            moves.set()
        if self._listener is None:
            self._listener = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
            self.port = self._listener.sockets[0].getsockname()[1]

    # -- passing on -------------------------------------------------------------------------------

    def _close_listener(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "a connection is served by a task"
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        self.accepted += 1
        try:
            server_reader, server_writer = await asyncio.open_connection(*self._server)
        except OSError:
            writer.transport.abort()
            return
        pipe = _Pipe(writer, server_writer)
        self._pipes.add(pipe)
        with suppress(OSError):
            await asyncio.gather(
                self._pump(reader, server_writer, "to_server", pipe),
                self._pump(server_reader, writer, "to_client", pipe),
            )
        self._pipes.discard(pipe)
        pipe.cut(reset=False)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Way, pipe: "_Pipe"
    ) -> None:
        while data := await reader.read(self._most_at_once()):
            if self._delay_s or self._bytes_per_s:
                pace_s = len(data) / self._bytes_per_s if self._bytes_per_s else 0.0
                await asyncio.sleep(self._delay_s + pace_s)
            await self._moves[way].wait()
            if self._swallows:
                pipe.has_hole = True
                continue
            if way == "to_client" and self._reply_left is not None:
                data = data[: self._reply_left]
                self._reply_left -= len(data)
            writer.write(data)
            await writer.drain()
            if way == "to_client" and self._reply_left == 0:
                self._reply_left = None
                self._pipes.discard(pipe)
                pipe.cut(reset=True)
                return
        with suppress(OSError):  # a closed half: what goes the other way still passes
            writer.write_eof()

    def _most_at_once(self) -> int:
        return max(1, int(self._bytes_per_s * SLICE_S)) if self._bytes_per_s else CHUNK


class _Pipe:
    """The two connections that make one."""

    def __init__(self, *writers: asyncio.StreamWriter) -> None:
        self._writers = writers
        self.has_hole = False

    def cut(self, *, reset: bool) -> None:
        for writer in self._writers:
            if not reset:
                writer.close()
                continue
            with suppress(OSError):
                writer.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER
                )
            writer.transport.abort()


def server_of(url: str) -> tuple[str, int] | None:
    """Host and port of the server that a URL names; None where it names a file or nothing.

    Raises:
        ConfigError: a host without a port.
    """
    parts = urlsplit(url)
    if parts.hostname is None:
        return None
    if parts.port is None:
        raise ConfigError(f"{parts.hostname}: give its port too; a proxy is put in its place")
    return parts.hostname, parts.port
