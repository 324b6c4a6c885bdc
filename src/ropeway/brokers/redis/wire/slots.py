"""Redis Cluster's arithmetic: the slot of a key, the map of slots, and where a redirect points.

After the Redis Cluster specification (redis.io/docs/latest/operate/oss_and_stack/reference/
cluster-spec): slot = CRC16 (XMODEM) of the key's hash tag, modulo 16384.
"""

from binascii import crc_hqx
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

SLOTS: Final = 16384

Place = tuple[str, int]


class Span(NamedTuple):
    """The slots from `first` to `last`, both included, their master and its replicas."""

    first: int
    last: int
    master: Place
    replicas: tuple[Place, ...]


@lru_cache(maxsize=4096)
def slot_of(tag: str) -> int:
    """The slot of a key: only what is between its first `{` and the next `}` counts, if anything.

    `crc_hqx` from 0 is the CRC that the specification gives: of `123456789` it is 0x31C3.
    """
    key = tag.encode()
    start = key.find(b"{") + 1
    if start:
        end = key.find(b"}", start)
        if end > start:
            key = key[start:end]
    return crc_hqx(key, 0) % SLOTS


def read_map(reply: Sequence[Any], asked: str) -> list[Span]:
    """The reply of CLUSTER SLOTS from the host `asked`.

    A node may not know its own name (an empty or absent host, or `?`): then it is where it was
    asked.
    """
    return [
        Span(first, last, *_places(nodes, asked)) for first, last, *nodes in reply if len(nodes) > 0
    ]


def _places(nodes: Sequence[Any], asked: str) -> tuple[Place, tuple[Place, ...]]:
    master, *replicas = [(_host(node[0], asked), int(node[1])) for node in nodes]
    return master, tuple(replicas)


def _host(name: bytes | None, asked: str) -> str:
    return asked if name in {None, b"", b"?"} or name is None else name.decode()


def read_redirect(message: str, asked: str) -> tuple[int, Place]:
    """The slot and the node from the text behind `MOVED` or `ASK`: `3999 127.0.0.1:6381`."""
    slot, _, place = message.partition(" ")
    host, _, port = place.rpartition(":")
    return int(slot), (host.strip("[]") or asked, int(port))
