"""Servers that are shared: started once, kept in the background, ended when nobody needs them.

Each service has a folder with its data, a lock, and a record of its URL and its users. A user is a
process; one that has ended without saying so no longer counts.
"""

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

from ropeway.testing.servers.packages import locked
from ropeway.testing.servers.process import ServerProcess, look
from ropeway.testing.servers.redis import RedisCluster, RedisSentinel, RedisServer
from ropeway.testing.servers.server import PID_FILE
from ropeway.testing.servers.waiting import ServerError

FOLDER_VARIABLE = "ROPEWAY_SERVICES"
"""The environment variable that names the folder of the shared servers."""


class Service(NamedTuple):
    """What can be shared.

    Attributes:
        variable: the environment variable that tells tests its URL.
        start: starts it, detached, below a folder; its URL.

    """

    variable: str
    start: Callable[[Path], str]


def _redis(folder: Path) -> str:
    server = RedisServer(folder, detached=True)
    server.start()
    return server.url


def _sentinel(folder: Path) -> str:
    servers = RedisSentinel(folder, detached=True)
    servers.start()
    return servers.url


def _cluster(folder: Path) -> str:
    cluster = RedisCluster(folder, detached=True)
    cluster.start()
    return cluster.url


SERVICES = {
    "redis": Service("ROPEWAY_TEST_REDIS_URL", _redis),
    "redis_sentinel": Service("ROPEWAY_TEST_REDIS_SENTINEL_URL", _sentinel),
    "redis_cluster": Service("ROPEWAY_TEST_REDIS_CLUSTER_URL", _cluster),
}


@dataclass
class _Record:
    url: str
    kept: bool  # started for good: it stays when its users have gone
    users: dict[str, str]  # pid: start time


class Services:
    """The shared servers below a folder; any number of processes may use it at once.

    Args:
        folder: made when missing; the data of a service is removed when it stops.

    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()

    def start(self, name: str, *, user: int | None = None) -> str:
        """The URL of a running service, which is started unless it runs.

        A service of which a process has died is started anew, with empty data.

        Args:
            name: one of `SERVICES`.
            user: the pid of the process that needs it; None keeps it until `stop`.

        Raises:
            ServerError: it did not start; its log stays in the folder.

        """
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._locked(name):
            record = self._running(name)
            if record is None:
                self._end(name)
                try:
                    url = SERVICES[name].start(self._folder / name)
                except BaseException:
                    self._kill(name)
                    raise
                record = _Record(url, kept=False, users={})
            if user is None:
                record.kept = True
            elif seen := look(user):
                record.users[str(user)] = seen[1]
            self._write(name, record)
            return record.url

    def stop(self, name: str, *, user: int | None = None) -> bool:
        """End a service and remove its data; whether it was ended.

        Args:
            name: one of `SERVICES`.
            user: the process that no longer needs it: it goes on for others, and when it was
                started to be kept. None ends it for all.

        """
        if not self._folder.exists():
            return False
        with self._locked(name):
            record = self._running(name)
            if user is not None and record is not None:
                record.users = {
                    pid: started
                    for pid, started in record.users.items()
                    if int(pid) != user and (seen := look(int(pid))) and seen[1] == started
                }
                if record.kept or record.users:
                    self._write(name, record)
                    return False
            ended = bool(self._processes(name))
            self._end(name)
            return ended

    def url(self, name: str) -> str | None:
        """The URL of a service that runs; None when it does not."""
        if not self._folder.exists():
            return None
        with self._locked(name):
            record = self._running(name)
            return record.url if record else None

    def pids(self, name: str) -> list[int]:
        """The processes of a service that run."""
        return [process.pid for process in self._processes(name) if process.is_running]

    def _locked(self, name: str) -> AbstractContextManager[None]:
        if name not in SERVICES:
            raise ServerError(f"no service is called {name!r}; there are {', '.join(SERVICES)}")
        return locked(self._folder / f"{name}.lock")

    def _processes(self, name: str) -> list[ServerProcess]:
        files = (self._folder / name).rglob(PID_FILE)
        found = (file.read_text("utf-8").split() for file in sorted(files))
        return [ServerProcess(int(pid), started) for pid, started in found]

    def _running(self, name: str) -> _Record | None:
        file = self._record_file(name)
        processes = self._processes(name)
        if not file.exists() or not processes or not all(p.is_running for p in processes):
            return None
        fields = cast(dict[str, Any], json.loads(file.read_text("utf-8")))
        return _Record(**fields)

    def _write(self, name: str, record: _Record) -> None:
        unfinished = self._folder / f"{name}.json.new"
        unfinished.write_text(json.dumps(vars(record)), "utf-8")
        unfinished.replace(self._record_file(name))

    def _kill(self, name: str) -> None:
        for process in self._processes(name):
            process.kill()

    def _end(self, name: str) -> None:
        self._kill(name)
        self._record_file(name).unlink(missing_ok=True)
        shutil.rmtree(self._folder / name, ignore_errors=True)

    def _record_file(self, name: str) -> Path:
        return self._folder / f"{name}.json"
