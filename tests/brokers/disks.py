"""Disks for SQLite that behave badly on purpose: VFS shims over the file system."""

from collections.abc import Generator
from contextlib import contextmanager
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


class SmallDisk(apsw.VFS):
    """Refuses to let any file grow while it is full, as a file system without space does."""

    def __init__(self) -> None:
        super().__init__("small-disk", UNIX, makedefault=True)
        self.is_full = False

    def xOpen(self, name: Any, flags: list[int]) -> "_SmallFile":  # noqa: N802 - APSW's name
        return _SmallFile(self, name, flags)


class _SmallFile(apsw.VFSFile):
    def __init__(self, disk: SmallDisk, name: Any, flags: list[int]) -> None:
        super().__init__(UNIX, name, flags)
        self._disk = disk

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - APSW's name
        if self._disk.is_full and offset + len(data) > self.xFileSize():
            raise apsw.FullError("no space")
        super().xWrite(data, offset)
