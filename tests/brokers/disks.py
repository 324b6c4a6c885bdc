"""Disks for SQLite that behave badly on purpose: VFS shims over the file system."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import apsw

from ropeway.brokers.sqlite import connection

UNIX = "unix"
CHECKSUMS = "cksmvfs"

Disk = TypeVar("Disk", bound=apsw.VFS)


@contextmanager
def in_use(disk: Disk) -> Generator[Disk, None, None]:
    """Let brokers that are opened within the block use the disk, which was made the default.

    The layer of page checksums lies over what is the default when it is loaded.
    """
    load_checksums()
    try:
        yield disk
    finally:
        disk.unregister()
        load_checksums()


def load_checksums() -> None:
    if CHECKSUMS in apsw.vfs_names():
        apsw.unregister_vfs(CHECKSUMS)
    connection._checksum_vfs.cache_clear()
    connection._checksum_vfs()


def is_sound(path: Path) -> bool:
    """What SQLite itself finds in the whole file."""
    sql = apsw.Connection(str(path), vfs=UNIX)
    rows = sql.execute("PRAGMA integrity_check").fetchall()
    sql.close()
    return rows == [("ok",)]


class BadDisk(apsw.VFS):
    """Lets no file grow while it is full, and syncs none while it is broken."""

    def __init__(self) -> None:
        super().__init__("bad-disk", UNIX, makedefault=True)
        self.is_full = False
        self.is_broken = False

    def xOpen(self, name: Any, flags: list[int]) -> "_BadFile":  # noqa: N802 - APSW's name
        return _BadFile(self, name, flags)


class _BadFile(apsw.VFSFile):
    def __init__(self, disk: BadDisk, name: Any, flags: list[int]) -> None:
        super().__init__(UNIX, name, flags)
        self._disk = disk

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - APSW's name
        if self._disk.is_full and offset + len(data) > self.xFileSize():
            raise apsw.FullError("no space")
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:  # noqa: N802 - APSW's name
        if self._disk.is_broken:
            raise apsw.IOError("the device failed")
        super().xSync(flags)
