"""The options of a Redis URL that are not the connection's."""

from collections.abc import Mapping
from typing import Any, Literal, cast, get_args

import msgspec

from ropeway.errors import ConfigError

Durability = Literal["server", "fsync", "replica"]


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for a store.

    Attributes:
        prefix: of all its keys.
        durability: what a write must have before it is acknowledged. `server`: whatever the
            server's `appendfsync` says; `fsync`: on the disk of the server (WAITAOF, Redis 7.2);
            `replica`: in the memory of a replica too (WAIT).
        copies: with `replica`: in how many replicas. As many as there are, and no fail-over loses
            what was acknowledged: who becomes the master has it, or has ceased to confirm.

    """

    prefix: str = "ropeway"
    durability: Durability = "server"
    copies: int = 1


def parse_options(given: Mapping[str, str]) -> Options:
    """Raise ConfigError for options that are unknown or cannot be meant."""
    unknown = sorted(given.keys() - {"prefix", "durability", "copies"})
    if unknown:
        raise ConfigError(
            f"option {unknown[0]!r} of the Redis URL is unknown; known: prefix, durability, "
            "copies, and those of the connection"
        )
    prefix = given.get("prefix", "ropeway")
    if not prefix or set(prefix) & set("{}"):
        raise ConfigError(f"prefix={prefix!r}: give a text that is not empty and has no braces")
    durability = given.get("durability", "server")
    if durability not in get_args(Durability):
        raise ConfigError(
            f"durability={durability!r} is unknown; use {', '.join(get_args(Durability))}"
        )
    copies = given.get("copies", "1")
    if not (copies.isascii() and copies.isdigit() and int(copies) > 0):
        raise ConfigError(f"copies={copies!r}: give a number of replicas, 1 or more")
    if "copies" in given and durability != "replica":
        raise ConfigError(f"copies={copies} is for durability=replica; give both, or neither")
    return Options(prefix=prefix, durability=cast("Any", durability), copies=int(copies))
