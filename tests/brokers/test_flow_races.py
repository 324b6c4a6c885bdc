"""Eight processes race over one SQLite file: one job a key, no place and no slot too many."""

import os
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import flow_racer
import pytest

from ropeway.broker import Filter
from ropeway.brokers.sqlite import SQLiteBroker
from ropeway.brokers.sqlite.connection import Connection
from ropeway.flow.rules import LimitRule, QueueRule, Slots
from ropeway.job import State
from ropeway.testing.steps import all_records

pytestmark = pytest.mark.anyio

UNIQUE_RACES = 10_000 if os.environ.get("HYPOTHESIS_PROFILE") == "nightly" else 400
RACES = UNIQUE_RACES // 8
PLACES = 5
SLOTS = 2


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


@pytest.fixture
async def broker(path: Path) -> AsyncIterator[SQLiteBroker]:
    broker = SQLiteBroker(path, durability="fast")
    await broker.open()
    yield broker
    await broker.close()


class Witness:
    """A trigger of the database: it sees each single change of a row, within any transaction."""

    def __init__(self, path: Path, event: str, too_many: str) -> None:
        self._sql = Connection(path, synchronous="NORMAL")
        self._sql.run("CREATE TABLE seen (what TEXT NOT NULL)")
        self._sql.run(
            f"CREATE TRIGGER too_many AFTER {event} ON jobs WHEN {too_many}"
            " BEGIN INSERT INTO seen VALUES (new.id); END"
        )

    def seen(self) -> list[str]:
        """The jobs that were one too many."""
        found = [what for (what,) in self._sql.rows("SELECT what FROM seen")]
        self._sql.close()
        return found


async def test_of_a_unique_key_there_is_one_job_and_everybody_learns_which(
    broker: SQLiteBroker, path: Path
) -> None:
    told = flow_racer.race(flow_racer.unique, path, UNIQUE_RACES)
    for answers in zip(*told, strict=True):
        words = Counter(word for word, _ in answers)
        assert words == {"ok": 1, "duplicate_key": flow_racer.PROCESSES - 1}
        assert len({job for _, job in answers}) == 1
    assert await broker.count(Filter()) == UNIQUE_RACES


async def test_a_bounded_queue_never_takes_more_than_its_length(
    broker: SQLiteBroker, path: Path
) -> None:
    await broker.declare([QueueRule(name="default", max_length=PLACES)])
    waiting = "SELECT count(*) FROM jobs WHERE state IN (0, 1, 2)"
    witness = Witness(path, "INSERT", f"({waiting}) > {PLACES}")
    told = flow_racer.race(flow_racer.bounded, path, RACES)
    assert witness.seen() == []
    words = Counter(word for answers in told for word, _ in answers)
    assert words["full"]
    assert words["ok"] == await broker.count(Filter())
    assert words["ok"] + words["full"] == 2 * RACES * flow_racer.PROCESSES


async def test_never_more_jobs_of_a_key_run_than_it_has_slots_and_all_run_in_the_end(
    broker: SQLiteBroker, path: Path
) -> None:
    """Also when leases are lost: their slots come back."""
    await broker.declare([LimitRule(name="slots", limit=Slots(SLOTS))])
    of_key = "state = 3 AND queue = new.queue AND task = new.task"
    running = f"SELECT count(*) FROM jobs WHERE {of_key}"
    witness = Witness(path, "UPDATE OF state", f"new.state = 3 AND ({running}) > {SLOTS}")
    told = flow_racer.race(flow_racer.slots, path, RACES)
    assert witness.seen() == []
    states = Counter(record.status.state for record in await all_records(broker))
    assert states == {State.COMPLETED: RACES * flow_racer.PROCESSES}
    starts = Counter(job for answers in told for _, job in answers)
    assert len(starts) == RACES * flow_racer.PROCESSES
    assert max(starts.values()) > 1, "no lease was lost"
