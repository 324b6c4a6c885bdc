"""Producers and workers are killed with SIGKILL; nothing is lost, nothing is settled twice."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from ropeway.broker import Filter
from ropeway.brokers.sqlite import SQLiteBroker
from ropeway.job import FINAL, UNFINISHED, JobRecord, State

HERE = Path(__file__).parent
KILLS = 20
LEASE_S = 2
DRAIN_S = 60

# A witness inside the database, independent of the broker's own SQL: every time that a job goes
# from an unfinished state to a final one.
WITNESS = f"""
CREATE TABLE witness (id TEXT NOT NULL);
CREATE TRIGGER witness_final AFTER UPDATE OF state ON jobs
WHEN new.state >= {list(State).index(State.COMPLETED)}
BEGIN INSERT INTO witness VALUES (new.id); END;
"""


class Fleet:
    """The processes of the test; each can be killed and started again under its name."""

    def __init__(self, database: Path, ledger: Path) -> None:
        self._env = os.environ | {
            "KILL_URL": f"sqlite:///{database}?durability=fast",
            "KILL_LEDGER": str(ledger),
        }
        self._commands = {
            "worker-1": self._worker(),
            "worker-2": self._worker(),
            "producer-1": [sys.executable, "producer.py"],
            "producer-2": [sys.executable, "producer.py"],
        }
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def _worker(self) -> list[str]:
        options = ["--lease", str(LEASE_S), "--concurrency", "20", "--log-level", "error"]
        return [sys.executable, "-m", "ropeway", "worker", "killed_app:app", *options]

    def start(self, *names: str) -> None:
        for name in names:
            self._processes[name] = subprocess.Popen(self._commands[name], cwd=HERE, env=self._env)

    def kill(self, name: str) -> None:
        process = self._processes.pop(name)
        assert process.poll() is None, f"{name} ended by itself with {process.returncode}"
        process.kill()
        process.wait()

    def stop(self, name: str) -> None:
        process = self._processes.pop(name)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0, f"{name} did not stop cleanly"

    def end(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "ledger"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    database = tmp_path / "jobs.db"
    asyncio.run(_create(database))
    connection = apsw.Connection(str(database))
    connection.execute(WITNESS)
    connection.close()
    return database


def test_twenty_kills_lose_nothing_and_settle_nothing_twice(database: Path, ledger: Path) -> None:
    fleet = Fleet(database, ledger)
    victims = random.Random(20)
    try:
        fleet.start("worker-1", "worker-2", "producer-1", "producer-2")
        _until(lambda: ledger.exists() and "end " in ledger.read_text(), "the first job ends")
        for kill in range(KILLS):
            name = f"{'producer' if kill % 4 == 3 else 'worker'}-{victims.choice('12')}"
            fleet.kill(name)
            fleet.start(name)
            time.sleep(victims.uniform(0.3, 0.9))
        fleet.kill("producer-1")
        fleet.kill("producer-2")
        _until(lambda: asyncio.run(_unfinished(database)) == 0, "every job is final")
        fleet.stop("worker-1")
        fleet.stop("worker-2")
    finally:
        fleet.end()

    records = asyncio.run(_records(database))
    noted = _read(ledger)
    lost = {job_id for job_id in noted["ack"] if _state(records, job_id) is not State.COMPLETED}
    assert not lost, "acknowledged, but not completed"
    assert not records.keys() - noted["ask"].keys(), "stored, but never asked for"
    assert not noted["start"].keys() - noted["ask"].keys(), "started, but never asked for"
    assert all(noted["end"][job_id] >= 1 for job_id in records), "completed, but never run"
    twice = [job_id for job_id, times in _finals(database).items() if times != 1]
    assert not twice, "not settled exactly once"
    unexplained = {
        job_id: starts
        for job_id, starts in noted["start"].items()
        if starts > records[job_id].status.attempt + len(records[job_id].status.crashes)
    }
    assert not unexplained, "started more often than attempts and lost leases explain"
    assert sum(len(record.status.crashes) for record in records.values()) > 0, "no kill hit a job"


def _until(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DRAIN_S
    while not true():
        assert time.monotonic() < deadline, f"waited {DRAIN_S} s in vain until {what}"
        time.sleep(0.1)


async def _create(database: Path) -> None:
    broker = SQLiteBroker(database)
    await broker.open()
    await broker.close()


async def _unfinished(database: Path) -> int:
    broker = SQLiteBroker(database)
    await broker.open()
    count = await broker.count(Filter(states=UNFINISHED))
    await broker.close()
    return count


async def _records(database: Path) -> dict[str, JobRecord]:
    broker = SQLiteBroker(database)
    await broker.open()
    records: dict[str, JobRecord] = {}
    page = await broker.find(Filter(states=FINAL), limit=1000)
    records |= {record.job.id: record for record in page.records}
    while page.cursor is not None:
        page = await broker.find(Filter(states=FINAL), after=page.cursor, limit=1000)
        records |= {record.job.id: record for record in page.records}
    await broker.close()
    return records


def _state(records: dict[str, JobRecord], job_id: str) -> State | None:
    return records[job_id].status.state if job_id in records else None


def _read(ledger: Path) -> dict[str, Counter[str]]:
    noted: dict[str, Counter[str]] = {e: Counter() for e in ("ask", "ack", "start", "end")}
    for line in ledger.read_text().splitlines():
        event, job_id = line.split()
        noted[event][job_id] += 1
    return noted


def _finals(database: Path) -> Counter[str]:
    connection = apsw.Connection(str(database))
    finals = Counter(job_id for (job_id,) in connection.execute("SELECT id FROM witness"))
    connection.close()
    return finals
