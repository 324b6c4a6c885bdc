"""Calls to a Redis Cluster: each goes to the master of its tag's slot, wherever that is now."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from ropeway.brokers.redis.wire.address import Address, show
from ropeway.brokers.redis.wire.dial import Dialer
from ropeway.brokers.redis.wire.node import Node
from ropeway.brokers.redis.wire.replies import Lost, ReplyError, error_of
from ropeway.brokers.redis.wire.slots import Place, read_redirect, slot_of
from ropeway.brokers.redis.wire.topology import Topology
from ropeway.brokers.redis.wire.words import (
    Confirmation,
    Followed,
    Script,
    Word,
    follow,
    pack,
    pack_all,
)
from ropeway.errors import BrokerError, Disconnected

_PATIENCE_S: Final = 5.0
_PAUSE_S: Final = 0.05
_PAUSE_MAX_S: Final = 0.5
# Not executed, and worth a second try after a moment.
_AGAIN: Final = frozenset(
    {"MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "READONLY"}
)
_AT_ONCE: Final = 3  # redirects that are followed without a pause


class _Command(NamedTuple):
    packed: bytes
    script: Script | None = None
    block_s: float | None = None
    followed: Followed | None = None

    async def to(self, node: Node, *, asking: bool = False) -> Any:
        if self.followed is not None and self.script is not None:
            return await node.ask_confirmed(self.followed, self.script)
        if self.block_s is not None:
            return await node.block(self.packed, self.block_s, asking=asking)
        if asking:
            return await node.ask_asking(self.packed)
        return await node.ask(self.packed, self.script)


class ClusterClient:
    """A `Client` of a cluster, with one pipelined connection per master that is used."""

    kind = "cluster"

    def __init__(self, address: Address, dialer: Dialer, *, block_extra_s: float) -> None:
        self.address = address
        self._topology = Topology(address, dialer, block_extra_s=block_extra_s)
        self.confirmation: Confirmation | None = None

    @property
    def version(self) -> str:
        return self._topology.version

    @property
    def nodes(self) -> list[str]:
        places = dict.fromkeys(self._topology.owners)
        return [show(*place) for place in places if place is not None]

    async def open(self) -> None:
        await self._topology.open()

    async def close(self) -> None:
        await self._topology.close()

    async def run(self, script: Script, tag: str, args: Sequence[Word]) -> Any:
        packed = pack(("EVALSHA", script.sha, 1, tag, *args))
        confirmation, followed = self.confirmation, None
        if confirmation is not None and script.name not in confirmation.unneeded:
            followed = follow(packed, tag, confirmation)
        return await self._route(slot_of(tag), _Command(packed, script, followed=followed))

    async def call(self, tag: str, *words: Word) -> Any:
        return await self._route(slot_of(tag), _Command(pack(words)))

    async def block(self, tag: str, *words: Word, timeout_s: float) -> Any:
        return await self._route(slot_of(tag), _Command(pack(words), block_s=timeout_s))

    async def call_all(self, calls: Sequence[tuple[str, Sequence[Word]]]) -> list[Any]:
        """One batch per node; what a node sends elsewhere goes there, one by one."""
        results: list[Any] = [None] * len(calls)
        shares: dict[Place | None, list[int]] = {}
        if self._topology.stale and calls:
            try:
                await self._topology.refresh()
            except BrokerError as error:
                return [error] * len(calls)
        for position, (tag, _) in enumerate(calls):
            shares.setdefault(self._topology.owners[slot_of(tag)], []).append(position)
        await asyncio.gather(
            *(self._share(place, share, calls, results) for place, share in shares.items())
        )
        return results

    # --- routing --------------------------------------------------------------------------------

    async def _route(self, slot: int, command: _Command) -> Any:
        """Send the command to the slot's master; follow redirects, and wait out short troubles."""
        topology = self._topology
        until_s, tries = 0.0, 0
        while True:
            if topology.stale:
                await topology.refresh()
            place = topology.owners[slot]
            try:
                reply = await self._try(slot, place, command)
            except Lost:
                topology.doubt(place)
                raise
            except Disconnected as error:  # nothing was sent
                topology.doubt(place)
                await topology.refresh()
                if topology.owners[slot] in {place, None}:
                    raise
                reply = error
            if not isinstance(reply, BrokerError):
                return reply
            tries += 1
            now_s = asyncio.get_running_loop().time()
            until_s = until_s or now_s + _PATIENCE_S
            self._learn(reply, slot, place)
            if now_s > until_s or not _worth_repeating(reply):
                raise self._error(reply, place)
            if tries > _AT_ONCE or not (isinstance(reply, ReplyError) and reply.code == "MOVED"):
                await asyncio.sleep(min(_PAUSE_S * tries, _PAUSE_MAX_S))

    async def _try(self, slot: int, place: Place | None, command: _Command) -> Any:
        """The reply of the node there, or of the one to which the slot is just being moved."""
        if place is None:
            return ReplyError("CLUSTERDOWN", f"no node serves slot {slot}")
        reply = await command.to(self._topology.node(place))
        # A script may use keys that it does not name. While its slot is moved, they are partly
        # here and partly there, so it waits until the slot is whole again.
        if type(reply) is ReplyError and reply.code == "ASK" and command.script is None:
            target = self._topology.node(read_redirect(reply.message, place[0])[1])
            reply = await command.to(target, asking=True)
        return reply

    def _learn(self, reply: BrokerError, slot: int, place: Place | None) -> None:
        """Take from an error reply what it tells about the map."""
        if not isinstance(reply, ReplyError):
            return
        if reply.code == "MOVED" and place is not None:
            self._topology.owners[slot] = read_redirect(reply.message, place[0])[1]
            self._topology.refresh_later()
        elif reply.code in {"CLUSTERDOWN", "READONLY"}:
            self._topology.doubt(place)

    def _error(self, reply: BrokerError, place: Place | None) -> BrokerError:
        if not isinstance(reply, ReplyError):
            return reply
        where = "the cluster" if place is None else show(*place)
        if reply.code in {"MOVED", "READONLY"}:
            return Disconnected(
                f"{where}: the cluster does not agree who serves this slot ({reply}); not "
                "executed. Repeat the call, and see CLUSTER NODES"
            )
        return error_of(reply, where, self.address.username)

    async def _share(
        self,
        place: Place | None,
        share: list[int],
        calls: Sequence[tuple[str, Sequence[Word]]],
        results: list[Any],
    ) -> None:
        replies: list[Any] = [ReplyError("MOVED", "")] * len(share)
        if place is not None:
            packed = pack_all([tuple(calls[position][1]) for position in share])
            try:
                replies = await self._topology.node(place).ask_all(packed, len(share))
            except Lost as error:
                self._topology.doubt(place)
                replies = [error] * len(share)
            except BrokerError:
                self._topology.doubt(place)  # nothing was sent: each is routed anew
        for position, reply in zip(share, replies, strict=True):
            results[position] = reply
            if type(reply) is ReplyError:
                if _worth_repeating(reply):
                    results[position] = await self._item(*calls[position])
                else:
                    results[position] = self._error(reply, place)

    async def _item(self, tag: str, words: Sequence[Word]) -> Any:
        try:
            return await self.call(tag, *words)
        except BrokerError as error:
            return error


def _worth_repeating(reply: BrokerError) -> bool:
    return not isinstance(reply, ReplyError) or reply.code in _AGAIN
