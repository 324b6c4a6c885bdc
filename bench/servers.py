"""The servers of a run: a Redis of its own, and Faktory's server with another one like it."""

import os
import shutil
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

import psutil

from bench.places import SERVER

Fsync = Literal["everysec", "always"]
START_S: Final = 10
STOP_S: Final = 10


class Store:
    """A redis-server that listens on a port of 127.0.0.1."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def empty(self) -> None:
        """Forget everything, in memory and in the file."""
        self.ask("FLUSHALL")
        self.ask("BGREWRITEAOF")
        give_up_s = time.monotonic() + START_S
        while time.monotonic() < give_up_s:
            info = self.info()
            if info["aof_rewrite_in_progress"] == info["aof_rewrite_scheduled"] == "0":
                return
            time.sleep(0.02)

    def info(self) -> dict[str, str]:
        """What the server says of itself."""
        lines = self.ask("INFO").splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def ask(self, command: str) -> str:
        """One command without arguments, and its answer as text."""
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=START_S) as connection,
            connection.makefile("rb") as answers,
        ):
            connection.sendall(command.encode() + b"\r\n")
            head = answers.readline()
            if head.startswith(b"$"):
                return answers.read(int(head[1:])).decode()
            return head.decode()

    def options(self, fsync: Fsync) -> list[str]:
        """How every server of a run is set up."""
        settings = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "save": "''",
            "appendonly": "yes",
            "appendfsync": fsync,
            "auto-aof-rewrite-percentage": "0",  # none in the middle of a measurement
        }
        return [word for name, value in settings.items() for word in (f"--{name}", value)]


class Redis(Store):
    """The one of a run, its files in the folder `place`. A context manager."""

    def __init__(self, place: Path, fsync: Fsync) -> None:
        super().__init__()
        self._place = place
        self._fsync: Fsync = fsync

    def __enter__(self) -> Self:
        self._place.mkdir(parents=True, exist_ok=True)
        command = ["redis-server", "--dir", str(self._place), *self.options(self._fsync)]
        with (self._place / "redis.log").open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        _until_listening(self.port, self._process)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        _stop(self._process)


class Faktory:
    """Faktory's server. A context manager.

    It starts a Redis of its own and takes no other. It finds one with the settings of the run
    under that name.
    """

    def __init__(self, place: Path, fsync: Fsync) -> None:
        self._place = place / "faktory"
        self._fsync: Fsync = fsync
        self.store = Store()
        self.port = free_port()
        self.url = f"tcp://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        programs = self._place / "programs"
        programs.mkdir(parents=True)
        redis = programs / "redis-server"
        options = " ".join(self.store.options(self._fsync))
        redis.write_text(
            "#!/bin/sh\n"
            "shift  # Faktory's file of settings\n"
            f'exec {shutil.which("redis-server")} "$@" {options}\n',
            encoding="utf-8",
        )
        redis.chmod(0o755)
        web = f"127.0.0.1:{free_port()}"
        words = ("-b", f"127.0.0.1:{self.port}", "-w", web, "-l", "warn", "-d", str(self._place))
        path = f"{programs}{os.pathsep}{os.environ['PATH']}"
        with (self._place / "faktory.log").open("wb") as log:
            self._process = subprocess.Popen(
                [SERVER, *words],
                cwd=self._place,
                stdout=log,
                stderr=log,
                env={**os.environ, "PATH": path},
            )
        self.process = psutil.Process(self._process.pid)
        _until_listening(self.port, self._process)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        children = self.process.children() if self.process.is_running() else []
        _stop(self._process)
        for child in children:  # its Redis, which it stops by itself as a rule
            with suppress(psutil.NoSuchProcess):
                child.kill()


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _until_listening(port: int, process: subprocess.Popen[bytes]) -> None:
    give_up_s = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > give_up_s or process.poll() is not None:
                raise
            time.sleep(0.02)
        else:
            return


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
