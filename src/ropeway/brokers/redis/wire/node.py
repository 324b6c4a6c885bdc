"""One server, or whoever has the role of the master: a shared connection, reopened when needed."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from ropeway.brokers.redis.wire.link import Link
from ropeway.brokers.redis.wire.replies import ReplyError
from ropeway.brokers.redis.wire.words import Followed, Script, pack
from ropeway.errors import Disconnected

_IDLE_MAX: Final = 4  # connections kept for blocking calls; more are opened, and closed after use
_CLOSED: Final = "the client is closed"
_BLOCK_EXTRA_S: Final = 10.0
_AGAIN_MAX: Final = 20  # a server may forget its scripts between their loading and their use

ASKING: Final = pack(("ASKING",))


class Node:
    """Calls to one server. All error replies are values here; the clients give them meaning.

    The connection is opened by the first call that needs it, once for all callers who wait
    meanwhile, and never in the background: who is not called does not reconnect.
    """

    def __init__(
        self, dial: Callable[[], Awaitable[Link]], *, block_extra_s: float = _BLOCK_EXTRA_S
    ) -> None:
        self._dial = dial
        self._block_extra_s = block_extra_s
        self._link: Link | None = None
        self._dialing: asyncio.Task[Link] | None = None
        self._loading: dict[str, asyncio.Task[Any]] = {}
        self._idle: list[Link] = []  # for blocking calls
        self._busy: set[Link] = set()
        self._shut = ""

    @property
    def linked(self) -> Link | None:
        """The shared connection, while there is one."""
        return self._link

    async def link(self) -> Link:
        """The shared connection, opened now if there is none.

        Raises:
            Disconnected, Refused: it cannot be opened; nothing was sent.
        """
        if self._link is not None:
            return self._link
        if self._shut:
            raise Disconnected(f"{self._shut}; the call was not sent")
        if self._dialing is None:
            self._dialing = asyncio.create_task(self._connect())
            self._dialing.add_done_callback(_retrieve)
        # A cancelled caller must not take the connection from the others.
        return await asyncio.shield(self._dialing)

    async def ask(self, packed: bytes, script: Script | None = None) -> Any:
        """The reply to one command. A script that the server does not know is loaded first."""
        link = self._link or await self.link()
        reply = await link.send(packed)
        if type(reply) is ReplyError:
            return await self._again(reply, link, packed, script)
        return reply

    async def ask_confirmed(self, followed: Followed, script: Script) -> Any:
        """The reply to a script, once the commands sent with it confirm its effect.

        It is loaded first: what confirms a script that is unknown may take its time for nothing.

        Raises:
            Lost: they do not; the script was executed.
        """
        while True:
            link = self._link or await self.link()
            if script.sha not in link.loaded:
                loaded = await self._load(script, link)
                if type(loaded) is ReplyError:
                    return loaded
            reply, *confirmed = await link.send_all(followed.packed, followed.length)
            if type(reply) is not ReplyError:
                followed.check(confirmed, link.where)
                return reply
            if reply.code == "NOSCRIPT":  # forgotten since
                link.loaded.clear()
                continue
            if reply.code == "READONLY" and link is self._link:
                self._drop(link)
                if (await self.link()).where != link.where:  # another one is the master now
                    continue
            return reply

    async def ask_all(self, packed: bytes, count: int) -> list[Any]:
        """The replies to `count` commands, sent without others in between."""
        link = self._link or await self.link()
        replies = await link.send_all(packed, count)
        if any(type(reply) is ReplyError and reply.code == "READONLY" for reply in replies):
            self._drop(link)
        return replies

    async def ask_asking(self, packed: bytes) -> Any:
        """The reply to one command for a slot that is just being moved to this node."""
        return (await self.ask_all(ASKING + packed, 2))[-1]

    async def block(self, packed: bytes, timeout_s: float, *, asking: bool = False) -> Any:
        """The reply to a command that blocks for up to `timeout_s`, on a connection of its own.

        If the caller is cancelled or anything fails, that connection is closed, so that the late
        reply reaches nobody else.
        """
        link = await self._lend()
        whole = False
        try:
            link.set_deadline(timeout_s + self._block_extra_s)
            if asking:
                reply = (await link.send_all(ASKING + packed, 2))[-1]
            else:
                reply = await link.send(packed)
            whole = True
        finally:
            self._busy.discard(link)
            if whole and not link.lost and not self._shut and len(self._idle) < _IDLE_MAX:
                self._idle.append(link)
            else:
                link.close("the blocking call was given up")
        if type(reply) is ReplyError and reply.code in {"READONLY", "UNBLOCKED"}:
            self._drop(self._link)
        return reply

    async def close(self, why: str = _CLOSED) -> None:
        """Close every connection; callers in flight get `Lost`. May be repeated."""
        self._shut = why
        if self._dialing is not None:
            self._dialing.cancel()
            await asyncio.wait([self._dialing])
        links = [*self._idle, *self._busy, *([self._link] if self._link else [])]
        self._link = None
        self._idle.clear()
        for link in links:
            link.close(why)
        for link in links:
            await link.closed()

    def leave(self, why: str) -> None:
        """Close every connection, because another server is the right one now.

        Callers in flight get `Lost`: what this server still writes may not count.
        """
        for link in [*self._idle, *self._busy, *([self._link] if self._link else [])]:
            link.close(why)
        self._idle.clear()

    def retire(self, why: str) -> None:
        """Take no more calls; what is in flight is still answered."""
        self._shut = why
        self._drop(self._link)

    def reopen(self) -> None:
        """Take calls again after `close`."""
        self._shut = ""

    # --- inside ---------------------------------------------------------------------------------

    async def _connect(self) -> Link:
        try:
            link = await self._dial()
            link.on_lost = self._lost
            if not link.lost:
                self._link = link
            return link
        except asyncio.CancelledError:
            if self._shut:  # by `close`, not by those who wait: for them it is an error
                raise Disconnected(f"{self._shut}; the call was not sent") from None
            raise
        finally:
            self._dialing = None

    def _lost(self, link: Link) -> None:
        if self._link is link:
            self._link = None

    def _drop(self, link: Link | None) -> None:
        """Leave a connection whose server is not, or no longer, the right one."""
        if link is not None and self._link is link:
            self._link = None
            link.retire()
        while self._idle:
            self._idle.pop().retire()

    async def _lend(self) -> Link:
        while self._idle:
            link = self._idle.pop()
            if not link.lost:
                self._busy.add(link)
                return link
        if self._shut:
            raise Disconnected(f"{self._shut}; the call was not sent")
        link = await self._dial()
        if self._shut:
            link.close(self._shut)
            raise Disconnected(f"{self._shut}; the call was not sent")
        self._busy.add(link)
        return link

    async def _again(
        self, error: ReplyError, link: Link, packed: bytes, script: Script | None
    ) -> Any:
        """More tries after errors that another connection or a loaded script can repair."""
        reply: Any = error
        moved = False
        for _ in range(_AGAIN_MAX):
            if type(reply) is not ReplyError:
                break
            if reply.code == "READONLY" and not moved:
                moved = True
                self._drop(link)
                link = await self.link()
            elif reply.code == "NOSCRIPT" and script is not None:
                loaded = await self._load(script, link)
                if type(loaded) is ReplyError:
                    return loaded
            else:
                break
            reply = await link.send(packed)
        return reply

    async def _load(self, script: Script, link: Link) -> Any:
        """SCRIPT LOAD, once for all callers who miss it at the same time."""
        task = self._loading.get(script.sha)
        if task is None:
            task = asyncio.create_task(_load(script, link))
            task.add_done_callback(_retrieve)
            task.add_done_callback(lambda _: self._loading.pop(script.sha, None))
            self._loading[script.sha] = task
        return await asyncio.shield(task)


async def _load(script: Script, link: Link) -> Any:
    reply = await link.send(pack(("SCRIPT", "LOAD", script.source)))
    if type(reply) is ReplyError:
        return ReplyError(reply.code, f"{reply.message} (while loading the script {script.name!r})")
    link.loaded.add(script.sha)
    return reply


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Whoever waited has the error; if nobody did any more, it is nobody's."""
    if not task.cancelled():
        task.exception()
