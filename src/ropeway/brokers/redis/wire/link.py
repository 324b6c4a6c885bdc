"""One connection: commands out in one write per turn of the loop, replies back in their order."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final, cast

import hiredis

from ropeway.brokers.redis.wire.replies import Lost, ReplyError, error_of
from ropeway.errors import Disconnected

_BIG: Final = 64 * 1024  # bytes; from here on a command is written as it is, not joined to others
_GRACE_S: Final = 0.1
_CLOSE_S: Final = 1.0
_MORE: Final = object()

Waiter = asyncio.Future[Any]


class _Batch:
    """Stands in the queue of waiters once per command of a batch and gathers their replies."""

    __slots__ = ("_left", "_replies", "future")

    def __init__(self, count: int, future: asyncio.Future[list[Any]]) -> None:
        self._left = count
        self._replies: list[Any] = []
        self.future = future

    def done(self) -> bool:
        return self.future.done()

    def set_result(self, reply: object) -> None:
        self._replies.append(reply)
        self._left -= 1
        if not self._left:
            self.future.set_result(self._replies)

    def set_exception(self, error: BaseException) -> None:
        self.future.set_exception(error)


class Link(asyncio.Protocol):
    """A connection that many callers share.

    Each caller gets a future. A cancelled one takes only itself out: its reply is dropped when it
    comes. When the connection is lost, every caller in flight gets `Lost`, and `on_lost` is called.

    While replies are awaited and no byte has come for `deadline_s`, the connection counts as lost.
    That costs one timer for all callers, and none while nothing is in flight.
    """

    def __init__(self, where: str, user: str | None, deadline_s: float) -> None:
        self.where = where
        self.user = user
        self.lost: str = ""  # why, once it is
        self.on_lost: Callable[[Link], None] | None = None
        self.server: dict[str, str] = {}  # what HELLO said
        self.loaded: set[str] = set()  # the scripts that were loaded over this connection
        self._deadline_s = deadline_s
        self._loop = asyncio.get_running_loop()
        self._gone = self._loop.create_future()
        self._reader = hiredis.Reader(replyError=ReplyError.read, notEnoughData=_MORE)
        self._waiters: deque[Waiter] = deque()
        self._out: list[bytes] = []
        self._gathers = False  # something was written in this turn of the loop
        self._heard_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._late = False
        self._unwritten = 0  # bytes, when the timer last looked
        self._retiring = False
        self._transport: asyncio.Transport

    @property
    def peer(self) -> tuple[str, int]:
        """The numeric address and the port of the other side of a TCP connection."""
        host, port, *_ = cast(tuple[Any, ...], self._transport.get_extra_info("peername"))
        return host, port

    def send(self, packed: bytes) -> Waiter:
        """Send one command; the future is its reply. An error reply is a value here."""
        waiter = self._loop.create_future()
        self._push(packed)
        self._waiters.append(waiter)
        return waiter

    def send_all(self, packed: bytes, count: int) -> asyncio.Future[list[Any]]:
        """Send `count` commands, at least one, without others in between; the future is a list."""
        batch = _Batch(count, self._loop.create_future())
        self._push(packed)
        self._waiters.extend([cast(Waiter, batch)] * count)
        return batch.future

    def set_deadline(self, seconds: float) -> None:
        """Change the deadline, for the calls from now on."""
        self._deadline_s = seconds
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def retire(self) -> None:
        """Close when what is in flight has been answered."""
        self._retiring = True
        if not self._waiters:
            self.close("closed by its owner")

    def close(self, why: str) -> None:
        """Close now: callers in flight get `Lost`, what is written still leaves."""
        self._fail(why)
        self._transport.close()

    def abort(self, why: str) -> None:
        """Close now, whatever is still unwritten."""
        self._fail(why)
        self._transport.abort()

    async def closed(self) -> None:
        """Wait until the socket is closed; a peer that does not answer is given up after 1 s."""
        await asyncio.wait([self._gone], timeout=_CLOSE_S)
        if not self._gone.done():
            self._transport.abort()
            await self._gone

    # --- the loop's side ------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Hand out the replies in `data` to those who wait for them, in order."""
        reader, next_waiter = self._reader, self._waiters.popleft
        reply = None
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not _MORE:
                waiter = next_waiter()
                if not waiter.done():
                    waiter.set_result(reply)
        except IndexError:
            self._uninvited(reply)
        except hiredis.HiredisError as error:
            self.abort(f"what answers there does not speak Redis's protocol ({error})")
        self._heard_s = self._loop.time()
        if self._retiring and not self._waiters:
            self.close("closed by its owner")

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"the connection broke ({exc})" if exc else "the server closed the connection")
        if not self._gone.done():
            self._gone.set_result(None)

    # --- inside ---------------------------------------------------------------------------------

    def _push(self, packed: bytes) -> None:
        """Write the first command of a turn of the loop at once, and the others together.

        What the loop does next, such as a batch of handlers, need not hold up the server.
        """
        if self.lost:
            raise Disconnected(f"{self.where}: {self.lost}; the call was not sent. Repeat it")
        if not self._waiters:
            self._heard_s = self._loop.time()
        if self._gathers:
            self._out.append(packed)
            if len(packed) > _BIG:
                self._write()
        else:
            self._gathers = True
            self._loop.call_soon(self._flush)
            self._transport.write(packed)

    def _flush(self) -> None:
        self._gathers = False
        self._write()
        if self._timer is None and not self.lost:
            self._unwritten = self._transport.get_write_buffer_size()
            self._watch(self._deadline_s)

    def _write(self) -> None:
        out = self._out
        if not out or self.lost:
            return
        self._out = []
        # The transport keeps what the socket does not take; it is bounded by the callers, each
        # of whom waits for its reply.
        if len(out[-1]) > _BIG:
            self._transport.write(b"".join(out[:-1]))
            self._transport.write(out[-1])
        else:
            self._transport.write(b"".join(out))

    def _watch(self, seconds: float) -> None:
        self._timer = self._loop.call_later(seconds, self._check)

    def _check(self) -> None:
        """The timer: is an answer overdue?"""
        self._timer = None
        if not self._waiters:
            return
        unwritten = self._transport.get_write_buffer_size()
        if unwritten < self._unwritten:  # a long value is still on its way: the server reads
            self._heard_s = self._loop.time()
        self._unwritten = unwritten
        left_s = self._heard_s + self._deadline_s - self._loop.time()
        if left_s > 0:
            self._late = False
            self._watch(left_s)
        elif not self._late:
            # It may be the loop that was held up: it gets a turn to read what has arrived.
            self._late = True
            self._watch(_GRACE_S)
        else:
            self.abort(f"the server has not answered for {self._deadline_s:g} s")

    def _uninvited(self, reply: object) -> None:
        """A reply that nobody asked for: how a server says no to a new connection."""
        if isinstance(reply, ReplyError):
            self.abort(str(error_of(reply, "the server", self.user)))
        else:
            self.abort("the server sent a reply that nobody had asked for")

    def _fail(self, why: str) -> None:
        if self.lost:
            return
        self.lost = why
        self._out.clear()
        if self._timer is not None:
            self._timer.cancel()
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_exception(
                    Lost(
                        f"{self.where}: {why}; whether the call was executed is not known. "
                        "Repeat it once the server can be reached"
                    )
                )
        if self.on_lost is not None:
            self.on_lost(self)
