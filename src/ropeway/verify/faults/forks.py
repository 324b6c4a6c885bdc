"""Processes that start at once: forked from one that has already imported what they need.

`ForkServer` is this side; run as a program, this module is the other one. It has one thread and no
loop, opens nothing, and forks when it is asked to; the child then does what `python -m MODULE`
would do. When its client is gone, however it went, it kills whatever it has started.
"""

import importlib
import io
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any, Final

from ropeway.errors import RopewayError

READ: Final = 65_536


class Forked:
    """A process that a `ForkServer` has started, in a session of its own.

    Attributes:
        pid: no other process gets it before `poll` has told the end of this one.
        returncode: None until `poll` has told it; negative: ended by that signal.

    """

    def __init__(self, server: "ForkServer", pid: int) -> None:
        self._server = server
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, or None while it lives."""
        if self.returncode is None:
            self.returncode = self._server.ask(op="poll", pid=self.pid)
        return self.returncode

    def wait(self) -> int:
        """Wait for the end, of one that was killed; its exit code."""
        if self.returncode is None:
            self.returncode = self._server.ask(op="wait", pid=self.pid)
        assert self.returncode is not None, "waited for"
        return self.returncode

    def signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def signal_all(self, number: int) -> None:
        """Send a signal to the process and to those it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)


class ForkServer:
    """Starts Python programs in milliseconds.

    Args:
        env: the environment of the server and of all that it starts.
        modules: what it imports before anything is started. They must not open anything, nor
            start a thread.
        rehearsal: a command without consequences that it runs once, for what that imports.
    """

    def __init__(
        self, env: Mapping[str, str], modules: Sequence[str], rehearsal: Sequence[str] = ()
    ) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", __name__, str(theirs.fileno())),
                    *(",".join(modules), *rehearsal),
                ],
                env=env,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # a Ctrl-C at the terminal is not for it
            )
        self._rest = b""

    def start(
        self, arguments: Sequence[str], log: Path, env: Mapping[str, str] | None = None
    ) -> Forked:
        """Start `python -m ARGUMENTS`; what it says is added to `log`.

        Args:
            arguments: a module, and what is handed to it.
            log: a file.
            env: what differs from the server's environment.

        Raises:
            RopewayError: the server has ended.
        """
        told = {"arguments": list(arguments), "log": str(log), "env": dict(env or {})}
        return Forked(self, self.ask(op="start", **told))

    def ask(self, **request: Any) -> Any:
        """One request and its answer. Blocks."""
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
            while b"\n" not in self._rest:
                if not (read := self._socket.recv(READ)):
                    raise ConnectionResetError
                self._rest += read
        except OSError as error:
            raise RopewayError("the process that starts the others has ended") from error
        line, _, self._rest = self._rest.partition(b"\n")
        return json.loads(line)

    def close(self) -> None:
        """End the server, and with it whatever it has started."""
        self._socket.close()
        self._process.wait()


def serve(connection: socket.socket) -> Sequence[str]:
    """Answer requests until the client is gone; in a child, return the arguments it was given."""
    living: set[int] = set()
    try:
        for line in connection.makefile("rb"):
            request = json.loads(line)
            match request["op"]:
                case "start":
                    answer = os.fork()
                    if not answer:
                        living.clear()
                        os.environ.update(request["env"])
                        _become(request["log"])
                        connection.close()
                        return request["arguments"]
                    living.add(answer)
                case op:
                    answer = _ended(request["pid"], waiting=op == "wait")
                    if answer is not None:
                        living.discard(request["pid"])
            connection.sendall(json.dumps(answer).encode() + b"\n")
    finally:
        for pid in living:
            with suppress(ProcessLookupError):  # it has not got its session yet
                os.killpg(pid, signal.SIGKILL)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return ()


def _become(log: str) -> None:
    """Make of this fork what a new process would be: its own session, its output in its log."""
    os.setsid()
    out = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(out, sys.stdout.fileno())
    os.dup2(out, sys.stderr.fileno())
    os.close(out)


def _ended(pid: int, *, waiting: bool) -> int | None:
    ended, status = os.waitpid(pid, 0 if waiting else os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def main(arguments: Sequence[str]) -> None:
    """Be the server; in a child, run its module."""
    fd, modules, *rehearsal = arguments
    for module in modules.split(","):
        importlib.import_module(module)
    if rehearsal:
        with redirect_stdout(io.StringIO()), suppress(SystemExit):
            _run(rehearsal)
    if told := serve(socket.socket(fileno=int(fd))):
        _run(told)


def _run(arguments: Sequence[str]) -> None:
    """What `python -m ARGUMENTS` does."""
    sys.argv = list(arguments)
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
