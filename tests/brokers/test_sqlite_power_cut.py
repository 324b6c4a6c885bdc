"""The power is cut at every fsync of a long history, and the files that are left are opened.

`full`: they hold all that was answered. `fast`: they hold what some moment held, so that only the
last calls are lost and never one in between. What a moment held is every row of every table, read
through another connection when the call had been answered.
"""

import os
import shutil
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from random import Random

import apsw
import msgspec
import pytest
from disks import UNIX, in_use, is_sound
from power_cut import (
    Event,
    Noted,
    Platter,
    RecordingDisk,
    Survives,
    Synced,
    everything,
    nothing,
    some,
)
from varied_calls import VariedCalls

from ropeway.brokers.sqlite import SQLiteBroker, connection
from ropeway.brokers.sqlite.broker import Durability
from ropeway.errors import StorageCorrupt
from ropeway.testing.manual_clock import ManualClock
from ropeway.testing.steps import make_job, record_of

pytestmark = pytest.mark.anyio

STEPS = 500
# Every fsync, or a sample of them: HYPOTHESIS_PROFILE=nightly.
EVERY_FSYNC = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
SAMPLE = 15
RANDOM_CUTS = 3  # at each fsync, besides those at which nothing and all of the unsynced survives


@dataclass(frozen=True)
class History:
    """What a broker did: the disk's journal, and the content after each answered step."""

    journal: list[Event]
    contents: list[bytes]
    clock: ManualClock  # at its end


@pytest.fixture(autouse=True)
def frequent_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a day's work: the journal is moved into the database, emptied and begun anew."""
    monkeypatch.setattr(connection, "CHECKPOINT_PAGES", 150)
    monkeypatch.setattr(connection, "RESTART_PAGES", 250)


def content_of(path: Path) -> bytes:
    """All that the database says, as a fingerprint."""
    sql = apsw.Connection(str(path), vfs=UNIX)
    digest = blake2b(digest_size=16)
    with sql:
        tables = sql.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
        for (table,) in sorted(tables.fetchall()):
            for row in sql.execute(f"SELECT * FROM {table}"):
                digest.update(msgspec.msgpack.encode(row))
    sql.close()
    return digest.digest()


async def history(
    folder: Path, durability: Durability, *, steps: int = STEPS, lying: bool = False
) -> History:
    """The same steps for each durability, on a disk that remembers."""
    path, clock = folder / "jobs.db", ManualClock()
    with in_use(RecordingDisk(lying=lying)) as disk:
        broker = SQLiteBroker(path, durability=durability, clock=clock)
        await broker.open()
        contents = [content_of(path)]
        disk.note(0)
        async for _ in VariedCalls(broker, clock, Random(7)).walk(steps):
            disk.note(len(contents))
            contents.append(content_of(path))
        await broker.close()
    return History(disk.journal, contents, clock)


@dataclass(frozen=True)
class Cut:
    """One power cut: after how many answered steps, and which moments its files agree with."""

    event: int  # of the journal
    answered: int
    survived: str
    moments: list[int]

    @property
    def lost_nothing(self) -> bool:
        """All that was answered is there; the step that was under way may be there too."""
        return self.answered in self.moments or self.answered + 1 in self.moments

    @property
    def lost_only_the_last(self) -> bool:
        return bool(self.moments)


async def cuts(folder: Path, told: History, durability: Durability) -> list[Cut]:
    """Cut the power at each fsync (or at some), in several ways, and open what is left.

    `fast` has few, so its power is cut at each answer too.
    """
    random = Random(11)
    at = Synced if durability == "full" else Synced | Noted
    points = [n for n, event in enumerate(told.journal) if isinstance(event, at)]
    chosen = set(points if EVERY_FSYNC else random.sample(points, SAMPLE))
    ways: dict[str, Survives] = {"nothing": nothing, "everything": everything}
    ways |= {f"some {n}": some(random) for n in range(RANDOM_CUTS)}
    platter, found = Platter(), list[Cut]()
    for number, event in enumerate(told.journal):
        if number in chosen:
            for survived, survives in ways.items():
                left = folder / f"{number} {survived}"
                left.mkdir()
                platter.cut(left, survives, listed=survives is not nothing)
                content = await content_after_restart(left / "jobs.db", durability, told.clock)
                moments = [n for n, other in enumerate(told.contents) if other == content]
                found.append(Cut(number, platter.note, survived, moments))
                shutil.rmtree(left)
        platter.play(event)
    return found


async def content_after_restart(
    path: Path, durability: Durability, clock: ManualClock
) -> bytes | None:
    """Open the files with a broker as after a boot, and go on; None when they are not sound."""
    broker = SQLiteBroker(path, durability=durability, clock=clock, start_thread=None)
    try:
        await broker.open()
        content = content_of(path) if is_sound(path) else None
        job = make_job(queue="after the cut")
        await broker.enqueue([job])
        assert (await record_of(broker, job)).job.task == job.task
    except (StorageCorrupt, apsw.CorruptError):
        content = None
    await broker.close()
    return content


async def test_full_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    told = await history(tmp_path, "full")
    found = await cuts(tmp_path, told, "full")
    assert [cut for cut in found if not cut.lost_nothing] == []


async def test_fast_loses_the_last_calls_at_most_and_none_in_between(tmp_path: Path) -> None:
    told = await history(tmp_path, "fast")
    found = await cuts(tmp_path, told, "fast")
    assert [cut for cut in found if not cut.lost_only_the_last] == []
    # What the operating system has in its cache survives anything but the power cut.
    assert all(cut.lost_nothing for cut in found if cut.survived == "everything")
    assert not all(cut.lost_nothing for cut in found), "so the two promises are told apart"


async def test_a_disk_that_lies_about_its_syncs_is_caught(tmp_path: Path) -> None:
    told = await history(tmp_path, "full", steps=60, lying=True)
    found = await cuts(tmp_path, told, "full")
    assert any(not cut.lost_nothing for cut in found)
