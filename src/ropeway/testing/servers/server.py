"""What every server has: a private folder, a port of its own, a log, and an end."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from ropeway.testing.servers.ports import free_port
from ropeway.testing.servers.process import ServerProcess
from ropeway.testing.servers.waiting import ServerError, happens

START_S = 15.0
PID_FILE = "server.pid"
_PORT_TRIES = 10
_TAIL_BYTES = 2_000


class Server(ABC):
    """One server on 127.0.0.1 with its data below `folder`.

    It ends with this interpreter, even when that is killed, unless it is detached: then it runs on,
    and `folder/server.pid` has its pid and start time.

    Args:
        folder: holds its data, configuration and `server.log`; made when missing, never removed.
        port: where to listen; None takes a free port, and another one when that gets taken.
        detached: the server outlives this interpreter.

    """

    def __init__(self, folder: Path, *, port: int | None = None, detached: bool = False) -> None:
        self.folder: Path = folder.absolute()
        self.port: int = free_port() if port is None else port
        self._detached = detached
        # After the first start clients know the port, so it stays.
        self._port_is_fixed = port is not None
        self._process: ServerProcess | None = None
        self._log_from = 0

    @abstractmethod
    def configure(self) -> Sequence[str]:
        """Write what the server reads at its start; the command that starts it in `folder`."""

    @abstractmethod
    def answers(self) -> bool:
        """The server that was started (not another one on its port) serves its clients."""

    @property
    def pid(self) -> int:
        """The process id of the running server.

        Raises:
            ServerError: it does not run.

        """
        if self._process is None or not self._process.is_running:
            raise ServerError(f"{self} does not run: call start() first")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """It was started and has not ended; a paused server is running."""
        return self._process is not None and self._process.is_running

    def start(self) -> None:
        """Start it and wait until it answers; a no-op when it runs.

        Raises:
            ServerError: it ended, or did not answer within 15 s; the message has its log.

        """
        if self.is_running:
            return
        for _ in range(_PORT_TRIES):
            process = self._process = self._launch()
            if self._answers_in_time(process):
                self._port_is_fixed = True
                return
            process.kill()
            if self._port_is_fixed or "ddress already in use" not in self.log():
                break
            self.port = free_port()
        raise ServerError(f"{self} did not start. The end of {self._log_file}:\n{self.log()}")

    def stop(self) -> None:
        """Let it end in order (SIGTERM), kill it after 10 s; a no-op when it does not run."""
        if self._process is not None:
            self._process.end()
        self._forget()

    def kill(self) -> None:
        """SIGKILL; returns when it is gone and reaped; a no-op when it does not run."""
        if self._process is not None:
            self._process.kill()
        self._forget()

    def restart(self) -> None:
        """Stop it, and start it with the same data on the same port."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """SIGSTOP: connections stay open, nothing is answered, until `resume`."""
        self._running().pause()

    def resume(self) -> None:
        """SIGCONT: goes on where `pause` stopped it."""
        self._running().resume()

    def log(self) -> str:
        """The last 2,000 bytes that it has written since its start."""
        if not self._log_file.exists():
            return ""
        with self._log_file.open("rb") as log:
            log.seek(max(self._log_from, self._log_file.stat().st_size - _TAIL_BYTES))
            return log.read().decode(errors="replace").strip()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def __str__(self) -> str:
        return f"{type(self).__name__} on port {self.port}"

    @property
    def _log_file(self) -> Path:
        return self.folder / "server.log"

    def _running(self) -> ServerProcess:
        if self._process is None or not self._process.is_running:
            raise ServerError(f"{self} does not run: call start() first")
        return self._process

    def _launch(self) -> ServerProcess:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._log_from = self._log_file.stat().st_size if self._log_file.exists() else 0
        command = self.configure()
        if not self._detached:
            return ServerProcess.child(command, folder=self.folder, log=self._log_file)
        process = ServerProcess.detached(command, folder=self.folder, log=self._log_file)
        (self.folder / PID_FILE).write_text(f"{process.pid} {process.started}\n", "utf-8")
        return process

    def _answers_in_time(self, process: ServerProcess) -> bool:
        ended = False

        def decided() -> bool:
            nonlocal ended
            ended = not process.is_running
            return ended or self.answers()

        return happens(decided, timeout=START_S) and not ended

    def _forget(self) -> None:
        self._process = None
        (self.folder / PID_FILE).unlink(missing_ok=True)
