"""A Redis Cluster of three masters, with a replica each if wanted."""

from collections.abc import Iterable
from itertools import combinations
from pathlib import Path
from types import TracebackType
from typing import Self

from ropeway.testing.servers.ports import BUS_OFFSET, HOST
from ropeway.testing.servers.redis.binaries import redis_server
from ropeway.testing.servers.redis.resp import RespError
from ropeway.testing.servers.redis.server import Options, RedisServer
from ropeway.testing.servers.redis.slots import (
    SLOTS,
    ClusterNode,
    SlotMove,
    key_slot,
    parse_nodes,
    served_ports,
)
from ropeway.testing.servers.waiting import ServerError, wait_until

MASTERS = 3
_READY_S = 30.0
_NODE_TIMEOUT_MS = 2_000


class RedisCluster:
    """Three masters on 127.0.0.1 that share the slots evenly, with or without a replica each.

    A master that does not answer for 2 s is down, and its replica takes its place 1 to 2 s later.

    Args:
        folder: the data of all nodes, each in a folder of its own.
        replicas: a replica for each master; without, its slots are lost when it is killed.
        binary: the server to run; None takes `redis_server()`.
        options: more lines of redis.conf for every node. A password is not supported.
        detached: the nodes outlive this interpreter.

    Attributes:
        nodes: the three masters, then their replicas in the same order; the roles change.

    """

    def __init__(
        self,
        folder: Path,
        *,
        replicas: bool = True,
        binary: Path | None = None,
        options: Options | None = None,
        detached: bool = False,
    ) -> None:
        found = redis_server() if binary is None else binary
        settings = {
            "cluster-enabled": "yes",
            "cluster-config-file": "nodes.conf",
            "cluster-node-timeout": str(_NODE_TIMEOUT_MS),
            "repl-diskless-sync-delay": "0",
            # Clients are not told of a replica that has received nothing, not even a ping.
            "repl-ping-replica-period": "1",
            **(options or {}),
        }
        self.nodes: list[RedisServer] = [
            RedisServer(
                folder / f"node-{number}", binary=found, options=settings, detached=detached
            )
            for number in range(MASTERS * (2 if replicas else 1))
        ]

    @property
    def url(self) -> str:
        """`redis+cluster://127.0.0.1:P1,127.0.0.1:P2,...`: every node, in a fixed order."""
        return "redis+cluster://" + ",".join(f"{HOST}:{node.port}" for node in self.nodes)

    def start(self) -> None:
        """Start the nodes, make a cluster of them and wait until it is ready; to be called once.

        Raises:
            ServerError: a node did not start, or the cluster was not ready within 30 s.

        """
        for node in self.nodes:
            node.start()
        self._share_slots()
        # Every pair meets: through gossip alone the last ones hear of each other after seconds.
        for one, other in combinations(self.nodes, 2):
            with one.client() as client:
                client.call("CLUSTER", "MEET", HOST, other.port, other.port + BUS_OFFSET)
        self._attach_replicas()
        self.wait_ready()

    def stop(self) -> None:
        """Kill all nodes at once."""
        for node in self.nodes:
            node.kill()

    def wait_ready(self, *, timeout: float = _READY_S) -> None:
        """Wait until the nodes that run agree: all slots served, every replica in step.

        Raises:
            ServerError: they do not within `timeout` seconds.

        """
        wait_until(self._is_ready, timeout=timeout, what=lambda: f"not ready: {self._describe()}")

    def masters(self) -> list[RedisServer]:
        """The nodes that own slots, in the order of their slots.

        Raises:
            ServerError: no node answers.

        """
        owners = sorted((node for node in self.view() if node.slots), key=lambda node: node.slots)
        return [self._by_port(owner.port) for owner in owners]

    def owner(self, slot: int) -> RedisServer:
        """The node that owns a slot; `key_slot` tells the slot of a key.

        Raises:
            ServerError: no node answers, or nobody owns the slot.

        """
        for node in self.view():
            if any(first <= slot <= last for first, last in node.slots):
                return self._by_port(node.port)
        raise ServerError(f"nobody owns slot {slot}: {self._describe()}")

    def owner_of(self, key: str | bytes) -> RedisServer:
        """The node that owns a key's slot.

        Raises:
            ServerError: no node answers, or nobody owns the slot.

        """
        return self.owner(key_slot(key))

    def kill_master(self, number: int = 0) -> RedisServer:
        """SIGKILL one of `masters()`; returns it at once, before the others notice."""
        master = self.masters()[number]
        master.kill()
        return master

    def wait_failover(self, dead: RedisServer, *, timeout: float = _READY_S) -> None:
        """Wait until the other nodes serve all slots without `dead`.

        Raises:
            ServerError: they do not within `timeout` seconds.

        """
        wait_until(
            lambda: dead not in self.masters() and self._is_ready(),
            timeout=timeout,
            what=lambda: f"no failover from port {dead.port}: {self._describe()}",
        )

    def begin_move(self, slot: int, target: RedisServer) -> SlotMove:
        """Start to move a slot and leave it half-way, until `finish` of what is returned.

        Raises:
            RespError: the target owns the slot already, or is no master.

        """
        move = SlotMove(slot, source=self.owner(slot), target=target, masters=self.masters())
        move.begin()
        return move

    def move_slots(self, slots: Iterable[int], target: RedisServer, *, batch: int = 100) -> None:
        """Move slots with their keys, one after the other, while clients go on.

        Args:
            slots: which; those that the target owns already are passed over.
            target: a master.
            batch: keys that move in one atomic step.

        Raises:
            RespError: the target is no master, or keys could not be moved.

        """
        for slot in slots:
            if self.owner(slot) is not target:
                self.begin_move(slot, target).finish(batch=batch)

    def view(self) -> list[ClusterNode]:
        """What the first node that answers knows of all.

        Raises:
            ServerError: no node answers.

        """
        for node in self.nodes:
            if node.is_running and (seen := _view(node)):
                return seen
        raise ServerError("no node of the cluster answers")

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _by_port(self, port: int) -> RedisServer:
        return next(node for node in self.nodes if node.port == port)

    def _share_slots(self) -> None:
        for number, node in enumerate(self.nodes):
            with node.client() as client:
                # Epochs that differ from the start save the nodes a round of agreeing on them.
                client.call("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
                if number < MASTERS:
                    first, end = (SLOTS * n // MASTERS for n in (number, number + 1))
                    client.call("CLUSTER", "ADDSLOTS", *range(first, end))

    def _attach_replicas(self) -> None:
        for master, replica in zip(self.nodes[:MASTERS], self.nodes[MASTERS:], strict=False):
            with master.client() as client:
                name = client.text("CLUSTER", "MYID")

            def is_attached(replica: RedisServer = replica, name: str = name) -> bool:
                try:
                    with replica.client() as client:
                        return client.text("CLUSTER", "REPLICATE", name) == "OK"
                except RespError:  # it does not know this master yet
                    return False

            wait_until(is_attached, timeout=_READY_S, what=self._describe)

    def _is_ready(self) -> bool:
        return all(self._agrees(node) for node in self.nodes if node.is_running)

    def _agrees(self, node: RedisServer) -> bool:
        try:
            with node.client(timeout=1.0) as client:
                facts = client.facts("CLUSTER", "INFO")
                seen = parse_nodes(client.text("CLUSTER", "NODES"))
                told = served_ports(client.call("CLUSTER", "SLOTS"))
        except (OSError, RespError):
            return False
        running = {other.port for other in self.nodes if other.is_running}
        unsettled = {"handshake", "fail", "fail?"}
        return (
            facts.get("cluster_state") == "ok"
            and len(seen) == len(self.nodes)
            and not any(other.flags & unsettled for other in seen if other.port in running)
            and told == running
            and node.replication().get("master_link_status", "up") == "up"
        )

    def _describe(self) -> str:
        views = {node.port: _view(node) if node.is_running else "dead" for node in self.nodes}
        return "; ".join(
            f"port {port}: {view if isinstance(view, str) else _shown(view)}"
            for port, view in views.items()
        )


def _view(node: RedisServer) -> list[ClusterNode]:
    try:
        with node.client(timeout=1.0) as client:
            return parse_nodes(client.text("CLUSTER", "NODES"))
    except (OSError, RespError):
        return []


def _shown(view: list[ClusterNode]) -> str:
    return ", ".join(f"{node.port} {'+'.join(sorted(node.flags))}" for node in view) or "silent"
