"""Which node of a Redis Cluster serves which slot, as far as its nodes have told."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from ropeway.brokers.redis.wire.address import Address, show
from ropeway.brokers.redis.wire.dial import Dialer
from ropeway.brokers.redis.wire.node import Node
from ropeway.brokers.redis.wire.replies import Refused, ReplyError, error_of
from ropeway.brokers.redis.wire.slots import SLOTS, Place, read_map
from ropeway.brokers.redis.wire.words import pack
from ropeway.errors import BrokerError, Disconnected

_CLOSED: Final = "the client is closed; the call was not sent"
_GONE: Final = "the node has left the cluster's map"
_MAP: Final = pack(("CLUSTER", "SLOTS"))


class Topology:
    """The nodes of a cluster and the map of its slots.

    Attributes:
        owners: the master of each slot; None where nobody is known.
        stale: the map may be wrong, so `refresh` before the next call.
        version: of the node that told the map.
    """

    def __init__(self, address: Address, dialer: Dialer, *, block_extra_s: float) -> None:
        self.owners: list[Place | None] = [None] * SLOTS
        self.stale: bool = True
        self.version: str = ""
        self._address = address
        self._dialer = dialer
        self._block_extra_s = block_extra_s
        self._nodes: dict[Place, Node] = {}
        self._known: list[Place] = []  # masters and replicas
        self._doubted: Place | None = None
        self._reading: asyncio.Task[None] | None = None
        self._open = False

    async def open(self) -> None:
        """Read the map.

        Raises:
            Disconnected, Refused: no node tells it.
        """
        self._open = True
        self.stale = True
        await self.refresh()

    async def close(self) -> None:
        """Close all connections. May be repeated."""
        self._open = False
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])
        nodes, self._nodes = self._nodes, {}
        self.owners = [None] * SLOTS
        for node in nodes.values():
            await node.close()

    def node(self, place: Place) -> Node:
        """The node there, whether the map has it or not.

        Raises:
            Disconnected: the client is closed.
        """
        if not self._open:
            raise Disconnected(_CLOSED)
        node = self._nodes.get(place)
        if node is None:
            dial = partial(self._dialer.dial, *place)
            node = self._nodes[place] = Node(dial, block_extra_s=self._block_extra_s)
        return node

    def doubt(self, place: Place | None) -> None:
        """Note that the map may be wrong, and that the node there is the last to ask for it."""
        self.stale = True
        self._doubted = place

    def refresh_later(self) -> None:
        """Read the map in the background: one redirect is seldom alone."""
        if self._reading is None:
            self._start()

    async def refresh(self) -> None:
        """Read the map now, once for all who wait."""
        if not self._open:
            raise Disconnected(_CLOSED)
        await asyncio.shield(self._reading or self._start())

    def _start(self) -> asyncio.Task[None]:
        task = self._reading = asyncio.create_task(self._read_or_closed())
        task.add_done_callback(self._read)
        return task

    def _read(self, task: asyncio.Task[None]) -> None:
        self._reading = None
        if not task.cancelled():
            task.exception()  # whoever waited has it

    async def _read_or_closed(self) -> None:
        try:
            await self._read_map()
        except asyncio.CancelledError:
            if not self._open:  # by `close`, not by those who wait: for them it is an error
                raise Disconnected(_CLOSED) from None
            raise

    async def _read_map(self) -> None:
        """Ask one node after the other, those with an open connection first."""
        places = list(dict.fromkeys([*self._known, *self._address.hosts]))
        linked = {place for place, node in self._nodes.items() if node.linked}
        places.sort(key=lambda place: (place == self._doubted, place not in linked))
        failures: list[BrokerError] = []
        for place in places:
            try:
                reply = await self.node(place).ask(_MAP)
            except BrokerError as error:
                failures.append(error)
                continue
            if type(reply) is ReplyError:
                failures.append(error_of(reply, show(*place), self._address.username))
                continue
            self._apply(reply, place)
            return
        kind = Refused if all(isinstance(error, Refused) for error in failures) else Disconnected
        told = "; ".join(dict.fromkeys(str(error) for error in failures))
        raise kind(f"no node of the cluster tells its map: {told}")

    def _apply(self, reply: Sequence[Any], asked: Place) -> None:
        link = self.node(asked).linked
        self.version = self.version if link is None else link.server.get("version", "")
        owners: list[Place | None] = [None] * SLOTS
        known: dict[Place, None] = {}
        for span in read_map(reply, asked[0]):
            owners[span.first : span.last + 1] = [span.master] * (span.last - span.first + 1)
            known[span.master] = None
            known.update(dict.fromkeys(span.replicas))
        self.owners = owners
        self._known = list(known)
        self.stale = False
        self._doubted = None
        for place in self._nodes.keys() - set(owners):
            self._nodes.pop(place).retire(_GONE)
