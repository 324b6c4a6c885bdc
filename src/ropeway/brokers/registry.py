"""From a URL to a broker. The only module that knows all brokers; each is imported when asked for.

To add one: a line in `ENTRIES`. Its class has `from_url(url)`, which makes a broker without
connecting.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

from ropeway.broker import JobStore
from ropeway.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Entry:
    """Where the broker of a scheme is, and which extra of the package brings its client."""

    module: str
    name: str
    extra: str | None = None


ENTRIES: Mapping[str, Entry] = {
    "memory": Entry("ropeway.brokers.memory", "MemoryBroker"),
    "sqlite": Entry("ropeway.brokers.sqlite", "SQLiteBroker"),
    "redis": Entry("ropeway.brokers.redis", "RedisBroker", "redis"),
    "rediss": Entry("ropeway.brokers.redis", "RedisBroker", "redis"),
    "redis+unix": Entry("ropeway.brokers.redis", "RedisBroker", "redis"),
    "redis+sentinel": Entry("ropeway.brokers.redis", "RedisBroker", "redis"),
    "rediss+sentinel": Entry("ropeway.brokers.redis", "RedisBroker", "redis"),
    "redis+cluster": Entry("ropeway.brokers.redis", "ClusterBroker", "redis"),
    "rediss+cluster": Entry("ropeway.brokers.redis", "ClusterBroker", "redis"),
}


def broker_from_url(url: str, *, entries: Mapping[str, Entry] = ENTRIES) -> JobStore:
    """Make the broker that `url` names. It is not connected yet: that is `open()`.

    Raises:
        ConfigError: no URL, an unknown scheme, an option that the broker does not know, or a
            client library that is not installed (the message has the command).
    """
    scheme = url.partition(":")[0] if "://" in url else ""
    entry = entries.get(scheme)
    if entry is None:
        known = ", ".join(f"{name}://" for name in entries)
        raise ConfigError(f"broker URL {_shown(url)!r}: unknown scheme; known are {known}")
    try:
        module = importlib.import_module(entry.module)
    except ModuleNotFoundError as error:
        if entry.extra is None or (error.name or "").partition(".")[0] == "ropeway":
            raise
        raise ConfigError(
            f"broker URL {_shown(url)!r} needs the package {error.name!r}, which is not "
            f"installed: pip install 'ropeway[{entry.extra}]'"
        ) from error
    if scheme == "memory":
        return _memory(url, module.MemoryBroker)
    return cast(JobStore, getattr(module, entry.name).from_url(url))


def _memory(url: str, make: type[JobStore]) -> JobStore:
    if url != "memory://":
        raise ConfigError(
            f"broker URL {url!r}: memory:// takes no name and no options, each app has its own. "
            "To share one inside a process, give both apps the same MemoryBroker()"
        )
    return make()


def _shown(url: str) -> str:
    """The URL without its password, fit for messages and logs."""
    try:
        parts = urlsplit(url)
        password = parts.password
    except ValueError:
        return url.partition("://")[0] + "://…"
    return url.replace(f":{password}@", ":…@") if password else url
