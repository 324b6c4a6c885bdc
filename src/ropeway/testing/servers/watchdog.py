"""Ends the servers of this interpreter when it ends, however it ends.

A clean exit ends them in `atexit`. For SIGKILL there is one small shell beside them: it reads the
servers' pids from a pipe, and the pipe ends with the interpreter. The alternative on Linux,
PR_SET_PDEATHSIG, fires when the *thread* that started the server ends, which in a program with
worker threads is long before the program does.
"""

import atexit
import contextlib
import os
import subprocess
import threading
from collections.abc import Callable

# A pid counts only with its start time: after a long run it may belong to somebody else.
_SCRIPT = r"""
trap '' HUP INT TERM
start_of() {
  if [ -r /proc/self/stat ]; then
    IFS= read -r stat <"/proc/$1/stat" || return 1
    set -- ${stat##*) }; shift 19; echo "$1"
  else
    set -- $(LC_ALL=C ps -o lstart= -p "$1"); (IFS=_; echo "$*")
  fi
}
servers=
while read -r server; do servers="$servers $server"; done
for server in $servers; do
  [ "$(start_of "${server%%:*}")" = "${server#*:}" ] && kill -9 "${server%%:*}"
done
"""

_lock = threading.Lock()
_shells: dict[int, subprocess.Popen[bytes]] = {}  # at most one, by the pid of its interpreter
_endings: dict[int, Callable[[], None]] = {}  # what `atexit` calls, by the pid of the server


def guard(pid: int, started: str, end: Callable[[], None]) -> None:
    """From now on the server ends with this interpreter; `end` does it at a clean exit."""
    with _lock:
        shell = _shells.get(os.getpid())
        if shell is None:
            shell = _shells[os.getpid()] = subprocess.Popen(
                ["/bin/sh", "-c", _SCRIPT],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # a Ctrl-C in the terminal is not for it
            )
        _endings[pid] = end
        assert shell.stdin is not None
        shell.stdin.write(f"{pid}:{started}\n".encode())


def release(pid: int) -> None:
    """The server has ended; nothing is left to do at exit."""
    with _lock:
        _endings.pop(pid, None)


def _end_all() -> None:
    for end in list(_endings.values()):
        with contextlib.suppress(Exception):  # one that resists must not spare the others
            end()
    for shell in _shells.values():
        assert shell.stdin is not None
        shell.stdin.close()
        shell.wait()


def _forget() -> None:
    """In a fork: the servers are the parent's, and its pipe must not stay open here."""
    global _lock  # noqa: PLW0603 - another thread of the parent may have held it
    _lock = threading.Lock()
    _endings.clear()
    for shell in _shells.values():
        assert shell.stdin is not None
        shell.stdin.close()
        shell.returncode = 0  # not a child of this process
    _shells.clear()


atexit.register(_end_all)
os.register_at_fork(after_in_child=_forget)
