"""Processes that write to one file: killed or stopped in the middle, and eight at once."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ropeway.broker import Filter
from ropeway.brokers.sqlite import SQLiteBroker, connection, engine
from ropeway.errors import Disconnected
from ropeway.job import State
from ropeway.testing.steps import enqueue, make_job

pytestmark = pytest.mark.anyio

WRITER = Path(__file__).with_name("sqlite_writer.py")
AT_ONCE_S = 2.0  # within which others must go on
LOCKS = Path("/proc/locks")  # on Linux
LONG = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"


@pytest.fixture(params=["full", "fast"])
async def broker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SQLiteBroker]:
    broker = SQLiteBroker(tmp_path / "jobs.db", durability=request.param)
    await broker.open()
    yield broker
    await broker.close()


async def start(*arguments: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        sys.executable, str(WRITER), *arguments, stdout=pipe, stderr=pipe
    )


@asynccontextmanager
async def writer_that_holds(
    broker: SQLiteBroker, point: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Another process, in the middle of a transaction."""
    writer = await start("hang", f"sqlite:///{broker.path}", point)
    assert writer.stdout is not None
    child = int(await writer.stdout.readline())
    try:
        yield writer
    finally:
        os.kill(child, signal.SIGKILL)
        if writer.returncode is None:
            writer.kill()
        await writer.communicate()


def calls(broker: SQLiteBroker) -> list[Awaitable[Any]]:
    """Writes of several kinds."""
    return [
        asyncio.create_task(enqueue(broker)),
        asyncio.create_task(broker.enqueue([make_job() for _ in range(500)])),
        asyncio.create_task(broker.pause("other")),
        asyncio.create_task(broker.maintain()),
    ]


@pytest.mark.parametrize(
    "point", ["enqueue.written", "reserve.written", "settle.written", "act.written"]
)
async def test_others_go_on_when_a_writer_is_killed_in_the_middle(
    broker: SQLiteBroker, point: str
) -> None:
    given = [make_job(queue="given") for _ in range(300)]
    await broker.enqueue(given)
    async with writer_that_holds(broker, point) as writer:
        waiting = calls(broker)
        await asyncio.sleep(0.2)
        before = await broker.count(Filter(queue="default"))
        killed_at = time.monotonic()
        writer.kill()
        await asyncio.gather(*waiting)
        went_on_s = time.monotonic() - killed_at
    assert before == 0, "so they did wait"
    assert went_on_s < AT_ONCE_S
    counts = {info.name: info.counts for info in await broker.queues()}
    assert counts["default"] == {State.AVAILABLE: 501}
    # What was committed before is there entirely, what was not is not there at all.
    assert counts.get("hung", {}) == ({} if point == "enqueue.written" else {State.AVAILABLE: 300})
    state = {"settle.written": State.RUNNING, "act.written": State.COMPLETED}.get(point)
    assert counts["given"] == {state or State.AVAILABLE: 300}


async def test_a_writer_that_is_stopped_is_named_after_a_while(
    broker: SQLiteBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "WAIT_MAX_S", 0.2)
    monkeypatch.setattr(engine, "_WATCH_S", 0.05)
    async with writer_that_holds(broker, "enqueue.written") as writer:
        writer.send_signal(signal.SIGSTOP)
        answers = await asyncio.wait_for(asyncio.gather(*calls(broker), return_exceptions=True), 10)
        assert [type(answer) for answer in answers] == [Disconnected] * len(answers)
        assert "SIGCONT" in str(answers[0])
        if LOCKS.exists():  # noqa: ASYNC240 - nothing else runs here
            assert f"process {writer.pid} " in str(answers[0])
        late = SQLiteBroker(broker.path)
        with pytest.raises(Disconnected, match="SIGCONT"):
            await late.open()
        assert await broker.count(Filter()) == 0, "looking waits for no writer"
    await asyncio.wait_for(enqueue(broker), AT_ONCE_S)
    assert await broker.count(Filter()) == 1, "what was refused was not done later"


async def test_a_broker_can_be_closed_while_a_writer_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "WAIT_MAX_S", 0.2)
    monkeypatch.setattr(engine, "_WATCH_S", 0.05)
    broker = SQLiteBroker(tmp_path / "jobs.db")
    await broker.open()
    async with writer_that_holds(broker, "enqueue.written"):
        call = asyncio.create_task(enqueue(broker))
        await asyncio.sleep(0)
        await asyncio.wait_for(broker.close(), 10)
        with pytest.raises(Disconnected):
            await call


@pytest.mark.parametrize("durability", ["full", "fast"])
async def test_eight_processes_write_at_once_and_none_waits_long(
    tmp_path: Path, durability: str
) -> None:
    url = f"sqlite:///{tmp_path}/jobs.db?durability={durability}"
    children = [await start("hammer", url, "30" if LONG else "2") for _ in range(8)]
    told = [await child.communicate() for child in children]
    assert [error.decode() for _, error in told] == [""] * 8, "nobody is told of a lock"
    told_of = [line.split() for line, _ in told]
    assert max(float(wait_s) for _, wait_s in told_of) < AT_ONCE_S
    broker = SQLiteBroker.from_url(url)
    await broker.open()
    assert await broker.count(Filter()) == sum(int(enqueued) for enqueued, _ in told_of)
    await broker.close()
