"""Servers that a test may break: each has its own."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ropeway.testing.servers import RedisSentinel, RedisServer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def sentinel(tmp_path: Path) -> Iterator[RedisSentinel]:
    with RedisSentinel(tmp_path / "sentinel") as servers:
        yield servers


@pytest.fixture(scope="session")
def kills() -> int:
    """How often a server is killed; more in the nightly run."""
    return 50 if os.environ.get("HYPOTHESIS_PROFILE") == "nightly" else 6
