"""`ropeway worker` as a user runs it, and what it refuses."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from terminal import Cli, Store

from ropeway.job import Job, State

ROPEWAY = [sys.executable, "-m", "ropeway"]

SLOW = """
import asyncio
from contextlib import asynccontextmanager

from ropeway import Context, Ropeway


@asynccontextmanager
async def lifespan():
    yield "warm"


app = Ropeway("sqlite:///ropeway.db?durability=fast", lifespan=lifespan)


@app.task
async def slow(ctx: Context[str], seconds: float) -> str:
    ctx.log.info("begun")
    await asyncio.sleep(seconds)
    await follow.enqueue(ctx.state)
    return "slept"


@app.task(queue="later")
async def follow(word: str) -> str:
    return word
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "slow_app.py").write_text(SLOW, encoding="utf-8")
    return tmp_path


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*ROPEWAY, "worker", "slow_app:app", *options],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(store: Store, name: str, state: State) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        [record] = store.run(lambda broker: broker.get([Job(id=name, task="t").ref]))
        if record is not None and record.status.state is state:
            return
        time.sleep(0.02)
    pytest.fail(f"job {name} did not become {state}")


def test_a_burst_runs_all_that_is_there_with_what_follows(
    cli: Cli, store: Store, folder: Path
) -> None:
    store.add(*(Job(id=f"s{n}", task="slow", payload=b'{"seconds": 0.01}') for n in range(5)))
    worker = start(folder, "--burst", "--log-format", "json")
    out, err = worker.communicate(timeout=30)
    assert (worker.returncode, out) == (0, "")
    jobs = cli("jobs", "list", "--json").json["jobs"]
    assert {job["state"] for job in jobs} == {"completed"}
    results = [job["result"] for job in jobs if job["task"] == "follow"]
    assert results == ["warm"] * 5, "handlers enqueue, and get the lifespan's value"
    lines = [json.loads(line) for line in err.splitlines()]
    assert "queues default=1, later=1" in lines[0]["message"]
    assert {line["job_id"] for line in lines if line["message"] == "begun"} == {
        f"s{n}" for n in range(5)
    }
    assert "INFO begun" in cli("jobs", "logs", "s0").out


def test_sigterm_lets_a_running_job_finish(store: Store, folder: Path) -> None:
    store.add(Job(id="a", task="slow", payload=b'{"seconds": 1}'))
    worker = start(folder, "--queues", "default")
    wait_for(store, "a", State.RUNNING)
    worker.send_signal(signal.SIGTERM)
    _, err = worker.communicate(timeout=30)
    assert worker.returncode == 0
    assert "Traceback" not in err
    wait_for(store, "a", State.COMPLETED)


def test_a_second_ctrl_c_stops_at_once_and_hands_the_job_back(store: Store, folder: Path) -> None:
    store.add(Job(id="a", task="slow", payload=b'{"seconds": 60}'))
    worker = start(folder)
    wait_for(store, "a", State.RUNNING)
    worker.send_signal(signal.SIGINT)
    time.sleep(0.1)  # two signals at once would be one
    worker.send_signal(signal.SIGINT)
    _, err = worker.communicate(timeout=10)
    assert worker.returncode == 0
    assert "Traceback" not in err
    [record] = store.run(lambda broker: broker.get([Job(id="a", task="t").ref]))
    assert record is not None
    assert (record.status.state, record.status.attempt) == (State.AVAILABLE, 0)


def test_a_killed_process_of_several_is_replaced_and_its_job_runs_again(
    cli: Cli, store: Store, folder: Path
) -> None:
    store.add(Job(id="a", task="slow", payload=b'{"seconds": 2}'))
    worker = start(folder, "--processes", "2", "--lease", "60s")
    try:
        wait_for(store, "a", State.RUNNING)
        [record] = store.run(lambda broker: broker.get([Job(id="a", task="t").ref]))
        assert record is not None
        pids = {worker["id"]: worker["pid"] for worker in _workers(cli, 2)}
        os.kill(pids[record.status.worker], signal.SIGKILL)
        wait_for(store, "a", State.COMPLETED)  # long before the lease of a minute ends
        assert set(pids.values()) != {worker["pid"] for worker in _workers(cli, 2)}
    finally:
        worker.send_signal(signal.SIGTERM)
        _, err = worker.communicate(timeout=30)
    assert worker.returncode == 0
    assert "SIGKILL" in err


def _workers(cli: Cli, count: int) -> list[dict[str, Any]]:
    """The workers, as soon as so many are heard of."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        workers: list[dict[str, Any]] = cli("workers", "list", "--json").json["workers"]
        if len(workers) == count:
            return workers
        time.sleep(0.05)
    pytest.fail(f"{count} workers were not heard of")


@pytest.mark.usefixtures("app_file")
@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["nowhere:app"], 2, "there is no module 'nowhere' here"),
        (["jobs_app:other"], 2, "module 'jobs_app' has no 'other'; its apps: app"),
        (["jobs_app:nothing"], 2, "is a int, not a Ropeway app"),
        (["jobs_app"], 2, "give MODULE:ATTRIBUTE, as in jobs:app"),
        (["jobs_app.py:app"], 2, "is a file; give its module: jobs_app:app"),
        (["./jobs_app.py"], 2, "is a file; give its module: jobs_app:app"),
        (["jobs_app:app", "--queues", "a=3,b"], 2, "name=weight"),
        (["jobs_app:app", "--queues", ""], 2, "queues"),
        (["jobs_app:app", "--lease", "1ms"], 2, "lease_ms=1"),
        (["jobs_app:app", "--grace", "soon"], 2, "--grace 'soon' is not a duration"),
        (["jobs_app:app", "--max-memory", "lots"], 2, "--max-memory 'lots' is not a size"),
        (["jobs_app:app", "--concurrency", "0"], 2, "--concurrency"),
        (["jobs_app:app", "--log-format", "xml"], 2, "choose human or json"),
        (["jobs_app:app", "--log-level", "loud"], 2, "choose debug, info"),
        (["jobs_app:app", "-p", "2", "--health-port", "80"], 2, "use --health-file"),
        (["memory_app:app", "-p", "2"], 2, "--processes needs an app made from the URL"),
        (["empty_app:app"], 2, "the app has no tasks"),
        (["broken_app:app"], 1, "importing broken_app failed: ZeroDivisionError"),
        (["needy_app:app"], 1, "importing needy_app failed: ModuleNotFoundError"),
    ],
)
def test_what_cannot_be_started_is_one_line(
    cli: Cli, tmp_path: Path, argv: list[str], code: int, message: str
) -> None:
    for name, source in {
        "memory_app": "from ropeway import Ropeway\napp = Ropeway('memory://')\n",
        "empty_app": "from ropeway import Ropeway\napp = Ropeway('memory://')\n",
        "broken_app": "\n1 / 0\n",
        "needy_app": "import not_installed_here\n",
    }.items():
        (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
    try:
        said = cli("worker", *argv)
    finally:
        for name in ("memory_app", "empty_app", "broken_app", "needy_app"):
            sys.modules.pop(name, None)
    assert said.code == code
    assert message in said.err
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert not (tmp_path / "ropeway.db").exists()


def test_an_error_in_the_users_module_is_named_with_its_line(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "broken_app.py").write_text("x = 1\ny = x / 0\n", encoding="utf-8")
    said = cli("worker", "broken_app:app")
    assert f"{tmp_path}/broken_app.py:2" in said.err
