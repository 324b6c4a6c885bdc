"""Clients that are closed after each test, and a server for the tests that do not break it."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from opened import Opened

from ropeway.brokers.redis.wire.address import parse
from ropeway.brokers.redis.wire.client import Client, connect
from ropeway.testing.servers import RedisServer


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
async def opened() -> AsyncIterator[Opened]:
    """Opens the client of a URL; the options are those of `connect`."""
    clients: list[Client] = []

    async def open_client(url: str, **options: Any) -> Client:
        client = connect(parse(url)[0], **options)
        clients.append(client)
        await client.open()
        return client

    yield open_client
    for client in clients:
        await client.close()
