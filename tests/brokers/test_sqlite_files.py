"""What SQLiteBroker does about files that it cannot use, and about a schema that is not its own."""

import asyncio
import os
import stat
import tempfile
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest

from ropeway.broker import EnqueueAnswer, Filter
from ropeway.brokers.sqlite import SQLiteBroker, schema
from ropeway.brokers.sqlite.connection import Connection
from ropeway.errors import (
    BrokerError,
    ConfigError,
    Disconnected,
    SchemaMismatch,
    StorageCorrupt,
    StorageFull,
    StorageReadOnly,
)
from ropeway.job import State
from ropeway.testing.manual_clock import ManualClock
from ropeway.testing.steps import HOUR_MS, enqueue, make_job, put, take, take_one

pytestmark = pytest.mark.anyio


async def refused(path: Path, error: type[Exception]) -> str:
    """What `open` says about the file."""
    broker = SQLiteBroker(path)
    with pytest.raises(error) as raised:
        await broker.open()
    await broker.close()
    return str(raised.value)


async def test_a_file_that_is_no_database_is_named_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("these are my notes, no database\n" * 100)
    before = path.read_bytes()
    assert str(path) in await refused(path, StorageCorrupt)
    assert path.read_bytes() == before


async def test_a_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    other = apsw.Connection(str(path))
    other.execute("CREATE TABLE theirs (x)")
    other.close()
    assert "another program" in await refused(path, StorageCorrupt)


async def test_a_damaged_record_is_named_and_nothing_wrong_is_shown(tmp_path: Path) -> None:
    broker = SQLiteBroker(tmp_path / "jobs.db")
    await broker.open()
    job = await enqueue(broker)
    damage(tmp_path / "jobs.db", "UPDATE jobs SET job = x'C1'")
    with pytest.raises(StorageCorrupt, match="seq 1"):
        await broker.get([job.ref])
    await broker.close()


async def test_a_record_of_a_newer_format_is_left_in_place_with_a_reason(tmp_path: Path) -> None:
    broker = SQLiteBroker(tmp_path / "jobs.db")
    await broker.open()
    job = await enqueue(broker)
    damage(tmp_path / "jobs.db", "UPDATE jobs SET format = 2")
    with pytest.raises(StorageCorrupt, match="format 2"):
        await broker.get([job.ref])
    assert await broker.count(Filter()) == 1
    await broker.close()


def damage(path: Path, sql: str) -> None:
    """Change the file behind the broker's back."""
    connection = Connection(path, synchronous="FULL")
    connection.run(sql)
    connection.close()


async def test_a_newer_schema_is_refused_with_both_versions(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    broker = SQLiteBroker(path)
    await broker.open()
    await broker.close()
    damage(path, "PRAGMA user_version = 99")
    message = await refused(path, SchemaMismatch)
    assert "99" in message
    assert str(len(schema.MIGRATIONS)) in message
    assert "Upgrade" in message


async def test_an_older_schema_is_migrated_step_by_step_and_once(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    schema.create_file(path)
    connection = Connection(path, synchronous="FULL")
    schema.migrate(connection, path)
    newer = (*schema.MIGRATIONS, "ALTER TABLE meta ADD COLUMN added INTEGER DEFAULT 7")
    schema.migrate(connection, path, newer)
    schema.migrate(connection, path, newer)
    assert connection.rows("SELECT added FROM meta") == [(7,)]
    assert connection.rows("PRAGMA user_version") == [(len(newer),)]
    connection.close()


async def test_a_migration_that_fails_leaves_the_old_schema(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    schema.create_file(path)
    connection = Connection(path, synchronous="FULL")
    schema.migrate(connection, path)
    broken = (*schema.MIGRATIONS, "CREATE TABLE half (x); CREATE TABLE half (x)")
    with pytest.raises(apsw.SQLError):
        schema.migrate(connection, path, broken)
    schema.migrate(connection, path)
    assert connection.rows("SELECT count(*) FROM sqlite_schema WHERE name = 'half'") == [(0,)]
    connection.close()


@contextmanager
def stepped_down() -> Generator[None, None, None]:
    """File modes bind everybody but root, so root steps down."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.fixture
def folder() -> Generator[Path, None, None]:
    """A folder that every user can enter."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o777)
        yield path


@pytest.fixture
def unwritable_folder(folder: Path) -> Generator[Path, None, None]:
    path = folder / "jobs.db"
    path.touch()
    path.chmod(0o666)
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o777)


async def test_an_unwritable_file_is_said_to_be_so(folder: Path) -> None:
    path = folder / "jobs.db"
    path.touch(mode=0o444)
    with stepped_down():
        assert "cannot be written" in await refused(path, StorageReadOnly)


async def test_an_unwritable_directory_is_said_to_be_so(unwritable_folder: Path) -> None:
    with stepped_down():
        assert str(unwritable_folder) in await refused(
            unwritable_folder / "jobs.db", StorageReadOnly
        )


async def test_a_missing_directory_is_a_wrong_path(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "jobs.db"
    assert str(path.parent) in await refused(path, ConfigError)


async def test_a_directory_is_no_database_file(tmp_path: Path) -> None:
    assert "directory" in await refused(tmp_path, ConfigError)


async def test_the_file_belongs_to_its_owner_alone(tmp_path: Path) -> None:
    broker = SQLiteBroker(tmp_path / "jobs.db")
    await broker.open()
    await enqueue(broker)
    files = sorted(tmp_path.glob("jobs.db*"))  # noqa: ASYNC240 - nothing else runs here
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in files}
    await broker.close()
    assert set(modes.values()) == {0o600}


async def test_a_full_disk_refuses_the_whole_call_and_the_broker_goes_on(tmp_path: Path) -> None:
    broker = SQLiteBroker(tmp_path / "jobs.db")
    await broker.open()
    await enqueue(broker)
    limit_pages(broker, 60)
    with pytest.raises(StorageFull, match=r"jobs\.db"):
        await broker.enqueue([make_job(payload=b"x" * 1000) for _ in range(1000)])
    assert await broker.count(Filter()) == 1
    assert (await broker.queues())[0].counts == {State.AVAILABLE: 1}
    limit_pages(broker, 2**30)
    answers = await broker.enqueue([make_job(payload=b"x" * 1000) for _ in range(1000)])
    assert {answer.answer for answer in answers} == {EnqueueAnswer.OK}
    assert await broker.count(Filter()) == 1001
    await broker.close()


def limit_pages(broker: SQLiteBroker, pages: int) -> None:
    """Let the file grow to so many pages at most, as a full disk does."""
    opened = broker._opened
    assert opened is not None
    opened.writer._connection.run(f"PRAGMA max_page_count = {pages}")


async def test_a_clock_set_back_while_closed_delays_nothing(
    tmp_path: Path,
) -> None:
    clock = ManualClock()
    broker = SQLiteBroker(tmp_path / "jobs.db", clock=clock)
    await broker.open()
    first = await enqueue(broker)
    await broker.close()
    clock.step_wall(-HOUR_MS)
    broker = SQLiteBroker(tmp_path / "jobs.db", clock=clock)
    await broker.open()
    second = await enqueue(broker)
    assert [lease.job.id for lease in await take(broker)] == [first.id, second.id]
    await broker.close()


async def test_leases_of_an_earlier_boot_have_ended(tmp_path: Path) -> None:
    clock = ManualClock(mono_ms=50 * HOUR_MS)
    broker = SQLiteBroker(tmp_path / "jobs.db", clock=clock)
    await broker.open()
    job = await enqueue(broker)
    await take_one(broker)
    await broker.close()
    damage(tmp_path / "jobs.db", "UPDATE meta SET boot = 'an earlier one'")
    broker = SQLiteBroker(tmp_path / "jobs.db", clock=ManualClock(mono_ms=1000))
    await broker.open()
    assert (await broker.maintain()).expired == 1
    assert (await take_one(broker)).job.id == job.id
    await broker.close()


async def test_everything_is_there_after_closing_and_opening_again(tmp_path: Path) -> None:
    broker = SQLiteBroker(tmp_path / "jobs.db")
    await broker.open()
    job = await enqueue(broker, headers={"tenant": "ä"}, tags=("a", "b"))
    await broker.pause("later")
    (before,) = await broker.get([job.ref])
    await broker.close()
    await broker.close()
    with pytest.raises(Disconnected, match="not open"):
        await put(broker, make_job())
    await broker.open()
    assert await broker.get([job.ref]) == [before]
    assert {info.name: info.paused for info in await broker.queues()} == {
        "default": False,
        "later": True,
    }
    await broker.close()


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("sqlite:///jobs.db?durabillity=fast", "durabillity"),
        ("sqlite:///jobs.db?durability=none", "none"),
        ("sqlite://jobs.db", "sqlite:///"),
        ("sqlite://:memory:", "memory://"),
        ("sqlite:///:memory:", "memory://"),
        ("sqlite://", "memory://"),
        ("sqlite:///", "memory://"),
    ],
)
def test_a_wrong_url_says_what_is_wrong(url: str, word: str) -> None:
    with pytest.raises(ConfigError, match=word.replace(".", r"\.")):
        SQLiteBroker.from_url(url)


def test_urls_name_relative_and_absolute_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    relative = SQLiteBroker.from_url("sqlite:///some%20jobs.db")
    absolute = SQLiteBroker.from_url(f"sqlite:///{tmp_path}/some jobs.db?durability=fast")
    assert relative._path == absolute._path == tmp_path / "some jobs.db"
    assert relative.capabilities.durability != absolute.capabilities.durability


async def test_a_broker_of_another_loop_says_so(tmp_path: Path) -> None:
    broker = SQLiteBroker(tmp_path / "jobs.db")
    await broker.open()
    errors: list[BaseException] = []

    def elsewhere() -> None:
        try:
            asyncio.run(broker.queues())
        except BrokerError as error:
            errors.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert "another event loop" in str(errors[0])
    await broker.close()
