"""Shared by all tests: the event loop, how hard Hypothesis searches, servers."""

import os

import pytest
from hypothesis import HealthCheck, settings

import shared_servers

# No deadlines: a shared machine may stall any example, and that says nothing about Ropeway.
settings.register_profile("dev", deadline=None)
# The same examples on every run: a red CI can be repeated, an unchanged commit stays green.
settings.register_profile("ci", parent=settings.get_profile("dev"), derandomize=True, database=None)
# The search for what nobody thought of: HYPOTHESIS_PROFILE=nightly scripts/test
settings.register_profile(
    "nightly",
    parent=settings.get_profile("dev"),
    max_examples=2_000,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if "CI" in os.environ else "dev")
)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Ropeway runs on asyncio alone, so no async test runs twice."""
    return "asyncio"


@pytest.fixture(scope="session")
def redis_url() -> str:
    return shared_servers.redis_url()


@pytest.fixture(scope="session")
def redis_sentinel_url() -> str:
    return shared_servers.redis_sentinel_url()


@pytest.fixture(scope="session")
def redis_cluster_url() -> str:
    return shared_servers.redis_cluster_url()


def pytest_unconfigure() -> None:
    shared_servers.release()
