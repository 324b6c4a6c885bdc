"""Slots of a Redis Cluster: which one a key is in, who owns them, and moving them."""

from binascii import crc_hqx
from collections.abc import Sequence
from typing import NamedTuple

from ropeway.testing.servers.ports import HOST
from ropeway.testing.servers.redis.resp import Reply
from ropeway.testing.servers.redis.server import RedisServer

SLOTS = 16_384
_MIGRATE_TIMEOUT_MS = 5_000


def key_slot(key: str | bytes) -> int:
    """The slot of a key: of the part in its first `{...}`, if that is not empty."""
    raw = key.encode() if isinstance(key, str) else key
    _, brace, rest = raw.partition(b"{")
    tag, end, _ = rest.partition(b"}")
    return crc_hqx(tag if brace and end and tag else raw, 0) % SLOTS


class ClusterNode(NamedTuple):
    """One line of CLUSTER NODES.

    Attributes:
        id: the node's name in the cluster.
        port: where it listens.
        flags: such as `master`, `slave`, `fail`.
        slots: what it owns, in order, both ends included.

    """

    id: str
    port: int
    flags: frozenset[str]
    slots: tuple[tuple[int, int], ...]


def parse_nodes(text: str) -> list[ClusterNode]:
    """The answer of CLUSTER NODES; slots that are on the move count for their owner."""
    nodes: list[ClusterNode] = []
    for line in text.splitlines():
        name, address, flags, *rest = line.split()
        ranges = [word.partition("-") for word in rest[5:] if not word.startswith("[")]
        nodes.append(
            ClusterNode(
                id=name,
                port=int(address.partition("@")[0].rpartition(":")[2]),
                flags=frozenset(flags.split(",")),
                slots=tuple((int(first), int(last or first)) for first, _, last in ranges),
            )
        )
    return nodes


def served_ports(shards: Reply) -> set[int]:
    """The answer of CLUSTER SLOTS: the ports that clients are told of, replicas included."""
    ranges = (
        [shard for shard in shards if isinstance(shard, list)] if isinstance(shards, list) else []
    )
    nodes = [node for shard in ranges for node in shard[2:] if isinstance(node, list)]
    return {port for node in nodes if isinstance(port := node[1], int)}


class SlotMove:
    """A slot on its way from one master to another; in between, clients are asked to follow.

    Until `finish` the source answers for the keys it still has, and sends clients to the target
    (`ASK`) for the others; a call with keys on both sides gets `TRYAGAIN`.

    Args:
        slot: which slot.
        source: its owner.
        target: who gets it.
        masters: all masters that run, source and target included.

    """

    def __init__(
        self,
        slot: int,
        *,
        source: RedisServer,
        target: RedisServer,
        masters: Sequence[RedisServer],
    ) -> None:
        self._slot = slot
        self._source = source
        self._target = target
        self._masters = masters

    def begin(self) -> None:
        """Tell both sides; no key moves yet.

        Raises:
            RespError: one of them refused, for instance because it does not own the slot.

        """
        with self._target.client() as target, self._source.client() as source:
            source_id, target_id = source.text("CLUSTER", "MYID"), target.text("CLUSTER", "MYID")
            target.call("CLUSTER", "SETSLOT", self._slot, "IMPORTING", source_id)
            source.call("CLUSTER", "SETSLOT", self._slot, "MIGRATING", target_id)

    def migrate(self, count: int) -> int:
        """Move up to `count` keys in one atomic step; how many there were.

        Raises:
            RespError: they could not be moved.

        """
        with self._source.client() as source:
            keys = source.call("CLUSTER", "GETKEYSINSLOT", self._slot, count)
            assert isinstance(keys, list)
            names = [key for key in keys if isinstance(key, bytes)]
            if names:
                where = (HOST, self._target.port, "", 0, _MIGRATE_TIMEOUT_MS)
                source.call("MIGRATE", *where, "KEYS", *names)
            return len(names)

    def finish(self, *, batch: int = 100) -> None:
        """Move the rest of the keys and give the slot to the target.

        Raises:
            RespError: the keys could not be moved, or the target refused the slot.

        """
        while self.migrate(batch):
            pass
        with self._target.client() as target:
            target_id = target.text("CLUSTER", "MYID")
        # The target first: from then on somebody answers for the slot, whoever is asked.
        rest = [node for node in self._masters if node not in (self._target, self._source)]
        for node in (self._target, self._source, *rest):
            with node.client() as client:
                client.call("CLUSTER", "SETSLOT", self._slot, "NODE", target_id)
