"""A witness for `ropeway verify` inside of Redis: MONITOR, read beside the broker.

Each write of a job's status is seen in the order in which Redis executed it, whatever script wrote
it and whatever its caller was answered.
"""

import re
import socket
import threading
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from typing import Final
from urllib.parse import parse_qsl, urlsplit

import msgspec

from ropeway.errors import BrokerError
from ropeway.job import FINAL, State
from ropeway.verify.load import QUEUES

_WORD: Final = re.compile(rb'"((?:[^"\\]|\\.)*)"')
_ESCAPED: Final = re.compile(rb"\\(x[0-9a-f]{2}|.)", re.DOTALL)
_PLAIN: Final = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"a": b"\a", b"b": b"\b"}
_SEEN_S: Final = 30.0
_decode = msgspec.msgpack.Decoder().decode


class RedisWitness:
    """Sees each job become final on the server of a `redis://` URL.

    Args:
        url: as `verify` has it.

    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 6379
        self._user, self._password = parts.username, parts.password
        prefix = dict(parse_qsl(parts.query)).get("prefix", "ropeway")
        self._statuses = {f"{{{prefix}}}:{len(name)}:{name}:s".encode() for name in QUEUES}
        self._states: dict[str, State] = {}
        self._finals: Counter[str] = Counter()
        self._revived: list[str] = []
        self._marks: set[str] = set()
        self._socket: socket.socket | None = None
        self._reader: threading.Thread | None = None

    def install(self) -> None:
        """Begin to watch."""
        self._socket = self._connect()
        self._socket.settimeout(None)  # a store may be silent for long
        self._socket.sendall(b"MONITOR\r\n")
        self._reader = threading.Thread(target=self._read, args=(self._socket,), daemon=True)
        self._reader.start()
        self._catch_up()

    def finals(self) -> Counter[str]:
        """How often each job has become final."""
        self._catch_up()
        return self._finals

    def revived(self) -> list[str]:
        """The jobs that have left a final state."""
        self._catch_up()
        return self._revived

    def remove(self) -> None:
        """Stop watching."""
        if self._socket is not None and self._reader is not None:
            self._socket.shutdown(socket.SHUT_RDWR)
            self._reader.join(_SEEN_S)
            self._socket.close()
            self._socket = None

    def hold(self, seconds: float) -> None:
        """No script is run for so long."""
        self._say(f"CLIENT PAUSE {round(seconds * 1000)} WRITE")
        time.sleep(seconds)

    def _connect(self) -> socket.socket:
        """A connection that is logged in."""
        sock = socket.create_connection((self._host, self._port), timeout=_SEEN_S)
        if self._password is not None:
            _ask(sock, ("AUTH", *([self._user] if self._user else []), self._password))
        return sock

    def _say(self, command: str) -> None:
        with self._connect() as sock:
            _ask(sock, command.split())

    def _catch_up(self) -> None:
        """Until all that has happened by now was read."""
        mark = uuid.uuid4().hex
        self._say(f"ECHO {mark}")
        end = time.monotonic() + _SEEN_S
        while mark not in self._marks:
            if time.monotonic() > end:
                raise BrokerError("MONITOR has fallen silent: the witness may have missed jobs")
            time.sleep(0.01)

    def _read(self, sock: socket.socket) -> None:
        with sock.makefile("rb") as lines:
            for line in lines:
                if b'] "HSET" "' in line or b'] "HDEL" "' in line or b'] "ECHO" "' in line:
                    command, *words = map(_unescaped, _WORD.findall(line))
                    if command == b"ECHO":
                        self._marks.add(words[0].decode())
                    elif words[0] in self._statuses:
                        self._note(command, words[1:])

    def _note(self, command: bytes, words: list[bytes]) -> None:
        if command == b"HDEL":
            for id_ in words:
                self._states.pop(id_.decode(), None)
            return
        for id_, status in zip(words[::2], words[1::2], strict=True):
            name, length = id_.decode(), int.from_bytes(status[:4], "big")
            state = State(_decode(status[4 : 4 + length])["state"])
            before = self._states.get(name)
            self._states[name] = state
            if state in FINAL and before not in FINAL:
                self._finals[name] += 1
            elif before in FINAL and state not in FINAL:
                self._revived.append(name)


def _ask(sock: socket.socket, words: Sequence[str]) -> None:
    """Send a command whose answer is one line, or a text of one line."""
    packed = [f"${len(word.encode())}\r\n{word}\r\n" for word in words]
    sock.sendall(f"*{len(words)}\r\n{''.join(packed)}".encode())
    answer = sock.recv(4096)
    if not answer or answer.startswith(b"-"):
        raise BrokerError(f"{words[0]}: the server answers {answer.decode(errors='replace')!r}")


def _unescaped(text: bytes) -> bytes:
    if b"\\" not in text:
        return text

    def plain(found: re.Match[bytes]) -> bytes:
        code = found[1]
        return bytes.fromhex(code[1:].decode()) if len(code) == 3 else _PLAIN.get(code, code)

    return _ESCAPED.sub(plain, text)
