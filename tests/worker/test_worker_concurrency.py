"""`concurrency="auto"` in a running worker: what it does with the slots, and what it tells."""

import asyncio
import logging
import os
from typing import Any

import process_tasks
import pytest
from worker_bench import Bench, until

from ropeway.broker import Signal
from ropeway.errors import ConfigError
from ropeway.job import State
from ropeway.worker import WorkerOptions
from ropeway.worker.autopilot.climber import Change, Climber
from ropeway.worker.autopilot.window import Look
from ropeway.worker.options import AUTO_MAX, AUTO_START, parse_concurrency

pytestmark = pytest.mark.anyio


class Nap:
    """A handler that waits, and tells how many of it did so at the same time."""

    def __init__(self, bench: Bench) -> None:
        self.now = self.most = 0

        async def nap() -> None:
            self.now += 1
            self.most = max(self.most, self.now)
            await asyncio.sleep(0.02)
            self.now -= 1

        bench.task(nap)


async def test_it_grows_while_throughput_does_and_says_so(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ropeway.worker")
    nap = Nap(bench)
    for _ in range(3_000):
        await bench.put("nap")
    await bench.burst(concurrency="auto", concurrency_max=200)
    assert AUTO_START < nap.most <= 200
    (line,) = [
        r.getMessage() for r in caplog.records if f"concurrency {AUTO_START} -> " in r.getMessage()
    ]
    assert "more bring more" in line
    assert "jobs/s, CPU " in line


@pytest.mark.parametrize(("most", "shown"), [(1_024, AUTO_START), (5, 5)])
async def test_the_heartbeat_shows_the_present_number(bench: Bench, most: int, shown: int) -> None:
    async with bench.working(concurrency="auto", concurrency_max=most) as worker:
        await until(lambda: worker._roles is not None)
        assert worker._info().concurrency == shown


async def test_a_number_from_an_operator_holds_until_auto_is_told_again(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ropeway.worker")
    nap = Nap(bench)
    async with bench.working(concurrency="auto"):
        await asyncio.sleep(0.02)
        await bench.broker.send(Signal(kind="tune", concurrency=3))
        await until(lambda: "tuned: concurrency 3," in caplog.text)
        for _ in range(300):
            await bench.put("nap")
        await asyncio.sleep(0.4)
        assert nap.most == 3
        await bench.broker.send(Signal(kind="tune", concurrency=0))
        await until(lambda: "tuned: concurrency auto," in caplog.text)
        await until(lambda: nap.most > 3)


async def test_a_fault_in_it_ends_neither_the_worker_nor_its_jobs(
    bench: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Climber, "look", broken)
    Nap(bench)
    async with bench.working(concurrency="auto"):
        await until(lambda: "the concurrency stays as it is" in caplog.text)
        ref = await bench.put("nap")
        await bench.reaches(ref, State.COMPLETED)


async def test_short_of_memory_nothing_is_fetched_ahead(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = 0
    monkeypatch.setattr("ropeway.worker.autopilot.pilot.memory_bytes", lambda: used)
    monkeypatch.setattr("ropeway.worker.autopilot.pilot.MEMORY_EVERY_S", 0.0)
    async with bench.working(concurrency="auto", prefetch=10, max_memory_bytes=10**15) as worker:
        await until(lambda: worker._roles is not None)
        roles = worker._roles
        assert roles is not None
        await until(lambda: roles.fetcher.prefetch == 10)
        used = 10**15 - 1
        await until(lambda: roles.fetcher.prefetch == 0)
        await until(lambda: roles.runner.concurrency == AUTO_START // 2)
        roles.pilot.tune(7)
        assert (roles.runner.concurrency, roles.fetcher.prefetch) == (7, 10)


async def test_lines_in_the_log_keep_their_distance_and_leave_no_change_untold(
    bench: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "ropeway.worker")
    monkeypatch.setattr("ropeway.worker.autopilot.pilot.TELL_EVERY_S", 0.2)
    monkeypatch.setattr("ropeway.worker.autopilot.pilot.TELL_AFTER_S", 0.0)
    looks = AUTO_START

    def rising(_climber: Climber, _look: Look) -> Change:
        nonlocal looks
        looks += 1
        return Change(looks, looks, "so it is")

    monkeypatch.setattr(Climber, "look", rising)
    async with bench.working(concurrency="auto"):
        await asyncio.sleep(0.5)
    lines = [r.getMessage() for r in caplog.records if "so it is" in r.getMessage()]
    assert 2 <= len(lines) <= 4
    assert lines[0].startswith(f"concurrency {AUTO_START} -> ")
    assert lines[-1].endswith(f" -> {looks}: so it is")


@pytest.mark.parametrize("has_processes", [True, False])
async def test_process_tasks_begin_with_a_slot_a_core(
    bench: Bench, has_processes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    Nap(bench)
    if has_processes:
        bench.task(process_tasks.pid, kind="process")
    async with bench.working(concurrency="auto") as worker:
        await until(lambda: worker._roles is not None)
        assert worker._info().concurrency == (3 if has_processes else AUTO_START)


def test_a_concurrency_is_read_as_written() -> None:
    assert parse_concurrency("50") == (50, AUTO_MAX)
    assert parse_concurrency("auto") == ("auto", AUTO_MAX)
    assert parse_concurrency("auto:256") == ("auto", 256)
    for wrong in ("", "0", "-1", "x", "auto:", "auto:0", "auto:x", "automatic", "5:5"):
        with pytest.raises(ConfigError, match="give a number of at least 1, auto, or auto:256"):
            parse_concurrency(wrong)


def test_options_take_auto_and_its_bound() -> None:
    assert WorkerOptions(concurrency="auto").slots == AUTO_START
    assert WorkerOptions(concurrency="auto", concurrency_max=4).slots == 4
    assert WorkerOptions(concurrency=7, concurrency_max=4).slots == 7
    for wrong in ({"concurrency_max": 0}, {"concurrency": "many"}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            WorkerOptions(**wrong)  # pyright: ignore[reportArgumentType]
