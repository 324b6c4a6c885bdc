"""One Redis (or Valkey) server."""

import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from ropeway.testing.servers.ports import HOST
from ropeway.testing.servers.redis.binaries import redis_server
from ropeway.testing.servers.redis.resp import RespClient, RespError
from ropeway.testing.servers.redis.tls import Certificate, make_certificate
from ropeway.testing.servers.server import Server
from ropeway.testing.servers.waiting import ServerError

Options = Mapping[str, str | Sequence[str]]
"""Lines of redis.conf: a directive and the rest of its line; several for a directive that repeats.

`{"requirepass": "secret", "user": ["ann on >pw ~* &* +@all", "bob on >pw2 ~b:* +get"]}`
"""

_SOCKET = "redis.sock"
_SOCKET_PATH_MAX = 103  # what the systems take for the path of a Unix socket, macOS the least
# The right password was not given, so somebody who checks passwords is there.
_LOCKED = ("NOAUTH", "WRONGPASS", "NOPERM")


class RedisServer(Server):
    """One Redis server with an append-only file; see `Server` for its life.

    Args:
        folder: its data, `redis.conf` and `server.log`.
        port: where to listen; None takes a free one.
        binary: the server to run; None takes `redis_server()`.
        appendfsync: when a write reaches the disk: `everysec` may lose the last second in a crash
            of the machine, and none when only the server is killed.
        options: more lines of redis.conf; they win over the ones that are written here.
        tls: listen with TLS only, with a certificate of a throw-away authority.
        detached: it outlives this interpreter.

    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int | None = None,
        binary: Path | None = None,
        appendfsync: Literal["always", "everysec", "no"] = "everysec",
        options: Options | None = None,
        tls: bool = False,
        detached: bool = False,
    ) -> None:
        super().__init__(folder, port=port, detached=detached)
        self._binary = redis_server() if binary is None else binary
        self._appendfsync = appendfsync
        self._options = dict(options or {})
        self._tls = tls
        self._certificate: Certificate | None = None
        self._configured_port: int | None = None

    @property
    def url(self) -> str:
        """`redis://127.0.0.1:PORT/0`, with the password if `requirepass` is set.

        With TLS it is `rediss://…?ssl_ca_certs=FILE`, once the server was started.
        """
        return self._url(f":{quote(self.password, safe='')}@" if self.password else "")

    @property
    def unix_url(self) -> str:
        """`unix://PATH?db=0`: the same server, through a socket in its folder.

        Raises:
            ServerError: the path of the folder is too long for a socket.

        """
        path = str(self.folder / _SOCKET)
        if len(path) > _SOCKET_PATH_MAX:
            raise ServerError(
                f"{path} has {len(path)} characters, a Unix socket at most {_SOCKET_PATH_MAX}:"
                " give the server a folder with a shorter path"
            )
        login = f":{quote(self.password, safe='')}@" if self.password else ""
        return f"unix://{login}{quote(path)}?db=0"

    @property
    def password(self) -> str:
        """The `requirepass` of its options, or nothing."""
        given = self._options.get("requirepass", "")
        return given if isinstance(given, str) else given[-1]

    def url_as(self, user: str, password: str) -> str:
        """The URL for a user that the options or their `aclfile` define."""
        return self._url(f"{quote(user, safe='')}:{quote(password, safe='')}@")

    def client(self, *, timeout: float = 5.0) -> RespClient:
        """A connection of the default user; close it, or use it in `with`.

        Raises:
            OSError: the server cannot be reached.
            RespError: the password is wrong.

        """
        client = RespClient(self.port, tls=self._context(), timeout=timeout)
        if self.password:
            try:
                client.call("AUTH", self.password)
            except BaseException:
                client.close()
                raise
        return client

    def configure(self) -> Sequence[str]:
        """Write redis.conf and, for TLS, the certificate."""
        if self._tls and self._certificate is None:
            self._certificate = make_certificate(self.folder)
        file = self.folder / "redis.conf"
        # Sentinels have a server rewrite its configuration, so it is written once.
        if self._configured_port != self.port:
            lines = [
                f"{name} {value}"
                for name, given in {**self._defaults(), **self._options}.items()
                for value in ([given] if isinstance(given, str) else given)
            ]
            file.write_text("\n".join(lines) + "\n", "utf-8")
            self._configured_port = self.port
        return [str(self._binary), str(file)]

    def answers(self) -> bool:
        """It answers PING, so its data is loaded."""
        try:
            with self.client(timeout=1.0) as client:
                client.call("PING")
                return client.facts("INFO", "server").get("process_id") == str(self.pid)
        except RespError as error:
            return str(error).startswith(_LOCKED)
        except (OSError, ServerError):
            return False

    def replication(self) -> dict[str, str]:
        """What INFO says about its role and its links; nothing when it cannot be asked."""
        try:
            with self.client(timeout=1.0) as client:
                return client.facts("INFO", "replication")
        except (OSError, RespError):
            return {}

    def _defaults(self) -> dict[str, str]:
        settings = {
            "port": "0" if self._tls else str(self.port),
            "bind": HOST,
            "unixsocket": _SOCKET,
            "dir": ".",  # it is started in its folder
            "daemonize": "no",
            "save": '""',
            "appendonly": "yes",
            "appendfsync": self._appendfsync,
        }
        if self._certificate is not None:
            settings |= {
                "tls-port": str(self.port),
                "tls-auth-clients": "no",
                "tls-ca-cert-file": self._certificate.authority.name,
                "tls-cert-file": self._certificate.certificate.name,
                "tls-key-file": self._certificate.key.name,
            }
        return settings

    def _context(self) -> ssl.SSLContext | None:
        if self._certificate is None:
            return None
        return ssl.create_default_context(cafile=str(self._certificate.authority))

    def _url(self, login: str) -> str:
        if not self._tls:
            return f"redis://{login}{HOST}:{self.port}/0"
        trusted = self._certificate.authority if self._certificate else self.folder / "ca.crt"
        return f"rediss://{login}{HOST}:{self.port}/0?ssl_ca_certs={quote(str(trusted))}"
