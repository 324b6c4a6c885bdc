"""What becomes of a job that a worker runs."""

import asyncio
import contextvars
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from worker_bench import Bench, define, until

from ropeway import codec, verdict
from ropeway.brokers.memory import MemoryBroker
from ropeway.context import Context, current_job
from ropeway.errors import ConfigError, SoftTimeout
from ropeway.job import Lease, State
from ropeway.retry import RetryPolicy
from ropeway.runtime import Runtime
from ropeway.testing.manual_clock import ManualClock
from ropeway.testing.steps import make_job
from ropeway.worker import Ended, WorkerOptions
from ropeway.worker.outage import Outage
from ropeway.worker.run import Run
from ropeway.worker.runner import TURN_MS, Runner
from ropeway.worker.settler import Settler

pytestmark = pytest.mark.anyio

NO_SAVES: Any = None


async def test_however_many_slots_run_the_loop_has_its_turn_soon() -> None:
    clock = ManualClock()
    runtime = Runtime(clock=clock)
    outage = Outage(runtime)
    gate, done = asyncio.Event(), 0

    async def wait() -> None:
        await gate.wait()

    async def busy() -> None:
        nonlocal done
        clock.advance(1)
        done += 1

    def runs(name: str, number: int) -> list[Run]:
        jobs = [make_job(task=name) for _ in range(number)]
        leases = [Lease(job=job, attempt=1, token=1, expires_at_ms=0) for job in jobs]
        return [Run(lease, NO_SAVES, 0, clock.mono_ms() + 60_000) for lease in leases]

    settler = Settler(MemoryBroker(), set(), lease_ms=60_000, outage=outage, runtime=runtime)
    tasks = {"wait": define(wait), "busy": define(busy)}
    runner = Runner(
        tasks, settler, options=WorkerOptions(concurrency=10), state=None, runtime=runtime
    )
    runner.feed(runs("wait", 10))
    await until(lambda: runner.busy == 10)
    runner.feed(runs("busy", 100))
    gate.set()
    most = 0
    while done < 100:
        before = done
        await asyncio.sleep(0)
        most = max(most, done - before)
    assert 0 < most <= TURN_MS
    await runner.close()


async def test_a_result_is_stored_and_the_worker_ends_its_burst(bench: Bench) -> None:
    async def add(a: int, b: int) -> int:
        return a + b

    bench.task(add)
    ref = await bench.put(add, args={"a": 1, "b": 2})
    assert await bench.burst() is Ended.BURST
    status = (await bench.record(ref)).status
    assert status.state is State.COMPLETED
    assert status.result is not None
    assert codec.decode(status.result, status.result_codec, int) == 3


async def test_a_handler_that_waits_lets_the_others_run(bench: Bench) -> None:
    together = asyncio.Barrier(3)

    async def meet() -> None:
        await together.wait()

    bench.task(meet)
    refs = [await bench.put(meet) for _ in range(3)]
    await bench.burst(concurrency=3)
    assert await bench.states(refs) == [State.COMPLETED] * 3


async def test_never_more_jobs_run_than_the_concurrency_allows(bench: Bench) -> None:
    running, most = 0, 0

    async def count() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.002)
        running -= 1

    bench.task(count)
    for _ in range(30):
        await bench.put(count)
    await bench.burst(concurrency=4)
    assert most == 4


async def test_a_sync_handler_runs_in_a_thread_that_knows_its_job(bench: Bench) -> None:
    seen: list[Any] = []

    def blocking(ctx: Context[Any], word: str) -> str:
        seen.append((threading.current_thread() is threading.main_thread(), current_job() is ctx))
        return word.upper()

    bench.task(blocking, ctx=True)
    ref = await bench.put(blocking, args={"word": "x"})
    await bench.burst()
    assert (await bench.record(ref)).status.result == b'"X"'
    assert seen == [(False, True)]


async def test_what_a_handler_sets_in_context_variables_does_not_reach_the_next(
    bench: Bench,
) -> None:
    variable = contextvars.ContextVar("variable", default="clean")
    seen: list[str] = []

    async def dirty() -> None:
        seen.append(variable.get())
        variable.set("dirty")
        await asyncio.sleep(0)
        seen.append(variable.get())

    bench.task(dirty)
    for _ in range(2):
        await bench.put(dirty)
    await bench.burst(concurrency=1)
    assert seen == ["clean", "dirty"] * 2


async def test_lifespan_gives_the_state_and_is_left_at_the_end(bench: Bench) -> None:
    seen: list[Any] = []

    @asynccontextmanager
    async def lifespan() -> AsyncGenerator[str]:
        yield "pool"
        seen.append("closed")

    async def use(ctx: Context[str]) -> None:
        seen.append(ctx.state)

    bench.task(use, ctx=True)
    await bench.put(use)
    await bench.burst(lifespan=lifespan)
    assert seen == ["pool", "closed"]


async def test_a_failed_run_is_tried_again_and_keeps_its_traceback(bench: Bench) -> None:
    async def flaky(ctx: Context[Any]) -> None:
        if ctx.attempt < 3:
            raise ValueError(f"no luck in {ctx.attempt}")

    bench.task(flaky, ctx=True)
    ref = await bench.put(flaky)
    async with bench.working():
        status = (await bench.reaches(ref, State.COMPLETED)).status
    assert status.attempt == 3
    assert [(e.attempt, e.type, e.message) for e in status.errors] == [
        (1, "ValueError", "no luck in 1"),
        (2, "ValueError", "no luck in 2"),
    ]
    assert 'raise ValueError(f"no luck' in status.errors[0].traceback
    assert "ropeway/worker" not in status.errors[0].traceback


async def test_a_job_whose_attempts_are_spent_is_dead(bench: Bench) -> None:
    def fail() -> None:
        raise OSError("down")

    bench.task(fail)
    ref = await bench.put(fail, attempt_max=2)
    async with bench.working():
        status = (await bench.reaches(ref, State.DEAD)).status
    assert (status.reason, status.attempt, len(status.errors)) == ("attempts spent", 2, 2)


async def test_an_error_that_is_never_retried_buries_at_once(bench: Bench) -> None:
    async def fail() -> None:
        raise KeyError("gone")

    bench.task(fail, policy=RetryPolicy(never=(KeyError,)))
    ref = await bench.put(fail)
    await bench.burst()
    assert (await bench.record(ref)).status.state is State.DEAD


@pytest.mark.parametrize("kind", ["async", "thread"])
@pytest.mark.parametrize("how", ["raised", "returned"])
@pytest.mark.parametrize(
    ("answer", "state", "attempt"),
    [
        (verdict.Snooze(60, reason="later"), State.SCHEDULED, 0),
        (verdict.Retry(60), State.RETRYABLE, 1),
        (verdict.Retry(60, counted=False), State.RETRYABLE, 0),
        (verdict.Cancel("gone"), State.CANCELLED, 1),
        (verdict.Bury("look at it"), State.DEAD, 1),
    ],
)
async def test_a_verdict_decides(
    bench: Bench, kind: str, how: str, answer: verdict.Verdict, state: State, attempt: int
) -> None:
    def decide() -> verdict.Verdict:
        if how == "raised":
            raise answer
        return answer

    async def decide_async() -> verdict.Verdict:
        return decide()

    func = decide if kind == "thread" else decide_async
    bench.task(func)
    ref = await bench.put(func)
    await bench.burst()
    status = (await bench.record(ref)).status
    assert (status.state, status.attempt) == (state, attempt)
    if answer.reason:
        assert answer.reason in (status.reason, *(e.message for e in status.errors))


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_an_exception_that_would_end_a_program_only_fails_its_job(
    bench: Bench, error: BaseException, kind: str
) -> None:
    def leave() -> None:
        raise error

    async def leave_async() -> None:
        raise error

    func = leave if kind == "thread" else leave_async
    bench.task(func)
    ref = await bench.put(func, attempt_max=1)
    await bench.burst()
    status = (await bench.record(ref)).status
    assert status.state is State.DEAD
    assert status.errors[0].type == type(error).__name__


async def test_annotations_that_cannot_be_resolved_are_refused_at_the_start(bench: Bench) -> None:
    async def misspelled(count: "Conut") -> None: ...  # type: ignore[name-defined]  # noqa: F821

    bench.task(misspelled)
    with pytest.raises(ConfigError, match=r"misspelled: its annotations .*Conut"):
        bench.worker()


async def test_a_task_that_nobody_registered_is_snoozed_uncounted_ever_longer(
    bench: Bench,
) -> None:
    ref = await bench.put("nobody.knows")
    await bench.burst()
    record = await bench.record(ref)
    assert record.status.state is State.SCHEDULED
    assert record.status.reason == "unknown_task"
    assert record.status.attempt == 0
    assert 500 < record.status.due_ms - time.time() * 1000 <= 1_000


@pytest.mark.parametrize("payload", [b'{"n": "one"}', b"{}", b'{"n": 1, "m": 2}', b"\xff"])
async def test_a_payload_that_does_not_fit_is_buried_without_retries(
    bench: Bench, payload: bytes
) -> None:
    async def take(n: int) -> None: ...

    bench.task(take)
    ref = await bench.put(take, payload=payload)
    await bench.burst()
    status = (await bench.record(ref)).status
    assert (status.state, status.reason, status.attempt) == (State.DEAD, "bad payload", 1)
    assert "payload of" in status.errors[0].message


async def test_a_result_that_cannot_be_stored_is_buried_with_the_reason(bench: Bench) -> None:
    async def odd() -> object:
        return object()

    async def large() -> str:
        return "x" * 100

    bench.task(odd)
    bench.task(large, result_max_bytes=50)
    refs = [await bench.put(odd), await bench.put(large)]
    await bench.burst()
    for ref, word in zip(refs, ("cannot be encoded", "over the limit"), strict=True):
        status = (await bench.record(ref)).status
        assert (status.state, status.reason) == (State.DEAD, "bad result")
        assert word in status.errors[0].message


async def test_ack_before_completes_the_job_before_it_runs(bench: Bench) -> None:
    seen: list[State] = []

    async def once(ctx: Context[Any]) -> None:
        (record,) = await bench.broker.get([ctx.job.ref])
        assert record is not None
        seen.append(record.status.state)
        raise ValueError("too late to matter")

    bench.task(once, ctx=True, ack="before")
    ref = await bench.put(once)
    await bench.burst()
    assert seen == [State.COMPLETED]
    assert (await bench.record(ref)).status.state is State.COMPLETED


# -- limits of time ------------------------------------------------------------------------------


async def test_an_async_handler_is_cancelled_at_its_timeout(bench: Bench) -> None:
    cleaned: list[bool] = []

    async def sleepy() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            cleaned.append(True)

    bench.task(sleepy, timeout_ms=30)
    ref = await bench.put(sleepy, attempt_max=1)
    await bench.burst()
    status = (await bench.record(ref)).status
    assert cleaned == [True]
    assert status.state is State.DEAD
    assert status.errors[0].type == "timeout"


async def test_the_shorter_of_the_jobs_and_the_tasks_timeout_counts(bench: Bench) -> None:
    async def sleepy() -> None:
        await asyncio.sleep(60)

    bench.task(sleepy, timeout_ms=60_000)
    ref = await bench.put(sleepy, attempt_max=1, timeout_ms=20)
    await bench.burst()
    assert (await bench.record(ref)).status.state is State.DEAD


async def test_a_run_ends_at_the_jobs_deadline_and_is_not_tried_again(bench: Bench) -> None:
    async def sleepy() -> None:
        await asyncio.sleep(60)

    bench.task(sleepy)
    ref = await bench.put(sleepy, deadline_after_ms=80)
    await bench.burst()
    status = (await bench.record(ref)).status
    assert (status.state, status.reason, status.errors[0].type) == (
        State.DEAD,
        "deadline",
        "deadline",
    )


async def test_a_thread_past_its_timeout_is_left_behind_and_another_takes_its_place(
    bench: Bench,
) -> None:
    go = threading.Event()

    def stubborn(n: int) -> int:
        if n == 0:
            go.wait(10)
        return n

    bench.task(stubborn, timeout_ms=40)
    refs = [await bench.put(stubborn, args={"n": n}, attempt_max=1) for n in range(3)]
    await bench.burst(concurrency=1)
    go.set()
    assert await bench.states(refs) == [State.DEAD, State.COMPLETED, State.COMPLETED]


async def test_the_soft_limit_tells_before_the_hard_one_stops(bench: Bench) -> None:
    seen: list[Any] = []

    async def polite(ctx: Context[Any]) -> str:
        assert ctx.seconds_left is not None
        while not ctx.should_stop:  # noqa: ASYNC110 - that is what a handler does
            await asyncio.sleep(0.002)
        try:
            ctx.check()
        except SoftTimeout:
            seen.append("soft")
        return "in time"

    bench.task(polite, ctx=True, soft_timeout_ms=30, timeout_ms=5_000)
    ref = await bench.put(polite)
    await bench.burst()
    assert seen == ["soft"]
    assert (await bench.record(ref)).status.result == b'"in time"'


async def test_a_thread_sees_the_soft_limit_too_and_may_fail_by_it(bench: Bench) -> None:
    def polite(ctx: Context[Any]) -> None:
        while True:
            ctx.check()
            time.sleep(0.002)

    bench.task(polite, ctx=True, soft_timeout_ms=20, timeout_ms=5_000)
    ref = await bench.put(polite, attempt_max=1)
    await bench.burst()
    assert (await bench.record(ref)).status.errors[0].type.endswith("SoftTimeout")


# -- what a handler tells ------------------------------------------------------------------------


async def test_progress_lines_and_cursor_are_kept(bench: Bench) -> None:
    async def tell(ctx: Context[Any]) -> None:
        if ctx.saved is None:
            await ctx.progress(0.5, "half")
            ctx.log.warning("so far %d", 1)
            await ctx.save({"page": 7})
            raise ValueError("again")
        assert ctx.saved == {"page": 7}

    bench.task(tell, ctx=True)
    ref = await bench.put(tell)
    async with bench.working():
        status = (await bench.reaches(ref, State.COMPLETED)).status
    assert status.progress is not None
    assert msgspec.structs.astuple(status.progress) == (0.5, "half")
    events = await bench.broker.events(ref)
    assert [e.data for e in events if e.kind == "log"] == ["WARNING so far 1"]


async def test_progress_is_seen_while_the_handler_runs(bench: Bench) -> None:
    done = asyncio.Event()

    async def tell(ctx: Context[Any]) -> None:
        await ctx.progress(0.25)
        await done.wait()

    bench.task(tell, ctx=True)
    ref = await bench.put(tell)
    async with bench.working(lease_ms=150):
        await bench.reaches(ref, State.RUNNING)
        records: list[Any] = []

        async def look() -> None:
            while not records:
                if (await bench.record(ref)).status.progress is not None:
                    records.append(True)
                await asyncio.sleep(0.002)

        await asyncio.wait_for(look(), 5)
        done.set()
        await bench.reaches(ref, State.COMPLETED)


async def test_a_thread_saves_its_cursor_durably(bench: Bench) -> None:
    seen: list[Any] = []

    def save(ctx: Context[Any]) -> None:
        ctx.save_sync([1, 2])
        seen.append(ctx.job.id)
        raise ValueError("again")

    bench.task(save, ctx=True)
    ref = await bench.put(save, attempt_max=1)
    await bench.burst()
    await until(lambda: seen)
    assert (await bench.record(ref)).status.saved == b"[1,2]"


async def test_the_grace_ends_in_time_on_a_busy_loop(bench: Bench) -> None:
    tick_s, ticks = 0.02, 0

    async def busy() -> None:
        nonlocal ticks
        while True:
            time.sleep(tick_s)  # noqa: ASYNC251 - it is what is tested
            ticks += 1
            await asyncio.sleep(0)

    bench.task(busy)
    await bench.put(busy)
    worker = bench.worker(grace_ms=500)
    running = asyncio.create_task(worker.run())
    await until(lambda: ticks)
    worker.stop()
    before = ticks
    await running
    assert (ticks - before) * tick_s < 2 * 0.5
