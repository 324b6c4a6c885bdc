"""A master with two replicas, watched by three Sentinels."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from ropeway.testing.servers.ports import HOST
from ropeway.testing.servers.redis.binaries import redis_server
from ropeway.testing.servers.redis.resp import RespClient, RespError
from ropeway.testing.servers.redis.server import Options, RedisServer
from ropeway.testing.servers.server import Server
from ropeway.testing.servers.waiting import ServerError, wait_until

MASTER_NAME = "mymaster"
_READY_S = 30.0
_DOWN_AFTER_MS = 1_000
_FAILOVER_TIMEOUT_MS = 6_000
_QUORUM = 2


class SentinelServer(Server):
    """One Sentinel; its configuration is its own memory and is written once."""

    def __init__(self, folder: Path, *, binary: Path, master: RedisServer, detached: bool) -> None:
        super().__init__(folder, detached=detached)
        self._binary = binary
        self._master = master
        self._configured_port: int | None = None

    def configure(self) -> Sequence[str]:
        """Write sentinel.conf, unless this Sentinel has it already."""
        file = self.folder / "sentinel.conf"
        if self._configured_port != self.port:
            lines = [
                f"port {self.port}",
                f"bind {HOST}",
                "dir .",
                f"sentinel announce-ip {HOST}",
                f"sentinel monitor {MASTER_NAME} {HOST} {self._master.port} {_QUORUM}",
                f"sentinel down-after-milliseconds {MASTER_NAME} {_DOWN_AFTER_MS}",
                f"sentinel failover-timeout {MASTER_NAME} {_FAILOVER_TIMEOUT_MS}",
                f"sentinel parallel-syncs {MASTER_NAME} 1",
            ]
            if self._master.password:
                lines.append(f"sentinel auth-pass {MASTER_NAME} {self._master.password}")
            file.write_text("\n".join(lines) + "\n", "utf-8")
            self._configured_port = self.port
        return [str(self._binary), str(file), "--sentinel"]

    def answers(self) -> bool:
        """It answers, whatever it knows so far."""
        try:
            with self.client(timeout=1.0) as client:
                return client.facts("INFO", "server").get("process_id") == str(self.pid)
        except (OSError, RespError, ServerError):
            return False

    def client(self, *, timeout: float = 5.0) -> RespClient:
        """A connection; close it, or use it in `with`.

        Raises:
            OSError: it cannot be reached.

        """
        return RespClient(self.port, timeout=timeout)

    def master_port(self) -> int | None:
        """Where it sends clients; None when it cannot be asked."""
        try:
            with self.client(timeout=1.0) as client:
                reply = client.call("SENTINEL", "get-master-addr-by-name", MASTER_NAME)
        except (OSError, RespError):
            return None
        if not isinstance(reply, list) or not isinstance(reply[1], bytes):
            return None
        return int(reply[1])

    def is_settled(self) -> bool:
        """It sees the master up, both replicas and both other Sentinels, and no failover runs."""
        try:
            with self.client(timeout=1.0) as client:
                usable = client.text("SENTINEL", "CKQUORUM", MASTER_NAME).startswith("OK 3 usable")
                reply = client.call("SENTINEL", "MASTER", MASTER_NAME)
        except (OSError, RespError):
            return False
        words = reply if isinstance(reply, list) else []
        seen = dict(zip(words[::2], words[1::2], strict=True))
        # The Sentinel that leads a failover names the new master a second or two before it is
        # through; when that master dies meanwhile, it holds on to it for minutes.
        return (
            usable
            and seen.get(b"flags") == b"master"
            and seen.get(b"num-slaves") == b"2"
            and seen.get(b"num-other-sentinels") == b"2"
        )


class RedisSentinel:
    """One master, two replicas and three Sentinels on 127.0.0.1.

    A master that does not answer is down after 1 s, and a replica takes its place 1 to 3 s later.

    Args:
        folder: the data of all six, each in a folder of its own.
        binary: the server to run; None takes `redis_server()`.
        options: more lines of redis.conf for master and replicas.
        detached: they outlive this interpreter.

    Attributes:
        nodes: master and replicas in the order they were started; the roles change.
        sentinels: the three Sentinels.

    """

    def __init__(
        self,
        folder: Path,
        *,
        binary: Path | None = None,
        options: Options | None = None,
        detached: bool = False,
    ) -> None:
        self._folder = folder
        self._binary = redis_server() if binary is None else binary
        self._options = dict(options or {})
        self._detached = detached
        self.nodes: list[RedisServer] = []
        self.sentinels: list[SentinelServer] = []

    @property
    def url(self) -> str:
        """`redis+sentinel://127.0.0.1:P1,127.0.0.1:P2,127.0.0.1:P3/mymaster`.

        With the password of the nodes if `requirepass` is set; the Sentinels have none.
        """
        password = self.nodes[0].password if self.nodes else ""
        login = f":{quote(password, safe='')}@" if password else ""
        hosts = ",".join(f"{HOST}:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{login}{hosts}/{MASTER_NAME}"

    def start(self) -> None:
        """Start all six and wait until they know each other; to be called once.

        Raises:
            ServerError: one did not start, or they did not find each other within 30 s.

        """
        for number in range(3):
            node = self._node(number)
            self.nodes.append(node)
            node.start()
        for number in range(3):
            sentinel = SentinelServer(
                self._folder / f"sentinel-{number}",
                binary=self._binary,
                master=self.nodes[0],
                detached=self._detached,
            )
            self.sentinels.append(sentinel)
            sentinel.start()
        self.wait_ready()

    def stop(self) -> None:
        """Kill all six at once."""
        for server in (*self.sentinels, *self.nodes):
            server.kill()

    def wait_ready(self, *, timeout: float = _READY_S) -> None:
        """Wait until all six run and agree, and both replicas follow the master.

        Raises:
            ServerError: they do not within `timeout` seconds.

        """
        wait_until(self._is_ready, timeout=timeout, what=lambda: f"not ready: {self._describe()}")

    def master(self) -> RedisServer:
        """The node that most of the Sentinels send clients to.

        Raises:
            ServerError: no Sentinel can be asked.

        """
        ports = [port for sentinel in self.sentinels if (port := sentinel.master_port())]
        if not ports:
            raise ServerError("no Sentinel answers")
        port = max(ports, key=ports.count)
        return next(node for node in self.nodes if node.port == port)

    def replicas(self) -> list[RedisServer]:
        """The nodes that are not the master, dead ones included."""
        master = self.master()
        return [node for node in self.nodes if node is not master]

    def kill_master(self) -> RedisServer:
        """SIGKILL the master; returns it at once, before the Sentinels notice."""
        master = self.master()
        master.kill()
        return master

    def wait_new_master(self, old: RedisServer, *, timeout: float = _READY_S) -> RedisServer:
        """Wait until every running Sentinel sends clients to another node than `old`.

        Before the next fault call `restore` or `wait_ready`: a failover that is disturbed while it
        ends can leave one Sentinel behind for minutes.

        Raises:
            ServerError: they do not within `timeout` seconds.

        """

        def is_replaced() -> bool:
            running = [sentinel for sentinel in self.sentinels if sentinel.is_running]
            ports = {sentinel.master_port() for sentinel in running}
            if len(ports) != 1 or ports & {old.port, None}:
                return False
            return self.master().replication().get("role") == "master"

        wait_until(is_replaced, timeout=timeout, what=lambda: f"no new master: {self._describe()}")
        return self.master()

    def failover(self, *, timeout: float = _READY_S) -> RedisServer:
        """Have a replica take the master's place (SENTINEL FAILOVER); the new master.

        Raises:
            ServerError: it did not happen within `timeout` seconds.

        """
        old = self.master()

        def is_accepted() -> bool:
            # Refused while another failover runs, or while the replicas are not known well enough.
            try:
                with self.sentinels[0].client() as client:
                    return client.text("SENTINEL", "FAILOVER", MASTER_NAME) == "OK"
            except (OSError, RespError):
                return False

        wait_until(is_accepted, timeout=timeout, what=lambda: f"refused: {self._describe()}")
        return self.wait_new_master(old, timeout=timeout)

    def cut_replicas(self) -> None:
        """Freeze the replicas (SIGSTOP): no write is copied any more, until `restore`."""
        for replica in self.replicas():
            if replica.is_running:
                replica.pause()

    def restore(self) -> None:
        """Wake what is frozen, start what is dead, and wait until all six agree again.

        A master that was replaced becomes a replica at once; left alone, the Sentinels see to it
        after 10 s.

        Raises:
            ServerError: they do not within 30 s.

        """
        for server in (*self.nodes, *self.sentinels):
            if server.is_running:
                server.resume()
            else:
                server.start()
        self._demote_old_masters()
        self.wait_ready()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _node(self, number: int) -> RedisServer:
        options: dict[str, str | Sequence[str]] = {
            "replica-announce-ip": HOST,
            "repl-diskless-sync-delay": "0",
            **self._options,
        }
        if password := self._options.get("requirepass"):
            options["masterauth"] = password
        if number > 0:
            options["replicaof"] = f"{HOST} {self.nodes[0].port}"
        return RedisServer(
            self._folder / f"node-{number}",
            binary=self._binary,
            options=options,
            detached=self._detached,
        )

    def _demote_old_masters(self) -> None:
        for replica in self.replicas():
            with replica.client() as client:
                if client.facts("INFO", "replication").get("role") == "master":
                    client.call("REPLICAOF", HOST, self.master().port)
                    client.call("CONFIG", "REWRITE")  # it stays one when it is started again

    def _is_ready(self) -> bool:
        if not all(sentinel.is_settled() for sentinel in self.sentinels):
            return False
        if len({sentinel.master_port() for sentinel in self.sentinels}) != 1:
            return False
        seen = self.master().replication()
        return seen.get("role") == "master" and all(
            "state=online" in seen.get(f"slave{number}", "") for number in range(2)
        )

    def _describe(self) -> str:
        sentinels = {s.port: s.master_port() if s.is_running else "dead" for s in self.sentinels}
        nodes = {
            node.port: node.replication().get("role", "silent") if node.is_running else "dead"
            for node in self.nodes
        }
        return f"sentinels and their masters {sentinels}, nodes {nodes}"
