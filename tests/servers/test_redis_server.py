"""One private server: its life, its faults, and what it leaves behind."""

import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ropeway.testing.servers import (
    RedisServer,
    RespClient,
    RespError,
    ServerError,
    redis_8,
    redis_server,
    valkey,
)
from ropeway.testing.servers.ports import HOST, free_port
from ropeway.testing.servers.process import ServerProcess, look
from ropeway.testing.servers.waiting import happens

DOOMED = Path(__file__).with_name("doomed.py")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis") as server:
        yield server


def is_gone(pid: int) -> bool:
    return happens(lambda: look(pid) is None, timeout=5)


def test_a_started_server_answers_at_its_url(server: RedisServer) -> None:
    assert server.url == f"redis://127.0.0.1:{server.port}/0"
    with server.client() as client:
        assert client.call("SET", "key", b"\x00\r\n\xff") == "OK"
        assert client.call("GET", "key") == b"\x00\r\n\xff"
        assert client.call("GET", "nothing") is None
        assert client.call("LPUSH", "list", 1, 2) == 2
        assert client.call("LRANGE", "list", 0, -1) == [b"2", b"1"]
        with pytest.raises(RespError, match="WRONGTYPE"):
            client.call("GET", "list")


def test_a_second_start_is_a_no_op(server: RedisServer) -> None:
    pid = server.pid
    server.start()
    assert server.pid == pid


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_an_ended_server_is_reaped_and_comes_back_with_its_data(
    server: RedisServer, end: str
) -> None:
    port, pid = server.port, server.pid
    with server.client() as client:
        client.call("SET", "key", "kept")
    getattr(server, end)()
    assert not psutil.pid_exists(pid)
    assert not server.is_running
    server.start()
    assert (server.port, server.pid) != (port, pid)
    assert server.port == port
    with server.client() as client:
        assert client.text("GET", "key") == "kept"


def test_a_restart_keeps_the_port_and_the_data(server: RedisServer) -> None:
    port = server.port
    with server.client() as client:
        client.call("SET", "key", "kept")
    server.restart()
    assert server.port == port
    with server.client() as client:
        assert client.text("GET", "key") == "kept"


def test_a_paused_server_accepts_and_does_not_answer(server: RedisServer) -> None:
    server.pause()
    with server.client(timeout=0.1) as client:
        with pytest.raises(TimeoutError):
            client.call("PING")
        assert server.is_running
    server.resume()
    with server.client() as client:
        assert client.text("PING") == "PONG"


def test_a_paused_server_can_be_stopped_and_killed(server: RedisServer) -> None:
    for end in (server.kill, server.stop):
        server.start()
        server.pause()
        end()
        assert not server.is_running


def test_ending_what_does_not_run_is_a_no_op(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    server.stop()
    server.kill()
    for needs_it in (lambda: server.pid, server.pause, server.resume):
        with pytest.raises(ServerError, match="does not run"):
            needs_it()


def test_a_refused_option_shows_the_log(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, options={"no-such-option": "1"})
    with pytest.raises(ServerError, match=r"(?s)did not start.*no-such-option"):
        server.start()


def test_a_port_that_is_taken_is_replaced_unless_it_was_asked_for(tmp_path: Path) -> None:
    with socket.create_server((HOST, free_port())) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServerError, match="ddress already in use"):
            RedisServer(tmp_path / "asked", port=port).start()
        server = RedisServer(tmp_path / "free")
        server.port = port  # as if it had been taken after it was chosen
        with server:
            assert server.port != port


def test_the_answer_of_another_server_is_not_taken_for_ones_own(
    server: RedisServer, tmp_path: Path
) -> None:
    with pytest.raises(ServerError, match="ddress already in use"):
        RedisServer(tmp_path / "late", port=server.port).start()


def test_passwords_and_users(tmp_path: Path) -> None:
    options = {"requirepass": "p@ss", "user": ["ann on >a/b ~* &* +@all", "bob on >b ~b:* +get"]}
    with RedisServer(tmp_path, options=options) as server:
        assert server.url == f"redis://:p%40ss@127.0.0.1:{server.port}/0"
        assert server.url_as("ann", "a/b") == f"redis://ann:a%2Fb@127.0.0.1:{server.port}/0"
        with server.client() as client:
            assert client.text("ACL", "WHOAMI") == "default"
            client.call("AUTH", "bob", "b")
            with pytest.raises(RespError, match="NOPERM"):
                client.call("SET", "b:1", "x")


def test_a_server_without_a_default_user_starts(tmp_path: Path) -> None:
    options = {"user": ["default off", "ann on >a ~* &* +@all"]}
    with RedisServer(tmp_path, options=options) as server, server.client() as client:
        with pytest.raises(RespError, match="NOAUTH"):
            client.call("PING")
        assert client.call("AUTH", "ann", "a") == "OK"


def test_tls_is_checked_against_its_own_authority(tmp_path: Path) -> None:
    with RedisServer(tmp_path, tls=True) as server:
        port = server.port
        authority = tmp_path / "ca.crt"
        assert server.url == f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={authority}"
        with server.client() as client:
            assert client.text("PING") == "PONG"
        with pytest.raises(ssl.SSLCertVerificationError):
            RespClient(port, tls=ssl.create_default_context())
        server.restart()
        assert server.url.endswith(str(authority))


def test_a_server_listens_on_a_unix_socket_too(server: RedisServer) -> None:
    path = server.unix_url.removeprefix("unix://").removesuffix("?db=0")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        connection.sendall(b"PING\r\n")
        assert connection.recv(100) == b"+PONG\r\n"


def test_a_socket_with_too_long_a_path_is_refused(tmp_path: Path) -> None:
    server = RedisServer(tmp_path / ("x" * 100))
    with pytest.raises(ServerError, match="shorter path"):
        _ = server.unix_url


@pytest.mark.parametrize(("binary", "version"), [(redis_8, "8.2.3"), (valkey, "9.1.2")])
def test_newer_servers_can_be_had(binary, version: str, tmp_path: Path) -> None:
    with RedisServer(tmp_path, binary=binary()) as server, server.client() as client:
        facts = client.facts("INFO", "server")
        assert facts.get("valkey_version", facts["redis_version"]) == version


def test_a_server_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROPEWAY_REDIS_SERVER", str(tmp_path / "mine"))
    assert redis_server() == tmp_path / "mine"


def test_a_missing_server_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: str) -> Path:
        raise ServerError("no network")

    monkeypatch.delenv("ROPEWAY_REDIS_SERVER", raising=False)
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr("ropeway.testing.servers.redis.binaries.from_wheel", unreachable)
    with pytest.raises(ServerError, match=r"(?s)apt-get install redis-server.*no network"):
        redis_server()


def test_a_server_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join()
    with server.client() as client:
        assert client.text("PING") == "PONG"
    server.kill()


@pytest.mark.parametrize("end", ["exit", "SIGKILL"])
def test_nothing_is_left_when_the_interpreter_ends(tmp_path: Path, end: str) -> None:
    with subprocess.Popen(
        [sys.executable, str(DOOMED), str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin
        assert process.stdout
        pid = int(process.stdout.readline())
        assert look(pid)
        below = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
        assert pid in below
        if end == "exit":
            process.communicate("exit\n", timeout=10)
        else:
            process.kill()
        # End of file: no child of it holds the pipe.
        assert process.stdout.closed or process.stdout.read() == ""
    assert all(map(is_gone, below))


@pytest.mark.parametrize("proc", [True, False], ids=["proc", "ps"])
def test_a_recycled_pid_is_not_hit(proc: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.platform == "linux":
        monkeypatch.setattr("ropeway.testing.servers.process._PROC", proc)
    with subprocess.Popen(["sleep", "60"]) as stranger:
        seen = look(stranger.pid)
        assert seen
        before = ServerProcess(stranger.pid, started=seen[1] + "0")
        assert not before.is_running
        before.kill()
        before.end()
        assert stranger.poll() is None
        ServerProcess(stranger.pid, started=seen[1]).send(15)
        stranger.wait(5)


def test_a_fork_that_lives_longer_does_not_keep_the_server(tmp_path: Path) -> None:
    script = (
        "import os, sys, time, warnings; warnings.simplefilter('ignore')\n"
        "from pathlib import Path; from ropeway.testing.servers import RedisServer\n"
        "server = RedisServer(Path(sys.argv[1])); server.start()\n"
        "fork = os.fork()\n"
        "if fork: print(server.pid, fork, flush=True); os.kill(os.getpid(), 9)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        server, fork = map(int, process.stdout.readline().split())
        try:
            assert is_gone(server)
        finally:
            os.kill(fork, 9)
