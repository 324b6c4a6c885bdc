"""SQLite's failures, told as Ropeway's errors: what happened to which file, and the way out."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw

from ropeway.errors import (
    BrokerError,
    Disconnected,
    StorageCorrupt,
    StorageFull,
    StorageReadOnly,
)

_NAMES: tuple[tuple[type[apsw.Error], type[BrokerError], str], ...] = (
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


def error_of(error: apsw.Error, path: Path) -> BrokerError:
    """The error to raise in place of one of SQLite's."""
    for kind, named_as, what in _NAMES:
        if isinstance(error, kind):
            return named_as(f"{path}: {what} ({error})")
    return BrokerError(f"{path}: {type(error).__name__}: {error}")


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Turn SQLite's errors of the block into Ropeway's."""
    try:
        yield
    except apsw.Error as error:
        raise error_of(error, path) from error
