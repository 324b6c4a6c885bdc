"""A job that kills its worker has a budget of its own, and its neighbours pay nothing.

Real processes: `ropeway worker --processes 2` on SQLite.
"""

import asyncio
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from ropeway import Ropeway
from ropeway.broker import Filter
from ropeway.brokers.sqlite import SQLiteBroker
from ropeway.job import FINAL, JobRecord, State

pytestmark = pytest.mark.anyio

PLACE = Path(__file__).parent
LEASE = "600ms"
STARTS_MAX = 4
WITHIN_S = 30.0
NEIGHBOURS = 12


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncGenerator[SQLiteBroker]:
    broker = SQLiteBroker(tmp_path / "jobs.db", durability="fast")
    await broker.open()
    yield broker
    await broker.close()


@contextmanager
def workers(folder: Path, *, concurrency: int = 8) -> Iterator[None]:
    """`ropeway worker` with two processes, killed with all that it started."""
    url = f"sqlite:///{folder}/jobs.db?durability=fast"
    options = ("--processes", "2", "--concurrency", str(concurrency), "--lease", LEASE)
    with (folder / "worker.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "ropeway", "worker", "crash_app:app", *options],
            cwd=PLACE,
            env={**os.environ, "ROPEWAY_URL": url, "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=log,
            stderr=log,
        )
        try:
            yield
        finally:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
            process.wait()


async def finished(broker: SQLiteBroker, count: int) -> list[JobRecord]:
    """The records of all jobs, once so many are final."""
    end = time.monotonic() + WITHIN_S
    while await broker.count(Filter(states=FINAL)) < count:
        assert time.monotonic() < end, [
            (r.job.task, r.status.state, len(r.status.crashes))
            for r in (await broker.find(Filter())).records
            if r.status.state not in FINAL
        ]
        await asyncio.sleep(0.05)
    return (await broker.find(Filter(), limit=1_000)).records


def of_task(records: Sequence[JobRecord], word: str) -> list[JobRecord]:
    return [record for record in records if record.job.task.startswith(word)]


def check(records: Sequence[JobRecord], starts: Counter[str], *, poisons: int) -> None:
    """What holds at the end, whoever shared a process with whom."""
    poisoned, good = of_task(records, "poison."), of_task(records, "good.")
    assert [(r.status.state, r.status.reason) for r in poisoned] == [
        (State.DEAD, "crashed_worker")
    ] * poisons
    assert {len(r.status.crashes) for r in poisoned} == {STARTS_MAX}
    killed = [count for name, count in starts.items() if name.startswith("poison")]
    assert len(killed) == poisons
    assert max(killed) <= STARTS_MAX
    assert {(r.status.state, r.status.attempt, r.status.errors) for r in good} == {
        (State.COMPLETED, 1, ())
    }


@pytest.mark.parametrize("kind", ["async", "thread", "process"])
async def test_a_job_that_kills_its_worker_starts_four_times_and_harms_nobody(
    kind: str, broker: SQLiteBroker, tmp_path: Path
) -> None:
    ledger = tmp_path / "starts"
    async with Ropeway(f"sqlite:///{tmp_path}/jobs.db?durability=fast") as app:
        for number in range(NEIGHBOURS):
            if number in (3, 7):
                how = "kill" if number == 3 else "memory"
                words = {"path": str(ledger), "name": f"poison-{how}", "how": how}
                await app.send(f"poison.{kind}", words)
            words = {"path": str(ledger), "name": f"good-{number}"}
            await app.send(f"good.{('async', 'thread')[number % 2]}", words)
        with workers(tmp_path):
            records = await finished(broker, NEIGHBOURS + 2)
    check(records, Counter(ledger.read_text().split()), poisons=2)
