"""`GET /health` on 127.0.0.1, for the probes of Kubernetes and the like."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Callable
from typing import Final

from ropeway.errors import ConfigError

REQUEST_MAX_S: Final = 5.0


@contextlib.asynccontextmanager
async def serve(port: int, report: Callable[[], tuple[bool, str]]) -> AsyncGenerator[int]:
    """Answer 200 while `report()` says that all is well, else 503, with its words as JSON.

    Yields the port, which the system chooses for 0. That the loop is alive is told by an answer
    coming at all.

    Raises:
        ConfigError: the port is taken, or may not be used.
    """

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, TimeoutError, ValueError):
            async with asyncio.timeout(REQUEST_MAX_S):
                request = await reader.readline()
                while (await reader.readline()).strip():
                    pass
                writer.write(_response(request, *report()))
                await writer.drain()
        writer.close()

    try:
        server = await asyncio.start_server(answer, "127.0.0.1", port)
    except OSError as error:
        raise ConfigError(
            f"health_port={port} cannot be served ({error.strerror}); give another port, or 0 for "
            "a free one"
        ) from error
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


def _response(request: bytes, is_well: bool, words: str) -> bytes:  # noqa: FBT001 - a pair
    path = [*request.split(), b"", b""][1].partition(b"?")[0]
    if path not in {b"/health", b"/healthz", b"/"}:
        status, words = "404 Not Found", "try /health"
    else:
        status = "200 OK" if is_well else "503 Service Unavailable"
    body = json.dumps({"ok": is_well, "status": words}).encode()
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
