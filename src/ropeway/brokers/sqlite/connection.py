"""The database file: a connection to it, the turn to write it, and what its failures are called."""

import fcntl
import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final
from weakref import WeakSet

import apsw
from apsw import sqlite_extra

from ropeway.errors import (
    BrokerError,
    Disconnected,
    StorageCorrupt,
    StorageFull,
    StorageGone,
    StorageReadOnly,
)
from ropeway.runtime import StartThread

WAIT_MAX_S: Final = 30
"""How long a call waits for others to write, by Ropeway's own queue or by SQLite's locks."""
_BUSY_MS: Final = WAIT_MAX_S * 1000
_OPEN_POLL_S: Final = 0.005
_LOCKS: Final = Path("/proc/locks")
_RESTART_MS: Final = 100  # how long others are waited for, so that the journal can begin anew
CHECKPOINT_PAGES: Final = 4_000  # 16 MB
RESTART_PAGES: Final = 8_000
JOURNAL_MAX_BYTES: Final = 48 * 1024 * 1024
_CACHE_KIB: Final = 64 * 1024
_CHECKSUM_VFS: Final = "cksmvfs"
_CHECKSUM_BYTES: Final = 8  # at the end of each page; this number switches the checksums on

_NAMES: Final[tuple[tuple[type[apsw.Error], type[BrokerError], str], ...]] = (
    (apsw.FullError, StorageFull, "no space is left; nothing was written. Free some and repeat"),
    (apsw.ReadOnlyError, StorageReadOnly, "cannot be written; check its owner and mode"),
    (apsw.CantOpenError, StorageReadOnly, "cannot be opened; check its owner and mode"),
    (apsw.PermissionsError, StorageReadOnly, "cannot be written; check its owner and mode"),
    (apsw.NotADBError, StorageCorrupt, "is not a SQLite database; give another path"),
    (apsw.CorruptError, StorageCorrupt, "is damaged; restore it from a backup"),
    (apsw.BusyError, Disconnected, "is locked by another program; close that and repeat"),
    (apsw.LockedError, Disconnected, "is locked by another program; close that and repeat"),
    (apsw.IOError, Disconnected, "the file system failed; nothing was written"),
)

Row = tuple[Any, ...]
Values = Sequence[Any]


def error_of(error: apsw.Error, path: Path) -> BrokerError:
    """The error to raise in place of one of SQLite's."""
    if getattr(error, "extendedresult", 0) == apsw.SQLITE_IOERR_DATA:
        return StorageCorrupt(
            f"{path}: a page of it is not what was written there (its checksum differs); nothing "
            "was taken from that page. Restore the file from a backup, and mistrust the disk"
        )
    for kind, named_as, what in _NAMES:
        if isinstance(error, kind):
            return named_as(f"{path}: {what} ({error})")
    return BrokerError(f"{path}: {type(error).__name__}: {error}")


@contextmanager
def named(path: Path) -> Generator[None, None, None]:
    """Turn SQLite's errors of the block into Ropeway's."""
    try:
        yield
    except apsw.Error as error:
        raise error_of(error, path) from error


@cache
def _checksum_vfs() -> str:
    """SQLite's own layer of page checksums, over what is the default VFS at the first call."""
    default, *_ = apsw.vfs_names()
    carrier = apsw.Connection(":memory:")
    try:
        sqlite_extra.load(carrier, "cksumvfs")
    finally:
        carrier.close()
        apsw.set_default_vfs(default)  # loading it had made it the default, for others too
    return _CHECKSUM_VFS


class Gate:
    """A fair lock between the processes of one host, held around each write transaction.

    SQLite's own busy handler polls, and starves a writer for seconds under load; the kernel hands
    an `flock` on in the order of asking, and takes it back from a process that dies. It does not
    from one that is stopped, and the wait cannot be given a limit: `is_stuck` tells of it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._turn = 0
        self._is_waiting = False
        self._seen = -1, 0.0  # the turn that was waited for at the last look, and since when
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageReadOnly(
                f"{path}, which takes turns at writing beside the database, cannot be opened: "
                f"{error.strerror}; check the owner and mode of it and of {path.parent}"
            ) from error
        _gates.add(self)

    @contextmanager
    def held(self) -> Generator[None, None, None]:
        """Wait for the turn, however long, and keep it for the block."""
        self._is_waiting = True
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        self._is_waiting = False
        self._turn += 1
        try:
            yield
        finally:
            self.let_go()

    @contextmanager
    def held_soon(self) -> Generator[None, None, None]:
        """As `held`, without a place in the queue but with an end to the waiting.

        Raises:
            Disconnected: the turn did not come within `WAIT_MAX_S`.
        """
        for _ in range(int(WAIT_MAX_S / _OPEN_POLL_S)):
            if self.take_now():
                break
            time.sleep(_OPEN_POLL_S)
        else:
            raise self._kept()
        try:
            yield
        finally:
            self.let_go()

    def take_now(self) -> bool:
        """Keep the turn if nobody has it; ended by `held` or by `let_go`."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def let_go(self) -> None:
        """End the turn; harmless without one."""
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def is_stuck(self, now_s: float) -> Disconnected | None:
        """What to tell those who wait behind `held`, once that has lasted for `WAIT_MAX_S`.

        Asked from time to time, from another thread.
        """
        if not self._is_waiting or self._turn != self._seen[0]:
            self._seen = (self._turn if self._is_waiting else -1), now_s
        elif now_s - self._seen[1] >= WAIT_MAX_S:
            return self._kept()
        return None

    def _kept(self) -> Disconnected:
        return Disconnected(
            f"{self._holder()} has kept its turn to write ({self._path}) for {WAIT_MAX_S} s. It is "
            "stopped or hangs: let it go on (SIGCONT) or end it (SIGKILL), then repeat"
        )

    def _holder(self) -> str:
        """Whose turn it is, where the system tells (Linux)."""
        inode = os.fstat(self._fd).st_ino
        with suppress(OSError):
            for line in _LOCKS.read_text(encoding="ascii").splitlines():
                _, kind, *_, pid, file, _, _ = line.split()  # waiting ones have "->" before kind
                if kind == "FLOCK" and file.endswith(f":{inode}"):
                    return f"process {pid}"
        return "another process"

    def close(self) -> None:
        _gates.discard(self)
        os.close(self._fd)


_gates: WeakSet[Gate] = WeakSet()  # those that are open


def _leave_gates_to_parent() -> None:
    """A forked child shares its parent's turn, and would keep it when the parent is killed."""
    for gate in list(_gates):
        gate.close()


os.register_at_fork(after_in_child=_leave_gates_to_parent)


class Identity:
    """Which files are open: a name may come to mean another one, or none."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self._journal = f"{path}-wal"
        self._found = self._find()

    def _find(self) -> tuple[int, int] | None:
        """The inodes behind the names; one that is open is given to no other file."""
        try:
            return os.stat(self._path).st_ino, os.stat(self._journal).st_ino  # noqa: PTH116 - half as fast
        except OSError:
            return None

    def is_lost(self) -> StorageGone | None:
        """What to tell those who use files that no longer have their names. Takes 3 µs."""
        if self._found is not None and self._find() == self._found:
            return None
        return StorageGone(
            f"{self._path} or its -wal file was deleted, moved or replaced while it was open: "
            "what is written now may be in no file. Put both files back, or start anew every "
            "process that uses them"
        )


class Connection:
    """One connection. Used by one thread at a time; its statements are cached.

    Each page of the file ends with its checksum, which every read of the file verifies.

    Raises:
        apsw.Error: every method; `error_of` gives it its name.
    """

    def __init__(self, path: Path, *, synchronous: str, readonly: bool = False) -> None:
        flags = apsw.SQLITE_OPEN_READONLY if readonly else apsw.SQLITE_OPEN_READWRITE
        self._raw: Any = apsw.Connection(
            str(path), flags=flags, vfs=_checksum_vfs(), statementcachesize=200
        )
        try:
            self._raw.set_busy_timeout(_BUSY_MS)
            # Plans do not depend on bound values: else each new value of a column that a partial
            # index names prepares the statement anew, which costs more than running it.
            self._raw.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
            self.run(f"PRAGMA cache_size = -{_CACHE_KIB}")
            if not readonly:
                self._raw.reserve_bytes(reserve=_CHECKSUM_BYTES)  # of a new file
                self.run("PRAGMA auto_vacuum = INCREMENTAL")
                self.run("PRAGMA journal_mode = WAL")
                self.run(f"PRAGMA synchronous = {synchronous}")
                self.run(f"PRAGMA journal_size_limit = {JOURNAL_MAX_BYTES}")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the file."""
        self._raw.close()

    def walk(self, sql: str, values: Values = ()) -> Iterator[Row]:
        """The rows of a query, one by one."""
        return self._raw.execute(sql, values)

    def rows(self, sql: str, values: Values = ()) -> list[Row]:
        """All rows of a query."""
        return self._raw.execute(sql, values).fetchall()

    def first(self, sql: str, values: Values = ()) -> Row | None:
        """The first row of a query, or None."""
        rows = self._raw.execute(sql, values).fetchall()
        return rows[0] if rows else None

    def run(self, sql: str, values: Values = ()) -> None:
        """Run statements to their end."""
        self._raw.execute(sql, values).fetchall()

    def run_many(self, sql: str, rows: Sequence[Values]) -> None:
        """Run a statement once a row."""
        self._raw.executemany(sql, rows)

    @property
    def has_checksums(self) -> bool:
        """Whether the file's pages carry checksums."""
        return self.rows("PRAGMA checksum_verification") == [("1",)]

    @property
    def changes(self) -> int:
        """How many rows the last statement wrote."""
        return self._raw.changes()

    @property
    def last_rowid(self) -> int:
        """The rowid that the last INSERT gave."""
        return self._raw.last_insert_rowid()

    def on_commit(self, note: Callable[[int], None]) -> None:
        """Call `note` with the journal's length in pages after each commit.

        It takes the place of SQLite's own checkpoints, which come in the middle of a commit.
        """

        def hook(_connection: Any, _name: str, pages: int) -> int:
            note(pages)
            return apsw.SQLITE_OK

        self._raw.set_wal_hook(hook)

    def checkpoint(self, *, restart: bool) -> None:
        """Move the journal's content into the database, while others read and write.

        With `restart` writers wait meanwhile, and the next one begins the journal anew.
        """
        if restart:
            self.wait_for_locks(ms=_RESTART_MS)
        try:
            self.run(f"PRAGMA wal_checkpoint({'RESTART' if restart else 'PASSIVE'})")
        finally:
            self.wait_for_locks()

    def wait_for_locks(self, *, ms: int = _BUSY_MS) -> None:
        """From now on a lock of others is an error after so long; with 0, at once."""
        self._raw.set_busy_timeout(ms)

    def transaction(self) -> "Transaction":
        """The block's writes happen entirely and durably, or not at all."""
        return Transaction(self._raw)

    @contextmanager
    def snapshot(self) -> Generator[None, None, None]:
        """The block's reads see one moment of the database."""
        self._raw.execute("BEGIN")
        try:
            yield
        finally:
            if self._raw.in_transaction:
                self._raw.execute("COMMIT")


class Transaction:
    """A block whose writes happen together. A class of its own: a generator takes 1 µs longer."""

    __slots__ = ("_raw",)

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def __enter__(self) -> None:
        self._raw.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._raw.execute("COMMIT")
        finally:
            if self._raw.in_transaction:  # some failures end it by themselves
                self._raw.execute("ROLLBACK")


class Tidier:
    """Keeps the journal short, on a connection and in a thread of its own, so that no call waits.

    `note` is told the journal's length in pages after each commit. Each time that it has grown by
    `CHECKPOINT_PAGES`, its content is moved into the database; from `RESTART_PAGES` on it begins
    anew, for which writers wait as long as the last few pages take. Without `start` all of this
    happens within `note`.
    """

    def __init__(self, connection: Connection, *, start: StartThread | None) -> None:
        self._connection = connection
        self._due = CHECKPOINT_PAGES
        self._last = 0
        self._busy = False
        self._wanted: SimpleQueue[int | None] = SimpleQueue()
        self._thread = start(self._run, "ropeway-sqlite-tidy") if start is not None else None

    def note(self, pages: int) -> None:
        """The journal has so many pages now; from one thread at a time."""
        if pages < self._last:  # it has begun anew
            self._due = CHECKPOINT_PAGES
        self._last = pages
        if pages < self._due or self._busy:
            return
        self._busy = True
        if self._thread is None:
            self._tidy(pages)
        else:
            self._wanted.put(pages)

    def close(self) -> None:
        """End the thread, after what it does now, and let go of the file."""
        if self._thread is None:
            self._connection.close()
        else:
            self._wanted.put(None)
            self._thread.join()

    def _run(self) -> None:
        while (pages := self._wanted.get()) is not None:
            self._tidy(pages)
        self._connection.close()

    def _tidy(self, pages: int) -> None:
        self._due = pages + CHECKPOINT_PAGES
        try:
            self._connection.checkpoint(restart=False)
            if pages >= RESTART_PAGES:
                self._connection.checkpoint(restart=True)
        except apsw.Error:  # another process does the same, or somebody reads: try again soon
            self._due = pages + CHECKPOINT_PAGES // 8
        self._busy = False
