"""URLs of real servers, one of each for the whole run: tests keep apart by prefixes of their keys.

A URL comes from the environment (`scripts/services env`) or from the shared servers of this folder,
which are started when nobody has done it. A server that cannot be had fails the test: a broker
that was not tested must not look as if it were.
"""

import os
from functools import cache
from pathlib import Path

from ropeway.testing.servers.services import FOLDER_VARIABLE, SERVICES, Services

ROOT = Path(__file__).resolve().parent.parent
_services = Services(ROOT / (os.environ.get(FOLDER_VARIABLE) or ".services"))
_used: set[str] = set()


@cache
def _url(name: str) -> str:
    if given := os.environ.get(SERVICES[name].variable):
        return given
    _used.add(name)
    return _services.start(name, user=os.getpid())


def redis_url() -> str:
    """One server: `redis://127.0.0.1:PORT/0`."""
    return _url("redis")


def redis_sentinel_url() -> str:
    """A master, two replicas, three Sentinels: `redis+sentinel://HOST:PORT,…/mymaster`."""
    return _url("redis_sentinel")


def redis_cluster_url() -> str:
    """Three masters with a replica each: `redis+cluster://HOST:PORT,…`."""
    return _url("redis_cluster")


def release() -> None:
    """This process needs no server any more; the last one to say so ends them."""
    for name in _used:
        _services.stop(name, user=os.getpid())
    _used.clear()
    _url.cache_clear()
