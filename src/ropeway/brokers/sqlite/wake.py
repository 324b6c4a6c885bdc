"""Waking what waits: at once for changes by this process, within a poll for those by others.

SQLite tells nobody of a commit, but `PRAGMA data_version` costs two microseconds and changes with
every commit of another connection. While somebody waits it is asked every 2 ms after recent
changes, slowing down to every 25 ms: 40 looks a second cost less than 0.1 % of a core.
"""

import asyncio
from typing import Final

import apsw

from ropeway.errors import Disconnected

_FAST_S: Final = 0.002
_SLOW_S: Final = 0.025
_SLOWER: Final = 1.1  # from one look to the next, once `_LIVELY_S` have passed without a change
_LIVELY_S: Final = 1.0


class Bell:
    """Serves one event loop; `connection` is used by that loop's thread alone."""

    def __init__(self, loop: asyncio.AbstractEventLoop, connection: apsw.Connection) -> None:
        self._loop = loop
        self._connection = connection
        self._sleepers: set[asyncio.Future[None]] = set()
        self._rung = 0
        self._version = -1
        self._changed_at = loop.time()
        self._pause_s = _FAST_S
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def cursor(self) -> apsw.Cursor:
        """For cheap looks from the loop's own thread, by an index only."""
        if self._closed:
            raise Disconnected("the broker was closed while a call waited")
        return self._connection.cursor()

    @property
    def ticket(self) -> int:
        """Take one before looking; a ring since then ends `sleep` at once."""
        return self._rung

    def ring(self) -> None:
        """Something has changed: let everybody look."""
        self._rung += 1
        for sleeper in self._sleepers:
            if not sleeper.done():
                sleeper.set_result(None)
        self._sleepers.clear()

    async def sleep(self, ticket: int, seconds: float) -> None:
        """Until a ring after `ticket`, at most `seconds`."""
        if self._closed or ticket != self._rung or seconds <= 0:
            return
        sleeper: asyncio.Future[None] = self._loop.create_future()
        self._sleepers.add(sleeper)
        alarm = self._loop.call_later(seconds, _end, sleeper)
        if self._timer is None:
            self._timer = self._loop.call_later(self._pause_s, self._poll)
        try:
            await sleeper
        finally:
            alarm.cancel()
            self._sleepers.discard(sleeper)

    def close(self) -> None:
        """Wake everybody and look no more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self.ring()
        self._connection.close()

    def _poll(self) -> None:
        self._timer = None
        if not self._sleepers:
            return
        ((version,),) = self._connection.execute("PRAGMA data_version").fetchall()
        now = self._loop.time()
        if version != self._version:
            self._version, self._changed_at, self._pause_s = version, now, _FAST_S
            self.ring()
        elif now - self._changed_at > _LIVELY_S:
            self._pause_s = min(self._pause_s * _SLOWER, _SLOW_S)
        self._timer = self._loop.call_later(self._pause_s, self._poll)


def _end(sleeper: asyncio.Future[None]) -> None:
    if not sleeper.done():
        sleeper.set_result(None)
