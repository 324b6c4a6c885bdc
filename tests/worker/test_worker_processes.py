"""Handlers in processes of their own (`process=True`)."""

import asyncio
import logging
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import process_tasks
import pytest
from worker_bench import Bench, until

from ropeway import codec
from ropeway.action import CancelJob
from ropeway.errors import ConfigError
from ropeway.job import Job, Lease, State
from ropeway.retry import RetryPolicy
from ropeway.worker.handlers import child, messages
from ropeway.worker.handlers.messages import RunJob

pytestmark = pytest.mark.anyio


def add(bench: Bench, name: str, **fields: Any) -> str:
    bench.task(getattr(process_tasks, name), kind="process", **fields)
    return name


async def test_a_process_runs_jobs_one_after_the_other_and_stays(bench: Bench) -> None:
    add(bench, "pid")
    add(bench, "async_pid")
    refs = [await bench.put("pid", args={"word": "x"}), await bench.put("async_pid")]
    await bench.burst(concurrency=1)
    first, second = [(await bench.record(ref)).status.result for ref in refs]
    assert first is not None
    assert second is not None
    word, pid = codec.decode(first, "json", tuple[str, int])
    assert word == "X"
    assert pid == codec.decode(second, "json", int) != os.getpid()


async def test_an_error_of_a_process_keeps_its_class_and_its_traceback(bench: Bench) -> None:
    add(bench, "fail", policy=RetryPolicy(never=(process_tasks.OwnError,)))
    ref = await bench.put("fail", args={"code": 5})
    await bench.burst()
    status = (await bench.record(ref)).status
    assert status.state is State.DEAD
    assert status.reason == "never retried: OwnError"
    (error,) = status.errors
    assert (error.type, error.message) == ("process_tasks.OwnError", "5: as planned")
    assert 'raise OwnError(code, "as planned")' in error.traceback


async def test_verdicts_cross_the_process(bench: Bench) -> None:
    add(bench, "decide")
    states = {
        "snooze": State.SCHEDULED,
        "retry": State.RETRYABLE,
        "cancel": State.CANCELLED,
        "bury": State.DEAD,
    }
    refs = [await bench.put("decide", args={"what": what}) for what in states]
    await bench.burst(concurrency=1)
    assert await bench.states(refs) == list(states.values())


async def test_bad_payloads_large_results_and_exits_only_fail_their_job(bench: Bench) -> None:
    add(bench, "pid")
    add(bench, "large", result_max_bytes=100)
    add(bench, "leave")
    bad = await bench.put("pid", args={"word": 1})
    large = await bench.put("large")
    left = await bench.put("leave", attempt_max=1)
    await bench.burst(concurrency=1)
    assert (await bench.record(bad)).status.reason == "bad payload"
    assert (await bench.record(large)).status.reason == "bad result"
    assert (await bench.record(left)).status.errors[0].type == "SystemExit"


async def test_a_process_reports_progress_lines_and_cursors(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    add(bench, "report", ctx=True)
    ref = await bench.put("report")
    async with bench.working():
        status = (await bench.reaches(ref, State.COMPLETED)).status
    assert status.result == b'{"step":2}'
    assert status.progress is not None
    events = [event.data for event in await bench.broker.events(ref)]
    assert "WARNING from the child" in events
    (line,) = [r for r in caplog.records if r.name == "mine"][:1]
    assert line.getMessage() == "a plain log line"
    assert line.__dict__["job_id"] == ref.id


@pytest.mark.parametrize("how", ["exit", "kill", "segfault"])
async def test_a_process_that_dies_fails_only_its_job(bench: Bench, how: str) -> None:
    async def slow() -> str:
        await asyncio.sleep(0.3)
        return "fine"

    bench.task(slow)
    add(bench, "crash")
    crashing = await bench.put("crash", args={"how": how}, crash_max=1)
    other = await bench.put(slow)
    async with bench.working(lease_ms=400):
        assert (await bench.reaches(other, State.COMPLETED)).status.crashes == ()
        status = (await bench.reaches(crashing, State.DEAD)).status
    assert (status.reason, status.attempt) == ("crashed_worker", 1)
    assert len(status.crashes) == 2


async def test_a_process_past_its_timeout_is_killed(bench: Bench) -> None:
    add(bench, "sleep", timeout_ms=100)
    ref = await bench.put("sleep", args={"seconds": 60}, attempt_max=1)
    began = time.monotonic()
    await bench.burst()
    assert time.monotonic() - began < 5
    assert (await bench.record(ref)).status.errors[0].type == "timeout"


async def test_a_running_process_is_cancelled_by_killing_it(bench: Bench) -> None:
    add(bench, "sleep")
    ref = await bench.put("sleep", args={"seconds": 60})
    async with bench.working() as worker:
        await bench.reaches(ref, State.RUNNING)
        await asyncio.sleep(0.05)
        await bench.broker.act([CancelJob(ref=ref)])
        await bench.reaches(ref, State.CANCELLED)
        await until(lambda: not worker._held)


async def test_a_process_is_killed_and_its_job_released_when_the_worker_stops(
    bench: Bench,
) -> None:
    add(bench, "sleep")
    ref = await bench.put("sleep", args={"seconds": 60})
    worker = bench.worker(grace_ms=10)
    running = asyncio.create_task(worker.run())
    await bench.reaches(ref, State.RUNNING)
    await asyncio.sleep(0.05)
    worker.stop()
    await asyncio.wait_for(running, 8)
    status = (await bench.record(ref)).status
    assert (status.state, status.attempt, status.crashes) == (State.AVAILABLE, 0, ())


async def test_a_process_sees_its_soft_limit(bench: Bench) -> None:
    add(bench, "polite", ctx=True, soft_timeout_ms=300, timeout_ms=10_000)
    ref = await bench.put("polite")
    await bench.burst()
    assert (await bench.record(ref)).status.result == b'"in time"'


async def test_a_function_that_no_process_can_find_is_refused_at_the_start(bench: Bench) -> None:
    def inner() -> None: ...

    logging.getLogger(__name__)
    bench.task(inner, kind="process")
    with pytest.raises(ConfigError, match="top level of a module"):
        bench.worker()


async def test_a_process_that_has_lost_its_worker_while_starting_runs_nothing(
    tmp_path: Path,
) -> None:
    # What a worker that was killed at once has left behind: a request in the pipe.
    trace = tmp_path / "trace"
    ours, theirs = multiprocessing.Pipe()
    lease = Lease(
        job=Job(id="1", task="touch", payload=codec.encode({"path": str(trace)}).data),
        attempt=1,
        token=1,
        expires_at_ms=0,
    )
    request = RunJob(
        module="process_tasks",
        qualname="touch",
        lease=lease,
        wants_ctx=False,
        codec="json",
        result_max_bytes=1000,
        stop_at=None,
        soft_at=None,
        log_level=logging.WARNING,
    )
    ours.send_bytes(messages.encode(request))
    dead = subprocess.Popen([sys.executable, "-c", ""])  # noqa: ASYNC220
    dead.wait()
    spawn = multiprocessing.get_context("spawn")
    process = spawn.Process(target=child.main, args=(theirs, dead.pid), daemon=True)
    process.start()
    process.join(20)
    assert process.exitcode == 1
    assert not trace.exists()
