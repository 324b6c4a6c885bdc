"""Where offloaded bytes are: `BlobStore`, to plug an object store in, and `Directory`."""

import contextlib
import fcntl
import math
import os
import re
import secrets
import tempfile
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

from ropeway.errors import ConfigError

_SHARD: Final = re.compile(r"[0-9a-f]{2}")
_LOCK: Final = ".lock"


@runtime_checkable
class BlobStore(Protocol):
    """Keeps bytes under keys: a directory, a bucket with a prefix.

    Methods are called from threads, several at a time; they block and end by themselves, with a
    time limit of their own where there is a network. They may raise anything when they fail. Keys
    are ASCII texts of at most 255 characters, `"3f/"` and a name without a slash.
    """

    def put(self, key: str, data: bytes) -> None:
        """Keep `data` durably before returning; a key that is there is written anew, now."""
        ...

    def get(self, key: str) -> bytes | None:
        """The bytes, or None where the key is not there."""
        ...

    def older(self, before: float) -> Iterator[str]:
        """The keys last written before this time (seconds since the epoch), in any order."""
        ...

    def delete(self, keys: Sequence[str], *, before: float) -> None:
        """Remove those of the keys that were not written since `before`; absent ones are none."""
        ...


class Directory:
    """Blobs as files of a directory, which must exist and be writable.

    A file is written beside its place, synced and renamed: it is there whole or not at all. Files
    can be read and written by their owner only (mode 0600).

    Args:
        path: on one host, or on a file system that all hosts of the app share.
        fsync: whether `put` waits until a power cut cannot take the file. Leave it out for a
            broker that promises no more itself (`durability=fast`).

    Raises:
        ConfigError: there is no such directory, or no file can be made in it.
    """

    def __init__(self, path: str | os.PathLike[str], *, fsync: bool = True) -> None:
        self._root: Path = Path(path).absolute()
        self._fsync = fsync
        if not self._root.is_dir():
            raise ConfigError(f"offload: there is no directory {self._root}; make it first")
        try:
            tempfile.TemporaryFile(dir=self._root).close()
        except OSError as error:
            raise ConfigError(
                f"offload: no file can be made in {self._root} ({error.strerror}); give this "
                "user the right to write there"
            ) from error

    def __repr__(self) -> str:
        return f"Directory({str(self._root)!r})"

    def put(self, key: str, data: bytes) -> None:
        """Write the file; see `BlobStore.put`."""
        path = self._root / key
        if not path.parent.is_dir():
            path.parent.mkdir(mode=0o700, exist_ok=True)
            self._sync(self._root)
        # What a kill leaves of it is named after its key, and collected as that would be.
        part = path.with_name(f"{path.name}.part-{secrets.token_hex(4)}")
        try:
            with open(part, "xb", opener=_private) as file:
                file.write(data)
                file.flush()
                if self._fsync:
                    os.fsync(file.fileno())
            with self._locked():
                part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        self._sync(path.parent)

    def get(self, key: str) -> bytes | None:
        """Read the file; see `BlobStore.get`."""
        try:
            return (self._root / key).read_bytes()
        except FileNotFoundError:
            return None

    def older(self, before: float) -> Iterator[str]:
        """The files last written before this time; what is not ours is left out."""
        with os.scandir(self._root) as shards:
            names = [shard.name for shard in shards if _SHARD.fullmatch(shard.name)]
        for name in names:
            with os.scandir(self._root / name) as files:
                old = [file.name for file in files if _written_at(Path(file)) < before]
            yield from (f"{name}/{file}" for file in old)

    def delete(self, keys: Sequence[str], *, before: float) -> None:
        """Remove files that nobody has written again meanwhile; see `BlobStore.delete`."""
        for key in keys:
            path = self._root / key
            with self._locked():
                if _written_at(path) < before:
                    path.unlink()

    @contextlib.contextmanager
    def _locked(self) -> Generator[None]:
        """Keeps a file that is written again from being taken for the old one."""
        descriptor = os.open(self._root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _sync(self, folder: Path) -> None:
        """Make the names in a folder durable."""
        if not self._fsync:
            return
        descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _written_at(path: Path) -> float:
    """In seconds since the epoch; never, for a file that somebody else has just removed."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return math.inf


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
