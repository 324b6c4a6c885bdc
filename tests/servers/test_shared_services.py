"""Servers that several processes share: started once, ended by the last."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import shared_servers
from ropeway.testing.servers import SERVICES, RedisServer, ServerError, Services
from ropeway.testing.servers.process import ServerProcess, look


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    services = Services(tmp_path / "services")
    yield services
    for name in SERVICES:
        services.stop(name)


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ropeway.testing.servers", *arguments],
        env={**os.environ, "ROPEWAY_SERVICES": str(folder)},
        capture_output=True,  # would hang if a server held the pipe
        text=True,
        check=False,
        timeout=60,
    )


def test_parallel_starts_start_one_server(services: Services) -> None:
    with ThreadPoolExecutor(4) as pool:
        urls = set(pool.map(lambda _: services.start("redis"), range(4)))
    assert urls == {services.url("redis")}
    assert len(services.pids("redis")) == 1


def test_a_kept_service_stays_when_its_users_leave(services: Services) -> None:
    services.start("redis")
    services.start("redis", user=os.getpid())
    assert not services.stop("redis", user=os.getpid())
    assert services.url("redis")
    assert services.stop("redis")
    assert services.url("redis") is None


def test_the_last_user_ends_a_service(services: Services) -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        services.start("redis", user=os.getpid())
        services.start("redis", user=other.pid)
        assert not services.stop("redis", user=os.getpid())
        services.start("redis", user=os.getpid())
        [pid] = services.pids("redis")
        other.kill()
    # The other one ended without a word, and does not count.
    assert services.stop("redis", user=os.getpid())
    assert look(pid) is None


def test_a_service_that_died_is_started_anew(services: Services) -> None:
    services.start("redis")
    [pid] = services.pids("redis")
    seen = look(pid)
    assert seen
    ServerProcess(pid, seen[1]).kill()
    assert services.url("redis") is None
    services.start("redis")
    assert services.pids("redis") != [pid]


def test_a_start_that_fails_leaves_nothing_but_its_log(
    services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(folder: Path) -> str:
        RedisServer(folder, detached=True).start()
        raise ServerError("the second one did not start")

    broken = SERVICES["redis"]._replace(start=fail)
    monkeypatch.setitem(SERVICES, "redis", broken)
    with pytest.raises(ServerError, match="second one"):
        services.start("redis")
    assert services.pids("redis") == []
    assert (tmp_path / "services" / "redis" / "server.log").exists()


def test_the_command_starts_all_shows_them_and_leaves_nothing(tmp_path: Path) -> None:
    assert command(tmp_path, "list").stdout.split() == list(SERVICES)
    assert command(tmp_path, "status").returncode == 1
    assert command(tmp_path, "env").stdout == ""
    try:
        started = command(tmp_path, "start")
        assert (started.returncode, started.stderr) == (0, "")
        assert command(tmp_path, "start").stdout == started.stdout
        shown = command(tmp_path, "status")
        assert shown.returncode == 0
        env = dict(line.split("=", 1) for line in command(tmp_path, "env").stdout.splitlines())
    finally:
        stopped = command(tmp_path, "stop")
    assert stopped.stdout.splitlines() == [f"{name}: stopped" for name in SERVICES]
    assert list(env) == [service.variable for service in SERVICES.values()]
    assert env["ROPEWAY_TEST_REDIS_URL"].startswith("redis://127.0.0.1:")
    assert env["ROPEWAY_TEST_REDIS_SENTINEL_URL"].startswith("redis+sentinel://127.0.0.1:")
    assert env["ROPEWAY_TEST_REDIS_CLUSTER_URL"].startswith("redis+cluster://127.0.0.1:")
    pids = [int(pid) for line in shown.stdout.splitlines() for pid in line.split("pid ")[1].split()]
    assert len(pids) == 1 + 6 + 6
    assert not any(map(look, pids))
    assert {path.suffix for path in tmp_path.iterdir()} == {".lock"}


@pytest.mark.parametrize("arguments", [("fly",), ("start", "oracle")])
def test_the_command_refuses_what_it_does_not_know(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    refused = command(tmp_path, *arguments)
    assert refused.returncode == 2
    assert "redis_cluster" in refused.stderr or "status" in refused.stderr


def test_tests_get_the_url_of_a_running_server(redis_url: str) -> None:
    assert redis_url == shared_servers.redis_url()
    assert redis_url.startswith("redis://")


def test_a_url_of_the_environment_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROPEWAY_TEST_REDIS_URL", "redis://elsewhere/0")
    shared_servers._url.cache_clear()
    try:
        assert shared_servers.redis_url() == "redis://elsewhere/0"
    finally:
        shared_servers._url.cache_clear()
