"""A disk for SQLite that remembers every write, so that its power can be cut at any past moment.

`RecordingDisk` passes everything on to the file system and keeps a journal of it. `Platter` replays
that journal and knows, for each file, what was synced and what was only written: at a power cut
the former is there, and of the latter anything from nothing to all of it, in any order, down to
single sectors.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import apsw
from disks import UNIX

SECTOR = 512


@dataclass(frozen=True, slots=True)
class Created:
    file: int
    name: str


@dataclass(frozen=True, slots=True)
class Written:
    file: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Truncated:
    file: int
    size: int


@dataclass(frozen=True, slots=True)
class Synced:
    file: int
    takes_effect: bool


@dataclass(frozen=True, slots=True)
class Deleted:
    name: str
    for_good: bool  # its directory was synced too


@dataclass(frozen=True, slots=True)
class Noted:
    """Not of the disk: the program that uses it got so far."""

    note: int


Change = Written | Truncated
Event = Created | Written | Truncated | Synced | Deleted | Noted
Survives = Callable[[Sequence[Change]], list[Change]]
"""Which of a file's unsynced changes are on the disk after the cut."""


class RecordingDisk(apsw.VFS):
    """Keeps a journal of all that is done to it.

    With `lying` a sync is acknowledged and does nothing, as with some consumer drives.
    """

    def __init__(self, *, lying: bool = False) -> None:
        super().__init__("recording-disk", UNIX, makedefault=True)
        self.journal: list[Event] = []
        self.lying = lying
        self._files: dict[str, int] = {}
        self._count = 0

    def note(self, note: int) -> None:
        self.journal.append(Noted(note))

    def xOpen(self, name: Any, flags: list[int]) -> "_RecordedFile":  # noqa: N802 - APSW's name
        path = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        if path not in self._files:
            self._count += 1
            self._files[path] = self._count
            self.journal.append(Created(self._count, Path(path).name))
        return _RecordedFile(self, self._files[path], name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802 - APSW's
        self._files.pop(filename, None)
        self.journal.append(Deleted(Path(filename).name, for_good=bool(syncdir)))
        super().xDelete(filename, syncdir)


class _RecordedFile(apsw.VFSFile):
    def __init__(self, disk: RecordingDisk, file: int, name: Any, flags: list[int]) -> None:
        super().__init__(UNIX, name, flags)
        self._disk = disk
        self._file = file

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - APSW's name
        self._disk.journal.append(Written(self._file, offset, bytes(data)))
        super().xWrite(data, offset)

    def xTruncate(self, size: int) -> None:  # noqa: N802 - APSW's name
        self._disk.journal.append(Truncated(self._file, size))
        super().xTruncate(size)

    def xSync(self, flags: int) -> None:  # noqa: N802 - APSW's name
        # A real sync would show nothing: what it promises is what the journal is read for.
        self._disk.journal.append(Synced(self._file, takes_effect=not self._disk.lying))


@dataclass(slots=True)
class _File:
    synced: bytearray = field(default_factory=bytearray)
    pending: list[Change] = field(default_factory=list)
    entered: bool = False  # its directory was synced since it was created


class Platter:
    """The disk at one moment of the journal: `play` brings it to the next."""

    def __init__(self) -> None:
        self._files: dict[int, _File] = {}
        self._names: dict[str, int] = {}
        self._synced_names: dict[str, int] = {}
        self.note = 0  # the last one

    def play(self, event: Event) -> None:
        match event:
            case Created(file, name):
                self._files[file] = _File()
                self._names[name] = file
            case Written(file) | Truncated(file):
                self._files[file].pending.append(event)
            case Synced(file, takes_effect) if takes_effect:
                self._sync(self._files[file])
            case Deleted(name, for_good):
                self._names.pop(name, None)
                if for_good:
                    self._synced_names = dict(self._names)
            case Noted(note):
                self.note = note
            case Synced():
                pass

    def _sync(self, file: _File) -> None:
        for change in file.pending:
            _apply(file.synced, change)
        file.pending.clear()
        if not file.entered:  # SQLite syncs the directory with the first sync of a new file
            file.entered = True
            self._synced_names = dict(self._names)

    def cut(self, folder: Path, survives: Survives, *, listed: bool) -> None:
        """Write what a power cut leaves now; `listed`: the directory as it was, not as synced."""
        names = self._names if listed else self._synced_names
        for name, number in names.items():
            file = self._files[number]
            content = deepcopy(file.synced)
            for change in survives(file.pending):
                _apply(content, change)
            (folder / name).write_bytes(content)


def _apply(content: bytearray, change: Change) -> None:
    if isinstance(change, Truncated):
        del content[change.size :]
        return
    content.extend(bytes(max(0, change.offset - len(content))))
    content[change.offset : change.offset + len(change.data)] = change.data


def nothing(_pending: Sequence[Change]) -> list[Change]:
    return []


def everything(pending: Sequence[Change]) -> list[Change]:
    return list(pending)


def some(random: Random) -> Survives:
    """A random part of the changes; of some writes only a part of the sectors."""
    share = random.choice([0.1, 0.5, 0.9])

    def survives(pending: Sequence[Change]) -> list[Change]:
        left: list[Change] = []
        for change in pending:
            if random.random() >= share:
                continue
            torn = isinstance(change, Written) and random.random() < 0.3
            left += _sectors(change, random) if torn else [change]
        return left

    return survives


def _sectors(write: Written, random: Random) -> list[Change]:
    """Each sector of a write for itself, some left out."""
    left: list[Change] = []
    start, end = write.offset, write.offset + len(write.data)
    while start < end:
        stop = min(end, start - start % SECTOR + SECTOR)
        if random.random() < 0.5:
            data = write.data[start - write.offset : stop - write.offset]
            left.append(Written(write.file, start, data))
        start = stop
    return left
