"""Hooks: what is told to a program about its jobs, when, and what they cannot do."""

import asyncio
import os
import signal
from typing import Any

import pytest
from worker_bench import Bench, until

from ropeway import Bury, Cancel, ConfigError, Event, Ropeway, Snooze
from ropeway.action import CancelJob
from ropeway.hooks import KINDS
from ropeway.job import State
from ropeway.outcome import Settled

pytestmark = pytest.mark.anyio


def listen(bench: Bench, *kinds: str) -> list[Event]:
    """The events that are told from now on."""
    events: list[Event] = []
    bench.app.on(*(kinds or KINDS))(events.append)  # type: ignore[arg-type]
    return events


async def test_a_job_that_completes_is_told_from_the_enqueue_to_the_end(bench: Bench) -> None:
    events = listen(bench)

    @bench.app.task(queue="q", tags=["x"])
    async def work(n: int) -> int:
        await asyncio.sleep(0.02)
        return n

    job = await work.enqueue(1)
    worker = bench.worker(burst=True, queues=("q",))
    await worker.run()
    kinds = [event.kind for event in events]
    assert kinds == ["enqueued", "worker_started", "started", "completed", "worker_stopped"]
    enqueued, *_, completed, stopped = events
    assert (enqueued.job, enqueued.task, enqueued.worker) == (job.ref, "work", None)
    assert (completed.job, completed.task, completed.queue) == (job.ref, "work", "q")
    assert (completed.attempt, completed.tags, completed.error) == (1, ("x",), None)
    assert completed.duration is not None
    assert 0.01 < completed.duration < 5
    assert completed.worker == stopped.worker == worker.id
    assert stopped.job is None


@pytest.mark.parametrize(
    ("error", "attempts", "kind"),
    [
        (OSError("down"), 2, "retried"),
        (OSError("down"), 1, "dead"),
        (Bury("hopeless"), 2, "dead"),
        (Cancel("gone"), 2, "cancelled"),
        (Snooze(60, reason="later"), 2, "snoozed"),
    ],
)
async def test_each_end_has_its_event(
    bench: Bench, error: BaseException, attempts: int, kind: str
) -> None:
    events = listen(bench, "completed", "retried", "dead", "cancelled", "snoozed", "released")

    @bench.app.task(attempts=attempts)
    async def work() -> None:
        raise error

    await work.enqueue()
    await bench.burst()
    assert events[0].kind == kind
    if isinstance(error, OSError):
        assert (events[0].error, events[0].message) == ("OSError", "down")
    else:
        assert str(error) in {events[0].reason, events[0].message}


async def test_hooks_are_told_after_the_broker_has_answered(bench: Bench) -> None:
    seen: list[State] = []

    @bench.app.on("completed")
    async def look(event: Event) -> None:
        assert event.job is not None
        seen.append((await bench.record(event.job)).status.state)

    @bench.app.task
    def work() -> None: ...

    await work.enqueue()
    await bench.burst()
    assert seen == [State.COMPLETED]


async def test_a_running_job_that_is_cancelled_and_one_that_is_released(bench: Bench) -> None:
    events = listen(bench, "cancelled", "released", "retried")

    @bench.app.task
    async def hold() -> None:
        running.append(1)
        await asyncio.sleep(60)

    running: list[int] = []
    first, second = [await hold.enqueue() for _ in range(2)]
    async with bench.working():
        await until(lambda: len(running) == 2)
        await bench.broker.act([CancelJob(ref=first.ref)])
        await until(lambda: events)
    assert [(event.kind, event.job) for event in events] == [
        ("cancelled", first.ref),
        ("released", second.ref),
    ]


async def test_a_lost_lease_is_told_once(bench: Bench) -> None:
    events = listen(bench, "lost", "completed")

    @bench.app.task
    async def hold() -> None:
        running.append(1)
        await asyncio.sleep(60)

    running: list[int] = []
    await hold.enqueue()
    async with bench.working(lease_ms=150) as worker:
        await until(lambda: running)
        await bench.broker.pause("default")
        await bench.broker.abandon([worker.id])
        await until(lambda: events)
    assert [event.kind for event in events] == ["lost"]


async def test_an_outcome_that_came_too_late_is_a_lost_lease(bench: Bench) -> None:
    events = listen(bench, "lost", "completed")

    @bench.app.task
    async def slow() -> None:
        await bench.broker.pause("default")
        await bench.broker.abandon([worker.id])

    await slow.enqueue()
    worker = bench.worker(burst=True)
    await worker.run()
    assert [event.kind for event in events] == ["lost"]
    assert Settled.LOST  # what the broker answered


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def test_a_handler_process_that_dies_is_a_crash(bench: Bench) -> None:
    events = listen(bench, "crashed", "dead")
    bench.task(kill_itself, kind="process")
    ref = await bench.put(kill_itself, crash_max=0)
    async with bench.working():
        await bench.reaches(ref, State.DEAD)
        await until(lambda: events)
    assert events[0].kind == "crashed"


async def test_each_item_of_a_batch_is_told(bench: Bench) -> None:
    events = listen(bench, "started", "completed", "dead")

    @bench.app.batch_task(size=2, attempts=1)
    async def index(items: list[int]) -> list[int | Exception]:
        return [1, ValueError("bad")]

    first, second = await index.enqueue_many([1, 2])
    await bench.burst()
    assert [(event.kind, event.job) for event in events] == [
        ("started", first.ref),
        ("started", second.ref),
        ("completed", first.ref),
        ("dead", second.ref),
    ]
    assert all(event.duration is not None for event in events[2:])


async def test_an_error_of_a_hook_is_logged_and_harms_neither_job_nor_other_hooks(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    @bench.app.on("enqueued", "started", "completed")
    def broken(event: Event) -> None:
        raise ZeroDivisionError(event.kind)

    events = listen(bench, "completed")

    @bench.app.task
    async def work() -> None: ...

    job = await work.enqueue()
    await bench.burst()
    assert (await bench.record(job.ref)).status.state is State.COMPLETED
    assert [event.kind for event in events] == ["completed"]
    assert len([r for r in caplog.records if r.name == "ropeway.hooks"]) == 3


async def test_slow_hooks_hold_up_no_job(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ropeway.worker.handlers.telling.LAST_S", 0.05)

    @bench.app.on("completed")
    async def slow(event: Event) -> None:
        await asyncio.sleep(60)

    @bench.app.task
    async def work() -> None: ...

    jobs = [await work.enqueue() for _ in range(20)]
    await bench.burst()
    assert await bench.states([job.ref for job in jobs]) == [State.COMPLETED] * 20


async def test_events_that_nobody_keeps_up_with_are_dropped_and_the_log_says_so(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ropeway.worker.handlers.telling.WAITING_MAX", 5)
    told: list[Event] = []
    go = asyncio.Event()

    @bench.app.on("completed", "worker_stopped")
    async def slow(event: Event) -> None:
        told.append(event)
        if event.kind == "worker_stopped":
            return
        await go.wait()

    @bench.app.task
    async def work() -> None: ...

    for _ in range(50):
        await work.enqueue()
    async with bench.working():
        await until(lambda: told)
        await asyncio.sleep(0.1)
        go.set()
    assert len(told) < 20
    assert told[-1].kind == "worker_stopped"
    assert caplog.text.count("hooks are too slow") == 1


async def test_a_duplicate_is_not_told_as_enqueued(bench: Bench) -> None:
    events = listen(bench, "enqueued")

    @bench.app.task
    async def work() -> None: ...

    for _ in range(2):
        await work.opts(id="same").enqueue()
    await work.enqueue_many([])  # type: ignore[misc]
    assert [event.kind for event in events] == ["enqueued"]


@pytest.mark.parametrize(
    ("kinds", "hook", "message"),
    [
        ((), print, "give at least one event: enqueued, started"),
        (("complete",), print, "unknown event 'complete': known are enqueued"),
        (("completed",), lambda: None, "give a function that takes one Event"),
        (("completed",), "print", "give a function that takes one Event"),
    ],
)
def test_a_hook_that_cannot_be_meant_is_refused(kinds: Any, hook: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Ropeway("memory://").on(*kinds)(hook)


def test_a_hook_without_its_events_is_refused_where_it_is_written() -> None:
    app = Ropeway("memory://")
    with pytest.raises(ConfigError, match="unknown event <function"):

        @app.on  # type: ignore[arg-type]
        def hook(event: Event) -> None: ...
