"""Waiting at the server: a bell that wakes one of those who wait for jobs, and news of ends."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from ropeway.brokers.redis.wire.client import Client
from ropeway.errors import BrokerError, Disconnected

LISTEN_S: Final = 1.0
"""So long at most is one blocking call. A bell that was heard by a process that died is made up
for after this."""


class Doorbell:
    """Wakes this process when a list is pushed to: of all who wait, the server wakes one.

    The blocking call goes on while nobody here waits, until it ends or hears something: a bell
    that was not meant for somebody here is rung again for the others.
    """

    def __init__(self, client: Client, tag: str) -> None:
        self._client = client
        self._tag = tag
        self._waiters: defaultdict[tuple[str, ...], set[asyncio.Future[None]]] = defaultdict(set)
        self._listeners: dict[tuple[str, ...], asyncio.Task[None]] = {}

    async def wait(self, keys: tuple[str, ...], seconds: float) -> None:
        """Return after a bell at one of `keys`, or after so many seconds.

        Raises:
            Disconnected: the server is away.
        """
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters[keys].add(waiter)
        if keys not in self._listeners:
            self._listeners[keys] = asyncio.create_task(self._listen(keys))
        try:
            async with asyncio.timeout(seconds):
                await waiter
        except TimeoutError:
            pass
        finally:
            self._waiters[keys].discard(waiter)
            if keys not in self._listeners and not self._waiters[keys]:
                del self._waiters[keys]

    async def close(self) -> None:
        """End all blocking calls."""
        for task in list(self._listeners.values()):
            task.cancel()
        await asyncio.gather(*self._listeners.values(), return_exceptions=True)

    async def _listen(self, keys: tuple[str, ...]) -> None:
        try:
            while self._waiters[keys]:
                heard = await self._client.block(
                    self._tag, "BLPOP", *keys, str(LISTEN_S), timeout_s=LISTEN_S
                )
                if heard is not None and not self._wake(keys):
                    await self._client.call(self._tag, "RPUSH", heard[0], "1")
        except BrokerError as error:
            self._wake(keys, error)
        except asyncio.CancelledError:
            self._wake(keys, Disconnected("the broker was closed"))
            raise
        finally:
            del self._listeners[keys]
            if not self._waiters[keys]:
                del self._waiters[keys]

    def _wake(self, keys: Sequence[str], error: Exception | None = None) -> bool:
        """Wake all who wait here; whether there was anybody."""
        waiters, self._waiters[tuple(keys)] = self._waiters[tuple(keys)], set()
        waiting = [waiter for waiter in waiters if not waiter.done()]
        for waiter in waiting:
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(error)
        return bool(waiting)
