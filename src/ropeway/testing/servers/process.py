"""One server process: started, signalled and ended by pid *and* start time."""

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from ropeway.testing.servers import watchdog
from ropeway.testing.servers.waiting import ServerError, happens, wait_until

# A server that is asked to end gets this long; then it is killed.
GRACE_S = 10.0
_PROC = Path("/proc/self/stat").exists()
# Starts "$@" apart from the caller's terminal, pipes and lifetime, and tells its pid.
_DETACH = 'log=$1; shift; "$@" </dev/null >>"$log" 2>&1 & echo $!'


def look(pid: int) -> tuple[str, str] | None:
    """State letter and start time of a process; None when it has ended (unreaped ones, too).

    Pid and start time together name a process: a pid alone may be given to another one later.
    """
    if _PROC:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        state, started = fields[0], fields[19]
    else:
        command = ["/bin/ps", "-o", "stat=,lstart=", "-p", str(pid)]
        shown = subprocess.run(
            command, env={"LC_ALL": "C"}, capture_output=True, text=True, check=False
        ).stdout.split()
        if not shown:
            return None
        state, started = shown[0][0], "_".join(shown[1:])
    return None if state in "ZX" else (state, started)


class ServerProcess:
    """A process that was started here, or one found again by pid and start time.

    Attributes:
        pid: its process id.
        started: its start time, as an opaque word.

    """

    def __init__(
        self, pid: int, started: str, *, child: subprocess.Popen[bytes] | None = None
    ) -> None:
        self.pid = pid
        self.started = started
        self._child = child

    @classmethod
    def child(cls, command: Sequence[str], *, folder: Path, log: Path) -> Self:
        """Start a server that ends with this interpreter, even when that is killed."""
        with log.open("ab") as output:
            child = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C in the terminal is not for it
            )
        seen = look(child.pid)
        process = cls(child.pid, seen[1] if seen else "", child=child)
        if seen:
            watchdog.guard(process.pid, process.started, process.kill)
        return process

    @classmethod
    def detached(cls, command: Sequence[str], *, folder: Path, log: Path) -> Self:
        """Start a server that outlives this interpreter."""
        told = subprocess.run(
            ["/bin/sh", "-c", _DETACH, "sh", str(log), *command],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
            check=True,
        )
        pid = int(told.stdout)
        seen = look(pid)
        return cls(pid, seen[1] if seen else "")

    @property
    def is_running(self) -> bool:
        """It has not ended; a paused process is running."""
        if self._child is not None:
            return self._child.poll() is None
        seen = look(self.pid)
        return seen is not None and seen[1] == self.started

    def send(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens when the process has ended."""
        if self._child is not None:
            self._child.send_signal(number)  # polls first, so a recycled pid is never hit
        elif self.is_running:
            os.kill(self.pid, number)

    def pause(self) -> None:
        """SIGSTOP; returns when the process stands still."""
        self.send(signal.SIGSTOP)
        wait_until(
            lambda: (seen := look(self.pid)) is None or seen[0] in "Tt",
            timeout=GRACE_S,
            what=lambda: f"process {self.pid} does not stop",
        )

    def resume(self) -> None:
        """SIGCONT."""
        self.send(signal.SIGCONT)

    def end(self) -> None:
        """Ask it to end (SIGTERM), kill it when it does not within 10 s; returns when gone."""
        self.resume()
        self.send(signal.SIGTERM)
        if not happens(lambda: not self.is_running, timeout=GRACE_S):
            self.kill()
        watchdog.release(self.pid)

    def kill(self) -> None:
        """SIGKILL; returns when the process is gone, and reaped if it was a child."""
        self.send(signal.SIGKILL)
        if not happens(lambda: not self.is_running, timeout=GRACE_S):
            raise ServerError(f"process {self.pid} survived SIGKILL for {GRACE_S:g} s")
        watchdog.release(self.pid)
