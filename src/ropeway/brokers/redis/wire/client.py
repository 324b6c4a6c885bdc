"""What the broker calls, and how it gets one."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

from ropeway.brokers.redis.wire.address import Address
from ropeway.brokers.redis.wire.cluster import ClusterClient
from ropeway.brokers.redis.wire.dial import CONNECT_S, REPLY_S, Dialer
from ropeway.brokers.redis.wire.sentinel import Sentinels
from ropeway.brokers.redis.wire.standalone import SingleClient
from ropeway.brokers.redis.wire.words import Confirmation, Script, Word

__all__ = ["Client", "Confirmation", "Script", "Word", "connect"]


class Client(Protocol):
    """A Redis of any shape. It belongs to the event loop that opened it, and to its process.

    Replies are bytes, int, list or None. Concurrent calls share one connection per server and
    leave together; a cancelled caller takes only itself out (what it sent may be executed).

    Every call raises:
        Disconnected: the server cannot be reached or cannot answer now; the call was not executed.
        Lost: a `Disconnected` with the call under way: it may have been executed.
        StorageFull, StorageReadOnly: nothing was written.
        Refused: wrong user, password, certificate or kind of server.
        ReplyError: any other error reply; `code` and `message` are the server's or the script's.
    """

    confirmation: Confirmation | None
    """What scripts must be confirmed by, but for those that it names; None: nothing."""

    @property
    def kind(self) -> str:
        """`standalone`, `sentinel` or `cluster`."""
        ...

    @property
    def version(self) -> str:
        """The server's version, like `7.0.15`; empty before `open`, or if it does not tell."""
        ...

    @property
    def nodes(self) -> list[str]:
        """`host:port` of the servers that take calls, as far as known."""
        ...

    async def open(self) -> None:
        """Connect, so that what is wrong is said now. Later calls reconnect by themselves."""
        ...

    async def close(self) -> None:
        """Close all connections; callers in flight get `Lost`. May be repeated."""
        ...

    async def run(self, script: Script, tag: str, args: Sequence[Word]) -> Any:
        """Run a script with `tag` as its only key; a server that does not know it learns it.

        In a cluster, scripts that use more keys than `tag` are safe while slots are moved as long
        as no key is ever named exactly `tag`: then no script runs on half of a slot, but waits for
        up to 5 s and raises Disconnected.
        """
        ...

    async def call(self, tag: str, *words: Word) -> Any:
        """Any ordinary command. In a cluster `tag` chooses the node."""
        ...

    async def call_all(self, calls: Sequence[tuple[str, Sequence[Word]]]) -> list[Any]:
        """Commands in one go, each a tag and its words. Replies by position; an error is an item.

        It is no transaction, and in a cluster the order is kept only within a slot that stays.
        """
        ...

    async def block(self, tag: str, *words: Word, timeout_s: float) -> Any:
        """A command that blocks for up to `timeout_s` seconds, on a connection of its own.

        `timeout_s` repeats what the words say, and is over 0. If the caller is cancelled, the
        connection is closed: what the command would have taken from the server may be gone.
        """
        ...


def connect(address: Address, *, reply_s: float = REPLY_S, connect_s: float = CONNECT_S) -> Client:
    """The client for an address; it connects at `open`.

    Args:
        address: from `address.parse`.
        reply_s: seconds without any byte, while replies are awaited, after which a connection
            counts as lost. A blocking call has them on top of its own time.
        connect_s: seconds that an attempt to connect, handshake included, may last.

    Raises:
        ConfigError: a TLS file cannot be read.
    """
    dialer = Dialer(address, reply_s=reply_s, connect_s=connect_s)
    if address.kind == "cluster":
        return ClusterClient(address, dialer, block_extra_s=reply_s)
    if address.kind == "sentinel":
        sentinels = Sentinels(address, dialer)
        return SingleClient(address, sentinels.dial, block_extra_s=reply_s, watch=sentinels.watch)
    host, port = address.hosts[0] if address.hosts else ("", 0)
    return SingleClient(address, partial(dialer.dial, host, port), block_extra_s=reply_s)
