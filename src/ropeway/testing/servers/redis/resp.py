"""A blocking client for the few commands that starting and breaking servers takes."""

import socket
import ssl
from types import TracebackType
from typing import BinaryIO, Self, cast

from ropeway.testing.servers.ports import HOST

Reply = int | str | bytes | None | list["Reply"]
"""A simple string comes as `str`, a bulk string as `bytes`."""


class RespError(Exception):
    """The server answered with an error; the message is its text."""


class RespClient:
    """One connection to a Redis server (RESP 2); not for several threads.

    Args:
        port: of 127.0.0.1.
        tls: when given, the connection is encrypted and the server's certificate checked.
        timeout: seconds that connecting and each answer may take.

    Raises:
        OSError: the server cannot be reached, here and in every call.

    """

    def __init__(
        self, port: int, *, tls: ssl.SSLContext | None = None, timeout: float = 5.0
    ) -> None:
        plain = socket.create_connection((HOST, port), timeout)
        try:
            self._socket = plain if tls is None else tls.wrap_socket(plain, server_hostname=HOST)
        except OSError:
            plain.close()
            raise
        self._answers = cast(BinaryIO, self._socket.makefile("rb"))

    def call(self, *words: str | bytes | int) -> Reply:
        """Send a command and read its answer; errors inside of arrays come as strings.

        Raises:
            RespError: the server refused the command.
            OSError: the connection is lost or too slow; make a new client.

        """
        raw = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        parts = [b"*%d\r\n" % len(raw), *(b"$%d\r\n%b\r\n" % (len(word), word) for word in raw)]
        self._socket.sendall(b"".join(parts))
        return self._read()

    def text(self, *words: str | bytes | int) -> str:
        """Send a command whose answer is one string.

        Raises:
            RespError: the server refused the command.
            OSError: the connection is lost or too slow; make a new client.

        """
        reply = self.call(*words)
        return reply.decode() if isinstance(reply, bytes) else str(reply)

    def facts(self, *words: str) -> dict[str, str]:
        """Send a command that answers with lines of `name:value`, such as INFO; what they say."""
        lines = (line.partition(":") for line in self.text(*words).splitlines())
        return {name: value for name, colon, value in lines if colon}

    def close(self) -> None:
        """Close the connection."""
        self._answers.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _read(self, *, inside: bool = False) -> Reply:
        line = self._answers.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionResetError("the server closed the connection")
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            if inside:
                return rest.decode()
            raise RespError(rest.decode())
        if kind == b"+":
            return rest.decode()
        if kind == b":":
            return int(rest)
        size = int(rest)
        if size < 0:
            return None
        if kind == b"*":
            return [self._read(inside=True) for _ in range(size)]
        data = self._answers.read(size + 2)
        if len(data) != size + 2:
            raise ConnectionResetError("the server closed the connection")
        return data[:-2]
