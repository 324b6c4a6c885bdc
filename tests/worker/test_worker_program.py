"""Worker processes as the operating system sees them: signals, deaths, supervision."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import psutil
import pytest
from worker_bench import SOON_S, Bench, until

from ropeway.broker import JobStore
from ropeway.brokers.memory import MemoryBroker
from ropeway.brokers.sqlite import SQLiteBroker
from ropeway.errors import ConfigError
from ropeway.job import JobRef, State
from ropeway.worker import WorkerOptions
from ropeway.worker.process.exits import EXIT_CONFIG, EXIT_OK
from ropeway.worker.process.main import Program, run_worker
from ropeway.worker.process.supervisor import Supervisor

pytestmark = pytest.mark.anyio

CHILD = Path(__file__).with_name("child_worker.py")
START_S = 20.0

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncGenerator[Bench]:
    broker: JobStore = SQLiteBroker(tmp_path / "jobs.db", durability="fast")
    await broker.open()
    yield Bench(broker)
    await broker.close()


@pytest.fixture
def start(tmp_path: Path) -> AsyncGenerator[Start]:
    started: list[subprocess.Popen[bytes]] = []

    def begin(database: str | None = None, **options: int) -> "subprocess.Popen[bytes]":
        words = [f"{name}={value}" for name, value in options.items()]
        command = [sys.executable, str(CHILD), database or str(tmp_path / "jobs.db"), *words]
        started.append(subprocess.Popen(command))
        return started[-1]

    yield begin
    for process in started:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
        process.wait()


async def ended(process: "subprocess.Popen[bytes]") -> int:
    await until(lambda: process.poll() is not None, within_s=START_S)
    assert process.returncode is not None
    return process.returncode


def lines(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


async def put_notes(store: Bench, path: Path, count: int, seconds: float = 0.0) -> list[JobRef]:
    args = {"path": str(path), "seconds": seconds}
    return [await store.put("note", args=args) for _ in range(count)]


async def test_sigterm_finishes_what_runs_and_ends_with_0(
    store: Bench, start: Start, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    refs = await put_notes(store, out, 3, seconds=0.4)
    process = start()
    await until(lambda: len(lines(out)) == 2, within_s=START_S)
    process.send_signal(signal.SIGTERM)
    assert await ended(process) == EXIT_OK
    states = await store.states(refs)
    assert sorted(states) == [State.AVAILABLE, State.COMPLETED, State.COMPLETED]


async def test_a_second_signal_ends_at_once_and_releases(
    store: Bench, start: Start, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (ref,) = await put_notes(store, out, 1, seconds=60)
    process = start()
    await until(lambda: lines(out), within_s=START_S)
    process.send_signal(signal.SIGINT)
    await asyncio.sleep(0.1)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert await ended(process) == EXIT_OK
    status = (await store.record(ref)).status
    assert (status.state, status.attempt) == (State.AVAILABLE, 0)


async def test_the_jobs_of_a_killed_child_run_again_within_a_second(
    store: Bench, start: Start, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    parent = start(processes=2, lease_ms=60_000)
    await until(lambda: len(psutil.Process(parent.pid).children()) == 2, within_s=START_S)
    (ref,) = await put_notes(store, out, 1, seconds=1.5)
    await until(lambda: lines(out), within_s=START_S)
    killed_at = time.time()
    os.kill(int(lines(out)[0][1]), signal.SIGKILL)
    await until(lambda: len(lines(out)) == 2, within_s=START_S)
    assert float(lines(out)[1][2]) - killed_at < 1
    status = (await store.reaches(ref, State.COMPLETED)).status
    assert (status.attempt, len(status.crashes)) == (1, 1)
    await until(lambda: len(psutil.Process(parent.pid).children()) == 2, within_s=START_S)
    parent.terminate()
    assert await ended(parent) == EXIT_OK


async def test_children_are_replaced_after_so_many_jobs(
    store: Bench, start: Start, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    refs = await put_notes(store, out, 10)
    parent = start(max_jobs=4, lease_ms=1_000)
    for ref in refs:
        await asyncio.wait_for(store.reaches(ref, State.COMPLETED), START_S)
    assert len({pid for _, pid, _ in lines(out)}) == 3
    parent.terminate()
    assert await ended(parent) == EXIT_OK


async def test_children_stop_gracefully_when_the_supervisor_is_killed(
    store: Bench, start: Start, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    parent = start(processes=2)
    await until(lambda: len(psutil.Process(parent.pid).children()) == 2, within_s=START_S)
    (ref,) = await put_notes(store, out, 1, seconds=1.0)
    await until(lambda: lines(out), within_s=START_S)
    children = psutil.Process(parent.pid).children()
    parent.kill()
    await until(
        lambda: not any(c.is_running() and c.status() != "zombie" for c in children),
        within_s=SOON_S,
    )
    status = (await store.record(ref)).status
    assert (status.state, status.crashes) == (State.COMPLETED, ())


async def test_a_wrong_configuration_is_not_tried_again_and_again(start: Start) -> None:
    process = start(database="refused", processes=2)
    assert await ended(process) == EXIT_CONFIG


async def test_a_handler_that_blocks_the_loop_costs_no_lease(
    store: Bench, start: Start, tmp_path: Path
) -> None:
    ref = await store.put("block", args={"path": str(tmp_path / "out"), "seconds": 1.5})
    start(lease_ms=500)
    await until((tmp_path / "out").exists, within_s=START_S)
    status = (await store.reaches(ref, State.COMPLETED)).status
    assert (status.attempt, status.crashes) == (1, ())


async def test_a_child_that_dies_at_its_start_is_restarted_ever_later(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    script = f"open({str(starts)!r}, 'a').write('x'); raise SystemExit(3)"
    broker = MemoryBroker()
    supervisor = Supervisor(
        [sys.executable, "-c", script], processes=1, broker=broker, grace_ms=1_000
    )
    running = asyncio.create_task(supervisor.run())
    await until(starts.exists)
    await asyncio.sleep(1.5)
    supervisor.stop()
    assert await asyncio.wait_for(running, SOON_S) == EXIT_OK
    assert 2 <= len(starts.read_text()) <= 5
    await broker.close()


async def test_a_child_that_ends_well_is_not_replaced() -> None:
    broker = MemoryBroker()
    supervisor = Supervisor([sys.executable, "-c", ""], processes=2, broker=broker, grace_ms=1_000)
    assert await asyncio.wait_for(supervisor.run(), SOON_S) == EXIT_OK
    await broker.close()


def test_several_processes_need_a_broker_that_they_share() -> None:
    def load() -> Program:
        return Program(broker=MemoryBroker(), tasks={})

    with pytest.raises(ConfigError, match="serves one process"):
        run_worker(load, WorkerOptions(), processes=2, command=["true"])
