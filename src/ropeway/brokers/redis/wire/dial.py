"""Opening a connection: TCP, TLS or a socket file, then the handshake."""

import asyncio
import socket
import ssl
from collections.abc import Sequence
from typing import Any, Final, cast

from ropeway.brokers.redis.wire.address import TLS, Address, show
from ropeway.brokers.redis.wire.link import Link
from ropeway.brokers.redis.wire.replies import Lost, Refused, ReplyError, error_of
from ropeway.brokers.redis.wire.words import Word, pack
from ropeway.errors import ConfigError, Disconnected

REPLY_S: Final = 10.0
CONNECT_S: Final = 5.0
_NAME: Final = "ropeway"

# A peer that is gone without a word is noticed after 5 + 3 · 3 = 14 s, whether the connection is
# idle (keepalive) or has unacknowledged data (user timeout). What a system lacks is left out; macOS
# calls the first one otherwise.
_SOCKET_OPTIONS: Final = (
    (("TCP_KEEPIDLE", "TCP_KEEPALIVE"), 5),
    (("TCP_KEEPINTVL",), 3),
    (("TCP_KEEPCNT",), 3),
    (("TCP_USER_TIMEOUT",), 14_000),
)
_MODE_MEANT: Final = {
    "standalone": "is a Redis without sentinels or cluster; give a redis:// URL",
    "sentinel": "is a sentinel; give a redis+sentinel:// URL with the name of the master",
    "cluster": "is a node of a Redis Cluster; give a redis+cluster:// URL",
}


class Dialer:
    """Opens connections the way an address says. Each attempt ends within `connect_s` seconds."""

    def __init__(
        self, address: Address, *, reply_s: float = REPLY_S, connect_s: float = CONNECT_S
    ) -> None:
        self._address = address
        self._reply_s = reply_s
        self._connect_s = connect_s
        self._ssl = None if address.tls is None else _context(address.tls)

    async def dial(self, host: str, port: int) -> Link:
        """A connection to a server that holds data.

        Raises:
            Disconnected: nobody answers there.
            Refused: the server does not let this user in, or is of another kind.
        """
        address = self._address
        mode = "cluster" if address.kind == "cluster" else "standalone"
        commands = _handshake(address.username, address.password, address.db)
        link = await self._open(host, port, commands, address.username)
        return self._expect(link, mode)

    async def dial_sentinel(self, host: str, port: int) -> Link:
        """A connection to a sentinel, which has users of its own. Raises as `dial` does."""
        address = self._address
        commands = _handshake(address.sentinel_username, address.sentinel_password, 0)
        link = await self._open(host, port, commands, address.sentinel_username)
        return self._expect(link, "sentinel")

    def _expect(self, link: Link, mode: str) -> Link:
        found = link.server.get("mode", mode)  # a proxy may not know HELLO: then it is believed
        if found == mode:
            return link
        link.abort("closed by its owner")
        raise Refused(f"{link.where} {_MODE_MEANT.get(found, f'runs in mode {found!r}')}")

    async def _open(
        self, host: str, port: int, commands: Sequence[tuple[Word, ...]], user: str | None
    ) -> Link:
        where = self._address.path or show(host, port)
        link = None
        try:
            async with asyncio.timeout(self._connect_s):
                link = await self._connect(where, host, port, user)
                sent = [link.send(pack(words)) for words in commands]
                replies = await asyncio.gather(*sent, return_exceptions=True)
            _greet(link, commands, replies)
        except BaseException as error:
            if link is not None:
                link.abort("the handshake failed")
            if isinstance(error, TimeoutError) and not isinstance(error, ssl.SSLError):
                raise self._silent(where) from error
            if isinstance(error, OSError):
                raise _unreachable(error, where) from error
            if isinstance(error, Lost):
                raise self._hung_up(link) from error
            raise
        return link

    def _silent(self, where: str) -> Disconnected:
        # A server without TLS waits for the end of what it takes for a command.
        hint = " If it expects no TLS, write redis instead of rediss." if self._ssl else ""
        return Disconnected(
            f"{where}: no answer within {self._connect_s:g} s; the call was not sent. Is the "
            f"server up, and does a firewall let this through?{hint}"
        )

    def _hung_up(self, link: Link | None) -> Disconnected:
        assert link is not None
        hint = "" if self._ssl else " If it expects TLS, write rediss instead of redis."
        return Disconnected(f"{link.where}: {link.lost}, before any call was sent.{hint}")

    async def _connect(self, where: str, host: str, port: int, user: str | None) -> Link:
        loop = asyncio.get_running_loop()

        def make() -> Link:
            return Link(where, user, self._reply_s)

        if self._address.path is not None:
            return (await loop.create_unix_connection(make, self._address.path))[1]
        transport, link = await loop.create_connection(
            make, host, port, ssl=self._ssl, server_hostname=host if self._ssl else None
        )
        _keep_alive(cast(socket.socket, transport.get_extra_info("socket")))
        return link


def _handshake(user: str | None, password: str | None, db: int) -> list[tuple[Word, ...]]:
    commands: list[tuple[Word, ...]] = []
    if password is not None:
        commands.append(("AUTH", password) if user is None else ("AUTH", user, password))
    commands += [("HELLO",), ("CLIENT", "SETNAME", _NAME)]
    return [*commands, ("SELECT", db)] if db else commands


def _greet(link: Link, commands: Sequence[tuple[Word, ...]], replies: Sequence[Any]) -> None:
    """Read the handshake. HELLO and CLIENT are welcome, not needed: a user may lack the right."""
    lost = next((reply for reply in replies if isinstance(reply, Lost)), None)
    for (name, *_), reply in zip(commands, replies, strict=True):
        # Of a server that hangs up, the error before that is the reason.
        needed = lost or name in {"AUTH", "SELECT"}
        if isinstance(reply, ReplyError) and (needed or reply.code == "NOAUTH"):
            raise error_of(reply, link.where, link.user)
        if name == "HELLO" and isinstance(reply, list):
            flat = cast(list[Any], reply)
            link.server = {
                _text(key): _text(value) for key, value in zip(flat[::2], flat[1::2], strict=False)
            }
    if lost is not None:
        raise lost


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _unreachable(error: OSError, where: str) -> Disconnected | Refused:
    if isinstance(error, ssl.SSLCertVerificationError):
        return Refused(
            f"{where}: its certificate is not trusted ({error.verify_message}). Name the authority "
            "with ?ssl_ca_certs=FILE, or the host as the certificate does"
        )
    if isinstance(error, ssl.SSLError):
        return Refused(
            f"{where}: no TLS connection ({error.reason}). If it expects none, write redis "
            "instead of rediss; if it wants a certificate of ours, give ?ssl_certfile=FILE"
        )
    return Disconnected(
        f"{where} cannot be reached ({error}); the call was not sent. Is the server up, and are "
        "host and port right?"
    )


def _keep_alive(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for names, value in _SOCKET_OPTIONS:
        number = next((getattr(socket, name) for name in names if hasattr(socket, name)), None)
        if number is not None:
            sock.setsockopt(socket.IPPROTO_TCP, number, value)


def _context(tls: TLS) -> ssl.SSLContext:
    """What checks the server's certificate, and shows ours.

    Raises:
        ConfigError: a file is missing or not what it should be.
    """
    try:
        context = ssl.create_default_context(cafile=tls.ca_certs)
        if tls.certfile is not None:
            context.load_cert_chain(tls.certfile, tls.keyfile)
    except (OSError, ValueError) as error:
        files = [name for name in (tls.ca_certs, tls.certfile, tls.keyfile) if name is not None]
        raise ConfigError(
            f"TLS files {', '.join(files)}: cannot be read ({error}). Give PEM files that exist"
        ) from error
    context.check_hostname = tls.check_hostname
    if not tls.verify:
        context.verify_mode = ssl.CERT_NONE
    return context
