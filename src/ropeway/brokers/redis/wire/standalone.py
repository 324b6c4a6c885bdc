"""Calls to a single server, or to the master that sentinels name."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from ropeway.brokers.redis.wire.address import Address
from ropeway.brokers.redis.wire.link import Link
from ropeway.brokers.redis.wire.node import Node
from ropeway.brokers.redis.wire.replies import ReplyError, error_of
from ropeway.brokers.redis.wire.words import Confirmation, Script, Word, follow, pack, pack_all
from ropeway.errors import BrokerError, Disconnected, StorageReadOnly

Watch = Callable[[Node], Coroutine[Any, Any, None]]


class SingleClient:
    """A `Client` of one server at a time; `dial` finds it and connects, again after each loss.

    `watch` runs while the client is open, and makes it leave a server that is no longer the right
    one.
    """

    def __init__(
        self,
        address: Address,
        dial: Callable[[], Awaitable[Link]],
        *,
        block_extra_s: float,
        watch: Watch | None = None,
    ) -> None:
        self.address = address
        self._watch = watch
        self._watching: asyncio.Task[None] | None = None
        self._node = Node(dial, block_extra_s=block_extra_s)
        self._last: Link | None = None
        self.confirmation: Confirmation | None = None

    @property
    def kind(self) -> str:
        return self.address.kind

    @property
    def version(self) -> str:
        link = self._node.linked or self._last
        return "" if link is None else link.server.get("version", "")

    @property
    def nodes(self) -> list[str]:
        link = self._node.linked or self._last
        return [] if link is None else [link.where]

    async def open(self) -> None:
        self._node.reopen()
        self._last = await self._node.link()
        if self._watch is not None and self._watching is None:
            self._watching = asyncio.create_task(self._watch(self._node))

    async def close(self) -> None:
        watching, self._watching = self._watching, None
        if watching is not None:
            watching.cancel()
            await asyncio.wait([watching])
        await self._node.close()

    async def run(self, script: Script, tag: str, args: Sequence[Word]) -> Any:
        packed = pack(("EVALSHA", script.sha, 1, tag, *args))
        confirmation = self.confirmation
        if confirmation is not None and script.name not in confirmation.unneeded:
            reply = await self._node.ask_confirmed(follow(packed, tag, confirmation), script)
        else:
            reply = await self._node.ask(packed, script)
        if type(reply) is ReplyError:
            raise self._error(reply)
        return reply

    async def call(self, tag: str, *words: Word) -> Any:  # noqa: ARG002 - one server: no routing
        reply = await self._node.ask(pack(words))
        if type(reply) is ReplyError:
            raise self._error(reply)
        return reply

    async def call_all(self, calls: Sequence[tuple[str, Sequence[Word]]]) -> list[Any]:
        if not calls:
            return []
        packed = pack_all([tuple(words) for _, words in calls])
        try:
            replies = await self._node.ask_all(packed, len(calls))
        except BrokerError as error:
            return [error] * len(calls)
        return [self._error(reply) if type(reply) is ReplyError else reply for reply in replies]

    async def block(self, tag: str, *words: Word, timeout_s: float) -> Any:  # noqa: ARG002
        reply = await self._node.block(pack(words), timeout_s)
        if type(reply) is ReplyError:
            raise self._error(reply)
        return reply

    def _error(self, reply: ReplyError) -> BrokerError:
        self._last = self._node.linked or self._last
        where = self._last.where if self._last else str(self.address)
        error = error_of(reply, where, self.address.username)
        if isinstance(error, StorageReadOnly) and self.kind == "sentinel":
            return Disconnected(
                f"{where} is no longer the master, and the sentinels name no other one yet; "
                "nothing was written. Repeat the call"
            )
        return error
