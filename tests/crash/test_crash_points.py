"""A process is killed at each point there is; nothing is lost, nothing ends twice.

Only brokers that outlive their process are asked. The memory broker does not: its jobs end with
the process that holds them, so there is nothing of it to recover.
"""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

import ropeway
from ropeway import crash
from ropeway.broker import Filter
from ropeway.brokers.memory import MemoryBroker
from ropeway.brokers.registry import broker_from_url
from ropeway.brokers.sqlite.connection import Connection
from ropeway.errors import ConfigError
from ropeway.job import JobRecord, State
from ropeway.offload import Offload
from ropeway.testing.steps import all_records

HERE = Path(__file__).parent
CHILD_S = 60

# A witness inside the database: each time that a job goes from an unfinished to a final state.
WITNESS = f"""
CREATE TABLE witness (id TEXT NOT NULL);
CREATE TRIGGER witness_final AFTER UPDATE OF state ON jobs
WHEN new.state >= {list(State).index(State.COMPLETED)}
BEGIN INSERT INTO witness VALUES (new.id); END;
"""


class SQLiteHost:
    """A database file with a witness of its own."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "jobs.db"
        self.url = f"sqlite:///{self._path}?durability=fast"

    def prepare(self) -> None:
        connection = Connection(self._path, synchronous="NORMAL")
        connection.run(WITNESS)
        connection.close()

    def ends(self) -> Counter[str]:
        """How often each job came to an end."""
        connection = Connection(self._path, synchronous="NORMAL", readonly=True)
        found = connection.rows("SELECT id FROM witness")
        connection.close()
        return Counter(id_ for (id_,) in found)


HOSTS: dict[str, Callable[[Path], SQLiteHost]] = {"sqlite": SQLiteHost}
"""Every broker whose jobs outlive the process."""

# The role that passes a point, and how many times it does so before it is killed there.
PASSES = {"reserve.written": 2, "settle.written": 2, "extend.written": 2, "worker.settled": 2}


def role_at(point: str) -> str:
    if point.startswith(("enqueue.", "producer.")):
        return "produce"
    return "chain" if point in ("settle.then", "act.written") else "work"


def run(role: str, url: str, ledger: Path, *, crash_at: str | None = None) -> int:
    env = {name: value for name, value in os.environ.items() if name != crash.VARIABLE}
    if crash_at is not None:
        env[crash.VARIABLE] = crash_at
    command = [sys.executable, "crash_child.py", role, url, str(ledger)]
    return subprocess.run(command, cwd=HERE, env=env, timeout=CHILD_S, check=False).returncode


async def begin(host: SQLiteHost, folder: Path) -> None:
    (folder / "blobs").mkdir()
    broker = broker_from_url(host.url)
    await broker.open()
    await broker.close()
    host.prepare()


async def records(url: str) -> dict[str, JobRecord]:
    broker = broker_from_url(url)
    await broker.open()
    found = await all_records(broker, Filter())
    await broker.close()
    return {record.job.id: record for record in found}


@pytest.mark.parametrize("point", crash.POINTS)
@pytest.mark.parametrize("name", HOSTS)
def test_a_kill_at_this_point_loses_nothing_and_ends_nothing_twice(
    name: str, point: str, tmp_path: Path
) -> None:
    host, ledger = HOSTS[name](tmp_path), tmp_path / "ledger"
    asyncio.run(begin(host, tmp_path))
    killed = role_at(point)
    for role in ("produce", "chain", "work"):
        if role == killed:
            crash_at = f"{point}:{PASSES.get(point, 1)}"
            assert run(role, host.url, ledger, crash_at=crash_at) == -signal.SIGKILL
        assert run(role, host.url, ledger) == 0

    stored = asyncio.run(records(host.url))
    noted = [line.split() for line in ledger.read_text().splitlines()]
    acked = {job for event, job in noted if event == "ack"}
    ended = {job for event, job in noted if event == "end"}
    states = {job: record.status.state for job, record in stored.items()}
    assert acked <= set(states), "an acknowledged job is gone"
    assert states.pop("unwanted") is State.CANCELLED
    assert "second" in states, "a job was acked without the one that follows it"
    assert set(states.values()) == {State.COMPLETED}, "something hangs or went wrong"
    assert set(states) <= ended, "completed without having run"
    twice = {job: n for job, n in host.ends().items() if n > 1}
    assert not twice


@pytest.mark.parametrize("name", HOSTS)
def test_a_kill_between_blob_and_job_leaves_an_orphan_that_is_collected(
    name: str, tmp_path: Path
) -> None:
    host, blobs = HOSTS[name](tmp_path), tmp_path / "blobs"
    asyncio.run(begin(host, tmp_path))
    run("produce", host.url, tmp_path / "ledger", crash_at="producer.offloaded")
    assert "big" not in asyncio.run(records(host.url))
    (orphan,) = blobs.glob("*/*")
    os.utime(orphan, (0, 0))
    assert asyncio.run(collected(host.url, blobs)) == 1
    assert not orphan.exists()


async def collected(url: str, blobs: Path) -> int:
    broker = broker_from_url(url)
    await broker.open()
    removed = await Offload(blobs).collect(broker)
    await broker.close()
    return removed


def test_every_point_is_passed_somewhere_and_every_passed_point_is_listed() -> None:
    sources = Path(ropeway.__file__).parent.rglob("*.py")
    passed = {
        found
        for path in sources
        if path.name != "crash.py"
        for found in re.findall(r"crash\.point\(\"([^\"]+)\"\)", path.read_text(encoding="utf-8"))
    }
    assert passed == set(crash.POINTS)


def test_a_process_that_was_not_told_to_die_passes_all_points() -> None:
    assert crash.VARIABLE not in os.environ
    for point in crash.POINTS:
        crash.point(point)


def test_a_listener_hears_of_each_point_inside_its_block() -> None:
    heard: list[str] = []
    with crash.listening(heard.append):
        crash.point("enqueue.written")
    crash.point("enqueue.written")
    assert heard == ["enqueue.written"]


@pytest.mark.parametrize("setting", ["nowhere", "enqueue.written:0", "enqueue.written:x", ""])
def test_a_point_that_does_not_exist_is_refused(setting: str) -> None:
    with pytest.raises(ConfigError, match="ROPEWAY_CRASH_AT"):
        crash.armed(setting)


def test_the_memory_broker_has_no_process_to_outlive() -> None:
    assert not MemoryBroker().capabilities.durable
