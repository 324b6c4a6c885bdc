"""What a fork server starts is what `python -m` would start, and dies with its client."""

import os
import signal
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path

import psutil
import pytest

from ropeway.errors import RopewayError
from ropeway.verify.faults.forks import ForkServer

PROGRAM = """
import os, sys, time
print(sys.argv[1:], os.getsid(0) == os.getpid(), __name__, flush=True)
if "stay" in sys.argv:
    time.sleep(600)
sys.exit(7)
"""


@pytest.fixture
def server(tmp_path: Path) -> Generator[ForkServer]:
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    server = ForkServer(env, ["json"], ("program", "rehearsed"))
    yield server
    server.close()


def until(true: Callable[[], bool]) -> None:
    """Wait for another process."""
    give_up_s = time.monotonic() + 20
    while not true():
        assert time.monotonic() < give_up_s, "waited for too long"
        time.sleep(0.01)


def test_a_fork_runs_a_module_with_its_arguments_in_a_session_of_its_own(
    server: ForkServer, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    forked = server.start(["program", "a", "b"], log)
    assert forked.wait() == 7
    assert forked.poll() == 7
    assert log.read_text() == "['a', 'b'] True __main__\n"


def test_what_it_says_is_added_to_its_log(server: ForkServer, tmp_path: Path) -> None:
    log = tmp_path / "log"
    for word in ("one", "two"):
        server.start(["program", word], log).wait()
    assert len(log.read_text().splitlines()) == 2


def test_its_end_is_told_as_by_the_system(server: ForkServer, tmp_path: Path) -> None:
    forked = server.start(["program", "stay"], tmp_path / "log")
    assert forked.poll() is None
    forked.signal(signal.SIGKILL)
    assert forked.wait() == -signal.SIGKILL
    forked.signal(signal.SIGKILL)  # says nothing to whoever has that process id now


def test_whatever_it_has_started_ends_with_it(server: ForkServer, tmp_path: Path) -> None:
    forked = server.start(["program", "stay"], tmp_path / "log")
    server.close()
    until(lambda: not psutil.pid_exists(forked.pid))
    with pytest.raises(RopewayError, match="has ended"):
        server.start(["program"], tmp_path / "log")


def test_nothing_outlives_a_client_that_is_killed(tmp_path: Path) -> None:
    client = tmp_path / "client.py"
    client.write_text(
        "import os, pathlib, time\n"
        "from ropeway.verify.faults.forks import ForkServer\n"
        "server = ForkServer(os.environ, ['json'])\n"
        "print(server.start(['program', 'stay'], pathlib.Path('log')).pid, flush=True)\n"
        "time.sleep(600)\n",
        encoding="utf-8",
    )
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    process = psutil.Popen(
        [sys.executable, str(client)],
        cwd=tmp_path,
        stdout=-1,
        env={**os.environ, "PYTHONPATH": "."},
    )
    pid = int(process.stdout.readline())
    process.kill()
    process.wait()
    process.stdout.close()
    until(lambda: not psutil.pid_exists(pid))
