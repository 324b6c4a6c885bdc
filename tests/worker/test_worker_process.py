"""What surrounds the jobs: options, health, log formats, the watchdog."""

import asyncio
import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from worker_bench import Bench, until

from ropeway.errors import ConfigError
from ropeway.runtime import SYSTEM
from ropeway.testing.faults import FlakyBroker
from ropeway.worker import WorkerOptions
from ropeway.worker.options import parse_queues
from ropeway.worker.outage import DELAY_MAX_S, Outage
from ropeway.worker.process import watchdog as watchdogs
from ropeway.worker.process.logs import HumanFormatter, JsonFormatter
from ropeway.worker.process.watchdog import Watchdog

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "wrong",
    [
        {"queues": "default"},
        {"queues": ()},
        {"queues": ("a", "a")},
        {"queues": {"a": 0}},
        {"queues": ("",)},
        {"concurrency": 0},
        {"concurrency": True},
        {"prefetch": -1},
        {"lease_ms": 10},
        {"grace_ms": -1},
        {"stall_ms": 1.5},
        {"health_port": 70_000},
        {"id": ""},
    ],
    ids=str,
)
def test_a_wrong_option_is_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        WorkerOptions(**wrong)


def test_queues_are_read_as_written() -> None:
    assert parse_queues(["a", "b"]) == ("a", "b")
    assert parse_queues(["a=3", "b=1"]) == {"a": 3, "b": 1}
    for wrong in (["a=3", "b"], ["a=x"], ["a=0"], [], ["a=1", "a=2"]):
        with pytest.raises(ConfigError):
            parse_queues(wrong)


def test_every_worker_has_an_id_of_its_own() -> None:
    assert WorkerOptions().id != WorkerOptions().id


def test_the_wait_after_failures_grows_to_five_seconds() -> None:
    assert 0.05 <= Outage(SYSTEM).backoff_s(1) <= 0.1
    assert all(
        DELAY_MAX_S / 2 <= Outage(SYSTEM).backoff_s(n) <= DELAY_MAX_S for n in (7, 50, 10_000)
    )


async def ask(port: int, path: str = "/health") -> tuple[int, dict[str, Any]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


async def test_health_is_told_by_http_and_by_a_file(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ropeway.worker.worker.UNWELL_AFTER_MS", 100)
    flaky = FlakyBroker(bench.broker)
    file = tmp_path / "alive"
    async with bench.working(health_port=0, health_file=file, broker=flaky.store) as worker:
        await until(lambda: worker.health_port)
        port = worker.health_port
        assert port is not None
        assert await ask(port) == (200, {"ok": True, "status": "running"})
        assert (await ask(port, "/other"))[0] == 404
        await until(file.exists)
        flaky.is_down = True
        await asyncio.sleep(1.3)
        assert await ask(port) == (503, {"ok": False, "status": "the broker fails"})
        flaky.is_down = False


async def test_a_health_port_that_is_taken_is_named(bench: Bench) -> None:
    taken = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
    async with taken:
        port = taken.sockets[0].getsockname()[1]
        with pytest.raises(ConfigError, match=f"health_port={port} cannot be served .*another"):
            await bench.worker(health_port=port).run()


async def test_a_stopping_worker_is_not_ready(bench: Bench) -> None:
    go = asyncio.Event()

    async def hold() -> None:
        await go.wait()

    bench.task(hold)
    await bench.put(hold)
    async with bench.working(health_port=0) as worker:
        await until(lambda: worker._held)
        port = worker.health_port
        assert port is not None
        worker.stop()
        await asyncio.sleep(0.03)
        assert (await ask(port))[0] == 503
        go.set()


async def test_a_blocked_loop_is_shown_with_its_stack(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdogs, "WARN_MS", 150)
    monkeypatch.setattr(watchdogs, "TICK_S", 0.02)
    watchdog = Watchdog(stall_ms=300)
    watching = asyncio.create_task(watchdog.run())
    await asyncio.sleep(0.05)
    assert not watchdog.is_stuck()
    time.sleep(0.5)  # noqa: ASYNC251 - what it is to notice
    assert watchdog.is_stuck()
    await asyncio.sleep(0.1)
    assert not watchdog.is_stuck()
    watching.cancel()
    blocked, stuck = [r.getMessage() for r in caplog.records]
    assert "the event loop is blocked" in blocked
    assert "time.sleep(0.5)" in blocked
    assert "the event loop is stuck" in stuck


def record(**extra: Any) -> logging.LogRecord:
    made = logging.makeLogRecord(
        {"name": "ropeway.job", "levelno": 30, "levelname": "WARNING", "msg": "is %s", "args": (1,)}
    )
    vars(made).update(extra)
    return made


def test_the_human_format_is_one_line_with_the_job() -> None:
    line = HumanFormatter().format(record(job_id="j1", task="crawl"))
    assert line.split(maxsplit=1)[1] == "WARNING j1 crawl is 1"
    assert "\n" not in line


def test_the_json_format_carries_every_field() -> None:
    try:
        raise ValueError("no")  # noqa: TRY301
    except ValueError:
        made = record(job_id="j1", task="crawl", other=object(), exc_info=sys.exc_info())
    fields = json.loads(JsonFormatter().format(made))
    assert (fields["level"], fields["logger"], fields["message"]) == (
        "WARNING",
        "ropeway.job",
        "is 1",
    )
    assert (fields["job_id"], fields["task"]) == ("j1", "crawl")
    assert "ValueError: no" in fields["exception"]
    assert fields["time"].endswith("Z")
