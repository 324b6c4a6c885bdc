"""Faults of the network between one process and the server of its broker."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Final

from ropeway.verify.faults.proxy import Proxy, server_of

REPLY_BYTES: Final = 8
"""A reply is cut after so few bytes that its call has taken effect and nobody can know it."""
SLOW_S: Final = 0.1
SLOW_BYTES_PER_S: Final = 20_000


async def _cut(proxy: Proxy, _seconds: float) -> None:
    proxy.cut()


async def _reset(proxy: Proxy, _seconds: float) -> None:
    proxy.cut(reset=True)


async def _half_open(proxy: Proxy, seconds: float) -> None:
    proxy.swallow()
    await asyncio.sleep(seconds)


async def _slow(proxy: Proxy, seconds: float) -> None:
    proxy.slow(delay_s=SLOW_S, bytes_per_s=SLOW_BYTES_PER_S)
    await asyncio.sleep(seconds)


async def _stall(proxy: Proxy, seconds: float) -> None:
    proxy.stall("to_client" if proxy.accepted % 2 else "to_server")
    await asyncio.sleep(seconds)


async def _refuse(proxy: Proxy, seconds: float) -> None:
    proxy.refuse()
    proxy.cut()
    await asyncio.sleep(seconds)


async def _lost_reply(proxy: Proxy, seconds: float) -> None:
    proxy.cut_reply(after_bytes=REPLY_BYTES)
    await asyncio.sleep(seconds)


NETWORK: Final[Mapping[str, Callable[[Proxy, float], Awaitable[None]]]] = {
    "cut": _cut,
    "reset": _reset,
    "half_open": _half_open,
    "slow": _slow,
    "stall": _stall,
    "refuse": _refuse,
    "lost_reply": _lost_reply,
}
"""What each kind of fault does to a process's proxy, for so many seconds at most."""


class Network:
    """A proxy for each process, where the broker is a server; else it does nothing.

    Args:
        url: of the broker.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._server = server_of(url)
        self._proxies: dict[str, Proxy] = {}
        self._stack = AsyncExitStack()

    async def url_for(self, name: str) -> str:
        """The broker's URL for the process of that name: through a proxy of its own."""
        if self._server is None:
            return self._url
        proxy = await self._stack.enter_async_context(Proxy(*self._server))
        self._proxies[name] = proxy
        return proxy.url(self._url)

    async def strike(self, kind: str, name: str, *, seconds: float) -> None:
        """Let one kind of fault hit that process; returns when all is healed."""
        proxy = self._proxies[name]
        try:
            await NETWORK[kind](proxy, seconds)
        finally:
            await proxy.heal()

    async def close(self) -> None:
        """End the proxies."""
        await self._stack.aclose()
