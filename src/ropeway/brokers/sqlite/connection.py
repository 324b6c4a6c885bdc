"""A connection to the database file: how it is opened, asked, and what its failures are called."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final

import apsw
from apsw import sqlite_extra

from ropeway.errors import (
    BrokerError,
    Disconnected,
    StorageCorrupt,
    StorageFull,
    StorageReadOnly,
)

BUSY_MS: Final = 60_000
_TRUNCATE_MS: Final = 100  # how long others wait for an empty journal
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
            self._raw.set_busy_timeout(BUSY_MS)
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

    def checkpoint(self, *, truncate: bool) -> None:
        """Move the journal's content into the database; with `truncate`, make it empty then."""
        if truncate:
            self.wait_for_locks(ms=_TRUNCATE_MS)
        try:
            self.run(f"PRAGMA wal_checkpoint({'TRUNCATE' if truncate else 'PASSIVE'})")
        finally:
            self.wait_for_locks()

    def wait_for_locks(self, *, ms: int = BUSY_MS) -> None:
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
    """A block whose writes happen together. A class of its own: a generator takes 1 us longer."""

    __slots__ = ("_raw",)

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def __enter__(self) -> None:
        self._raw.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            try:
                self._raw.execute("COMMIT")
            except BaseException:
                self._roll_back()
                raise
        else:
            self._roll_back()

    def _roll_back(self) -> None:
        if self._raw.in_transaction:  # some failures end it by themselves
            self._raw.execute("ROLLBACK")
