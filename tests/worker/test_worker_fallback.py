"""Fallbacks: what is called when a job has failed for good, before it is dead."""

import asyncio
import threading
from typing import Any

import pytest
from worker_bench import Bench, until

from ropeway import BatchContext, Bury, ConfigError, Context, Ropeway, Snooze, Tasks
from ropeway.job import JobRef, State

pytestmark = pytest.mark.anyio


async def ended(bench: Bench, ref: JobRef) -> tuple[str, list[str]]:
    """The job's state, and the types of its errors."""
    status = (await bench.record(ref)).status
    return status.state.value, [error.type for error in status.errors]


async def test_a_fallback_gets_the_arguments_when_the_attempts_are_spent(bench: Bench) -> None:
    calls: list[Any] = []

    @bench.app.task(attempts=2)
    async def charge(account: int, amount: float = 1.5, *, note: str = "-") -> None:
        calls.append("run")
        raise OSError("down")

    @charge.fallback
    async def refund(account: int, amount: float = 0, *, note: str) -> None:
        (record,) = await bench.broker.get([ref])
        assert record is not None
        calls.append((account, amount, note, record.status.state))

    ref = (await charge.enqueue(7, note="n")).ref
    async with bench.working():
        await bench.reaches(ref, State.DEAD)
    assert calls == ["run", "run", (7, 1.5, "n", State.RUNNING)]
    assert await ended(bench, ref) == ("dead", ["OSError", "OSError"])


@pytest.mark.parametrize("error", [KeyError("never"), Bury("hopeless")])
async def test_a_fallback_is_called_when_an_error_is_final(
    bench: Bench, error: BaseException
) -> None:
    seen: list[Any] = []

    def alert(ctx: Context[Any], n: int) -> None:
        assert ctx.failure is not None
        is_main = threading.current_thread() is threading.main_thread()
        seen.append((n, ctx.job.id, ctx.failure.type, is_main))

    @bench.app.task(never=(KeyError,), fallback=alert)
    def work(n: int) -> None:
        raise error

    ref = (await work.enqueue(3)).ref
    await bench.burst()
    assert [entry[:2] for entry in seen] == [(3, ref.id)]
    assert seen[0][2] in {"KeyError", "ropeway.verdict.Bury"}
    assert not seen[0][3]
    assert (await bench.record(ref)).status.state is State.DEAD


@pytest.mark.parametrize("answer", [None, OSError("again"), Snooze(60)])
async def test_a_fallback_is_not_called_while_there_is_hope(bench: Bench, answer: Any) -> None:
    calls: list[int] = []

    @bench.app.task(attempts=3, fallback=lambda: calls.append(1))
    async def work() -> None:
        if answer is not None:
            raise answer

    await work.enqueue()
    await bench.burst()
    assert calls == []


async def test_a_payload_that_does_not_fit_has_no_arguments_for_a_fallback(bench: Bench) -> None:
    calls: list[int] = []

    @bench.app.task(fallback=calls.append)
    async def work(n: int) -> None: ...

    ref = await bench.put("work", payload=b'{"n":"one"}')
    await bench.burst()
    assert (await bench.record(ref)).status.reason == "bad payload"
    assert calls == []


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_an_error_of_the_fallback_is_recorded_and_changes_nothing(
    bench: Bench, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise ZeroDivisionError("of the fallback")

    async def broken_async() -> None:
        broken()

    @bench.app.task(attempts=1, fallback=broken if kind == "sync" else broken_async)
    async def work() -> None:
        raise OSError("down")

    ref = (await work.enqueue()).ref
    await bench.burst()
    assert await ended(bench, ref) == ("dead", ["OSError", "ZeroDivisionError"])
    assert (await bench.record(ref)).status.reason == "attempts spent"
    assert "the fallback failed: ZeroDivisionError" in caplog.text


async def test_a_fallback_has_the_tasks_timeout_for_itself(bench: Bench) -> None:
    @bench.app.task(attempts=1, timeout=0.05)
    async def work() -> None:
        await asyncio.sleep(60)

    @work.fallback
    async def slow() -> None:
        await asyncio.sleep(60)

    ref = (await work.enqueue()).ref
    await bench.burst()
    assert await ended(bench, ref) == ("dead", ["timeout", "TimeoutError"])


async def test_a_worker_that_stops_during_the_fallback_runs_the_job_again(bench: Bench) -> None:
    calls: list[str] = []
    go = asyncio.Event()

    @bench.app.task(attempts=1)
    async def work() -> None:
        calls.append("run")
        raise OSError("down")

    @work.fallback
    async def slow() -> None:
        calls.append("fallback")
        await go.wait()

    ref = (await work.enqueue()).ref
    async with bench.working():
        await until(lambda: "fallback" in calls)
    status = (await bench.record(ref)).status
    assert (status.state, status.attempt) == (State.AVAILABLE, 0)
    go.set()
    await bench.burst()
    assert calls == ["run", "fallback"] * 2
    assert await ended(bench, ref) == ("dead", ["OSError"])


async def test_a_lease_is_prolonged_while_the_fallback_runs(bench: Bench) -> None:
    calls: list[int] = []

    @bench.app.task(attempts=1)
    async def work() -> None:
        raise OSError("down")

    @work.fallback
    async def slow() -> None:
        calls.append(1)
        await asyncio.sleep(0.4)

    ref = (await work.enqueue()).ref
    async with bench.working(lease_ms=100):
        await bench.reaches(ref, State.DEAD)
    assert calls == [1]


async def test_a_batch_calls_it_once_with_the_items_that_failed_for_good(bench: Bench) -> None:
    seen: list[Any] = []

    @bench.app.batch_task(size=3, attempts=1)
    async def index(items: list[str]) -> list[int | Exception]:
        return [ValueError(item) if item != "b" else 1 for item in items]

    @index.fallback
    async def give_up(ctx: BatchContext[Any], items: list[str]) -> None:
        seen.append((items, [failure and failure.message for failure in ctx.failures]))
        raise ZeroDivisionError

    refs = [handle.ref for handle in await index.enqueue_many(["a", "b", "c"])]
    await bench.burst()
    assert seen == [(["a", "c"], ["a", "c"])]
    both = ("dead", ["ValueError", "ZeroDivisionError"])
    assert [await ended(bench, ref) for ref in refs] == [both, ("completed", []), both]


# -- declarations --------------------------------------------------------------------------------


def no_argument() -> None: ...
def one_more(url: str, more: int) -> None: ...
def by_other_names(address: str, /, *rest: object, **named: object) -> None: ...
def with_context(ctx: Context[Any], url: str) -> None: ...
def with_the_other_context(ctx: BatchContext[Any], url: str) -> None: ...


@pytest.mark.parametrize("fallback", [by_other_names, with_context, print])
def test_a_fallback_may_be_any_function_that_takes_the_arguments(fallback: Any) -> None:
    @Ropeway("memory://").task(fallback=fallback)
    def fetch(url: str) -> None: ...

    assert fetch.definition.fallback is not None


@pytest.mark.parametrize(
    ("fallback", "message"),
    [
        (no_argument, "fallback=no_argument: it is called as the task's function is"),
        (one_more, "missing a required argument: 'more'"),
        (with_the_other_context, "'ctx' is a BatchContext; the function is given a Context"),
        ("alert", "fallback='alert': give a function"),
    ],
)
def test_a_fallback_that_cannot_be_called_so_is_refused(fallback: Any, message: str) -> None:
    def fetch(url: str) -> None: ...

    app = Ropeway("memory://")
    with pytest.raises(ConfigError, match=message):
        app.task(fallback=fallback)(fetch)
    task = app.task(fetch)
    if callable(fallback):
        with pytest.raises(ConfigError, match=message):
            task.fallback(fallback)
    assert task.definition.fallback is None


def test_a_task_is_no_fallback_and_at_most_once_has_none() -> None:
    app = Ropeway("memory://")

    @app.task
    def alert() -> None: ...

    with pytest.raises(ConfigError, match="to enqueue a task, do so in that function"):
        app.task(fallback=alert)(no_argument)
    with pytest.raises(ConfigError, match="completed before it runs"):
        app.task(ack="before", fallback=no_argument)(no_argument)


def test_a_fallback_declared_before_or_after_the_inclusion_is_known_to_the_worker() -> None:
    tasks, app = Tasks(prefix="p."), Ropeway("memory://", defaults={"attempts": 7})
    task = tasks.task(no_argument)
    for moment in (lambda: None, lambda: app.include(tasks), lambda: None):
        moment()
        task.fallback(no_argument)
    definition = app.definitions["p.no_argument"]
    assert definition.fallback is not None
    assert definition.policy.attempts == 7
    assert task.definition is definition
