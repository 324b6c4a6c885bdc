"""What a worker does when the broker, its lease or somebody else has a say."""

import asyncio
import logging
import threading
import time
from random import Random
from typing import Any

import pytest
from worker_bench import SOON_S, Bench, until

from ropeway.action import CancelJob
from ropeway.broker import Signal
from ropeway.brokers.memory import MemoryBroker
from ropeway.context import Context
from ropeway.job import JobRef, State
from ropeway.runtime import Runtime
from ropeway.testing.faults import FlakyBroker
from ropeway.testing.simulation.loop import HostClock, VirtualLoop
from ropeway.worker import Ended

pytestmark = pytest.mark.anyio


class Held:
    """A handler that waits until it is let go, and tells how it went."""

    def __init__(self) -> None:
        self.started = 0
        self.cancelled = 0
        self.done = 0
        self.go = asyncio.Event()

    async def __call__(self) -> None:
        self.started += 1
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        self.done += 1


def hold(bench: Bench, name: str = "hold") -> Held:
    held = Held()

    async def handler() -> None:
        await held()

    handler.__name__ = name
    bench.task(handler)
    return held


# -- leases --------------------------------------------------------------------------------------


async def test_a_lease_is_prolonged_for_as_long_as_the_handler_runs(bench: Bench) -> None:
    held = hold(bench)
    ref = await bench.put("hold")
    async with bench.working(lease_ms=100):
        await asyncio.sleep(0.4)
        held.go.set()
        await bench.reaches(ref, State.COMPLETED)
    assert held.started == 1


async def test_a_lost_lease_cancels_the_handler_and_settles_nothing(bench: Bench) -> None:
    held = hold(bench)
    ref = await bench.put("hold")
    flaky = FlakyBroker(bench.broker)
    async with bench.working(lease_ms=150, broker=flaky.store) as worker:
        await until(lambda: held.started)
        await bench.broker.pause("default")
        await bench.broker.abandon([worker.id])
        await until(lambda: held.cancelled)
        await asyncio.sleep(0.05)
        status = (await bench.record(ref)).status
        assert status.state is State.AVAILABLE
        assert flaky.calls["settle"] == 0


def test_a_worker_that_cannot_prolong_stops_its_handlers_before_the_lease_ends() -> None:
    loop = VirtualLoop()
    clock = HostClock(loop)

    async def scenario() -> None:
        bench = Bench(MemoryBroker(clock=clock))
        await bench.broker.open()
        held = hold(bench)
        ref = await bench.put("hold")
        flaky = FlakyBroker(bench.broker)
        runtime = Runtime(clock=clock, start_thread=None)
        async with bench.working(lease_ms=500, broker=flaky.store, runtime=runtime):
            await until(lambda: held.started)
            flaky.is_down = True
            down_at_ms = clock.mono_ms()
            await until(lambda: held.cancelled)
            assert clock.mono_ms() - down_at_ms < 500
            assert (await bench.record(ref)).status.state is State.RUNNING
            flaky.is_down = False
            held.go.set()
            await bench.reaches(ref, State.COMPLETED)
        assert (await bench.record(ref)).status.attempt == 1

    loop.run_until_complete(scenario())
    loop.close()


@pytest.mark.parametrize("when", ["before", "after"])
async def test_an_outcome_is_settled_again_when_the_answer_got_lost(
    bench: Bench, when: Any
) -> None:
    async def once() -> str:
        runs.append(1)
        return "r"

    runs: list[int] = []
    bench.task(once)
    ref = await bench.put(once)
    flaky = FlakyBroker(bench.broker)
    for verb in ("settle", "exchange"):
        flaky.plan(verb, when, when)
    async with bench.working(broker=flaky.store) as worker:
        await bench.reaches(ref, State.COMPLETED)
        await until(lambda: not worker._held)
    assert len(runs) == 1


async def test_an_outcome_waits_for_a_broker_that_is_away(bench: Bench) -> None:
    held = hold(bench)
    ref = await bench.put("hold")
    flaky = FlakyBroker(bench.broker)
    async with bench.working(broker=flaky.store):
        await until(lambda: held.started)
        flaky.is_down = True
        held.go.set()
        await asyncio.sleep(0.3)
        assert (await bench.record(ref)).status.state is State.RUNNING
        flaky.is_down = False
        await bench.reaches(ref, State.COMPLETED)
    assert held.started == 1


async def test_the_worker_outlives_an_outage_and_logs_it_once(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    async def quick() -> None: ...

    bench.task(quick)
    flaky = FlakyBroker(bench.broker)
    caplog.set_level(logging.INFO, "ropeway.worker")
    async with bench.working(broker=flaky.store):
        flaky.is_down = True
        await asyncio.sleep(0.5)
        flaky.is_down = False
        ref = await bench.put(quick)
        await bench.reaches(ref, State.COMPLETED)
    lines = [r.message for r in caplog.records if "the broker" in r.message]
    assert len([line for line in lines if "fails" in line]) == 1
    assert len([line for line in lines if "works again" in line]) == 1


async def test_one_outcome_that_the_broker_refuses_does_not_keep_the_others(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    async def quick() -> None: ...

    class Picky(FlakyBroker):
        def __getattr__(self, verb: str) -> Any:
            found = super().__getattr__(verb)
            if verb not in {"settle", "exchange"}:
                return found

            async def call(outcomes: Any, *args: Any, **kwargs: Any) -> Any:
                for outcome in outcomes:
                    if outcome.lease.job.tags and type(outcome).__name__ == "Ack":
                        raise RuntimeError("a bug of the broker")
                return await found(outcomes, *args, **kwargs)

            return call

    bench.task(quick)
    bad = await bench.put(quick, tags=("bad",))
    good = [await bench.put(quick) for _ in range(5)]
    async with bench.working(broker=Picky(bench.broker).store):
        for ref in good:
            await bench.reaches(ref, State.COMPLETED)
        assert (await bench.reaches(bad, State.DEAD)).status.reason == "bad outcome"


# -- cancel, pause, tune -------------------------------------------------------------------------


async def test_a_running_job_is_cancelled_within_a_second(bench: Bench) -> None:
    held = hold(bench)
    ref = await bench.put("hold")
    async with bench.working(lease_ms=10_000):
        await until(lambda: held.started)
        began = time.monotonic()
        await bench.broker.act([CancelJob(ref=ref, reason="not wanted")])
        status = (await bench.reaches(ref, State.CANCELLED)).status
        assert time.monotonic() - began < 1
    assert (held.cancelled, status.reason) == (1, "not wanted")


async def test_a_thread_is_asked_to_stop_and_ends_by_check(bench: Bench) -> None:
    started = threading.Event()

    def loop(ctx: Context[Any]) -> None:
        started.set()
        while True:
            ctx.check()
            time.sleep(0.002)

    bench.task(loop, ctx=True)
    ref = await bench.put(loop)
    async with bench.working():
        await until(started.is_set)
        await bench.broker.act([CancelJob(ref=ref)])
        await bench.reaches(ref, State.CANCELLED)


async def test_a_cancel_of_one_job_leaves_the_others_alone(bench: Bench) -> None:
    held = hold(bench)
    refs = [await bench.put("hold") for _ in range(3)]
    async with bench.working():
        await until(lambda: held.started == 3)
        await bench.broker.act([CancelJob(ref=refs[1])])
        await bench.reaches(refs[1], State.CANCELLED)
        held.go.set()
        for ref in (refs[0], refs[2]):
            await bench.reaches(ref, State.COMPLETED)


async def test_a_paused_queue_gets_its_unstarted_jobs_back(bench: Bench) -> None:
    held = hold(bench)

    async def fast() -> None: ...

    bench.task(fast)
    async with bench.working(concurrency=1):
        for _ in range(40):  # so that the worker fetches ahead
            await bench.put(fast)
        refs = [await bench.put("hold") for _ in range(6)]
        await until(lambda: held.started)
        await bench.broker.pause("default")
        await until(lambda: held.started == 1)

        async def given_back() -> None:
            while (await bench.states(refs)).count(State.AVAILABLE) != 5:  # noqa: ASYNC110
                await asyncio.sleep(0.005)

        await asyncio.wait_for(given_back(), SOON_S)
        held.go.set()
        await bench.reaches(refs[0], State.COMPLETED)
        assert held.started == 1
        await bench.broker.resume("default")
        for ref in refs:
            record = await bench.reaches(ref, State.COMPLETED)
            assert record.status.attempt == 1


async def test_concurrency_and_queues_change_while_the_worker_runs(bench: Bench) -> None:
    held = hold(bench)
    for _ in range(4):
        await bench.put("hold")
    other = await bench.put("hold", queue="other")
    async with bench.working(concurrency=1, wait_ms=50) as worker:
        await until(lambda: held.started == 1)
        await asyncio.sleep(0.03)
        assert held.started == 1
        await bench.broker.send(Signal(kind="tune", worker=worker.id, concurrency=5))
        await until(lambda: held.started == 4)
        await bench.broker.send(Signal(kind="tune", queues=("other=2", "default=1")))
        await until(lambda: held.started == 5)
        await bench.broker.send(Signal(kind="tune", concurrency=2))
        held.go.set()
        await bench.reaches(other, State.COMPLETED)
        held.go.clear()
        await asyncio.sleep(0.05)
        for _ in range(5):
            await bench.put("hold")
        await until(lambda: held.started == 7)
        await asyncio.sleep(0.05)
        assert held.started == 7


async def test_a_signal_for_another_worker_is_not_heeded(bench: Bench) -> None:
    held = hold(bench)
    async with bench.working():
        await bench.broker.send(Signal(kind="stop", worker="somebody else"))
        await bench.put("hold")
        await until(lambda: held.started)


async def test_quiet_finishes_what_runs_and_takes_no_more(bench: Bench) -> None:
    held = hold(bench)
    ref = await bench.put("hold")
    async with bench.working() as worker:
        await until(lambda: held.started)
        await bench.broker.send(Signal(kind="quiet", worker=worker.id))
        await asyncio.sleep(0.05)
        later = await bench.put("hold")
        held.go.set()
        await bench.reaches(ref, State.COMPLETED)
        await asyncio.sleep(0.05)
        assert (await bench.record(later)).status.state is State.AVAILABLE


# -- prefetch and suspects -----------------------------------------------------------------------


async def test_a_worker_with_slow_jobs_fetches_nothing_ahead(bench: Bench) -> None:
    held = hold(bench)
    refs = [await bench.put("hold") for _ in range(20)]
    async with bench.working(concurrency=3):
        await until(lambda: held.started == 3)
        await asyncio.sleep(0.05)
        assert (await bench.states(refs)).count(State.RUNNING) == 3
        held.go.set()
        for ref in refs:
            await bench.reaches(ref, State.COMPLETED)


async def test_what_waits_here_for_long_goes_back(bench: Bench) -> None:
    held = hold(bench)

    async def fast() -> None: ...

    bench.task(fast)
    for _ in range(200):
        await bench.put(fast)
    refs = [await bench.put("hold") for _ in range(50)]
    async with bench.working(concurrency=1, lease_ms=300):
        await until(lambda: held.started)

        async def given_back() -> None:
            while (await bench.states(refs)).count(State.RUNNING) > 1:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

        await asyncio.wait_for(given_back(), SOON_S)
        held.go.set()


async def test_a_suspect_runs_alone(bench: Bench) -> None:
    together: list[int] = []
    running = 0

    async def handler(ctx: Context[Any]) -> None:
        nonlocal running
        running += 1
        together.append(running if ctx.lease.suspect else 0)
        await asyncio.sleep(0.02)
        if ctx.lease.suspect:
            together.append(running)
        running -= 1

    bench.task(handler, ctx=True)
    suspect = await bench.put(handler)
    for _ in range(2):  # two workers die with it
        await bench.broker.reserve(["default"], worker="w", limit=1, lease_ms=1_000)
        await bench.broker.abandon(["w"])
    refs = [await bench.put(handler) for _ in range(10)]
    async with bench.working(concurrency=4):
        for ref in (suspect, *refs):
            await bench.reaches(ref, State.COMPLETED)
    assert max(together) == 1


@pytest.mark.parametrize("ended", [State.AVAILABLE, State.CANCELLED])
async def test_a_suspect_that_waits_to_be_alone_sees_a_pause_and_a_cancel(
    bench: Bench, ended: State
) -> None:
    held = hold(bench)
    ref = await bench.put("hold")
    for _ in range(2):  # two workers die with it
        await bench.broker.reserve(["default"], worker="w", limit=1, lease_ms=1_000)
        await bench.broker.abandon(["w"])
    await bench.broker.pause("default")
    first = await bench.put("hold", queue="other")
    async with bench.working(queues=("other", "default"), concurrency=4):
        await until(lambda: held.started == 1)
        await bench.broker.resume("default")
        await bench.reaches(ref, State.RUNNING)
        if ended is State.CANCELLED:
            await bench.broker.act([CancelJob(ref=ref)])
        else:
            await bench.broker.pause("default")
        await bench.reaches(ref, ended)
        assert held.started == 1
        held.go.set()
        await bench.reaches(first, State.COMPLETED)


# -- the end -------------------------------------------------------------------------------------


async def test_a_graceful_stop_lets_running_jobs_finish(bench: Bench) -> None:
    held = hold(bench)
    refs = [await bench.put("hold") for _ in range(3)]
    worker = bench.worker(concurrency=2)
    running = asyncio.create_task(worker.run())
    await until(lambda: held.started == 2)
    worker.stop()
    await asyncio.sleep(0.03)
    held.go.set()
    assert await asyncio.wait_for(running, SOON_S) is Ended.STOPPED
    assert await bench.states(refs) == [State.COMPLETED] * 2 + [State.AVAILABLE]
    assert await bench.broker.workers() == []


async def test_what_does_not_finish_in_time_is_released_uncounted(bench: Bench) -> None:
    held = hold(bench)

    def stubborn() -> None:
        gone.wait(10)

    gone = threading.Event()
    bench.task(stubborn)
    refs = [await bench.put("hold"), await bench.put(stubborn)]
    worker = bench.worker(grace_ms=50)
    running = asyncio.create_task(worker.run())
    await until(lambda: held.started)
    await asyncio.sleep(0.02)
    worker.stop()
    await asyncio.wait_for(running, SOON_S)
    gone.set()
    assert held.cancelled == 1
    for ref in refs:
        status = (await bench.record(ref)).status
        assert (status.state, status.attempt, status.crashes) == (State.AVAILABLE, 0, ())


async def test_a_second_stop_ends_at_once(bench: Bench) -> None:
    held = hold(bench)
    ref = await bench.put("hold")
    worker = bench.worker(grace_ms=60_000)
    running = asyncio.create_task(worker.run())
    await until(lambda: held.started)
    worker.stop()
    await asyncio.sleep(0.02)
    began = time.monotonic()
    worker.stop_now()
    await asyncio.wait_for(running, SOON_S)
    assert time.monotonic() - began < 1
    assert (await bench.record(ref)).status.attempt == 0


async def test_a_cancelled_run_hands_its_jobs_back_too(bench: Bench) -> None:
    held = hold(bench)
    ref = await bench.put("hold")
    running = asyncio.create_task(bench.worker(grace_ms=60_000).run())
    await until(lambda: held.started)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(running, SOON_S)
    assert (await bench.record(ref)).status.state is State.AVAILABLE


async def test_an_idle_worker_stops_without_waiting_for_its_call(bench: Bench) -> None:
    worker = bench.worker(wait_ms=60_000, lease_ms=200_000)
    running = asyncio.create_task(worker.run())
    await asyncio.sleep(0.05)
    began = time.monotonic()
    worker.stop()
    await asyncio.wait_for(running, SOON_S)
    assert time.monotonic() - began < 0.5


@pytest.mark.parametrize("limit", [{"max_jobs": 7}, {"max_memory_bytes": 1}])
async def test_a_worker_ends_to_be_replaced(bench: Bench, limit: dict[str, int]) -> None:
    async def quick() -> None: ...

    bench.task(quick)
    refs = [await bench.put(quick) for _ in range(20)]
    ended = await asyncio.wait_for(bench.worker(**limit).run(), SOON_S)
    assert ended is Ended.RECYCLED
    states = await bench.states(refs)
    assert states.count(State.COMPLETED) + states.count(State.AVAILABLE) == 20
    if "max_jobs" in limit:
        assert states.count(State.COMPLETED) == 7


async def test_the_worker_is_listed_with_what_it_does(bench: Bench) -> None:
    held = hold(bench)
    async with bench.working(queues={"default": 2, "low": 1}, concurrency=9) as worker:
        ref: JobRef = await bench.put("hold")
        await until(lambda: held.started)
        (info,) = await bench.broker.workers()
        assert (info.id, info.queues, info.strict) == (worker.id, {"default": 2, "low": 1}, False)
        assert (info.concurrency, info.tasks, info.state) == (9, ("hold",), "running")
        held.go.set()
        await bench.reaches(ref, State.COMPLETED)


async def test_two_workers_share_a_queue_and_run_each_job_once(bench: Bench) -> None:
    seen: list[int] = []

    async def note(n: int) -> None:
        seen.append(n)
        await asyncio.sleep(0)

    bench.task(note)
    for n in range(300):
        await bench.put(note, args={"n": n})
    await asyncio.gather(bench.burst(concurrency=3), bench.burst(concurrency=7))
    assert sorted(seen) == list(range(300))


async def test_nothing_is_lost_through_a_bad_connection(bench: Bench) -> None:
    ran: list[int] = []

    async def note(n: int) -> None:
        ran.append(n)
        await asyncio.sleep(0)

    bench.task(note)
    refs = [await bench.put(note, args={"n": n}) for n in range(200)]
    flaky = FlakyBroker(bench.broker)
    random = Random(7)
    for verb in ("reserve", "settle", "exchange", "extend", "signals", "maintain"):
        faults = random.choices([None, "before", "after"], [6, 2, 2], k=12)
        flaky.plan(verb, *faults)
    async with bench.working(broker=flaky.store, concurrency=5, lease_ms=300):
        for ref in refs:
            await bench.reaches(ref, State.COMPLETED)
    assert set(ran) == set(range(200))
    records = [await bench.record(ref) for ref in refs]
    assert {record.status.attempt for record in records} == {1}


async def test_a_handler_that_finishes_in_spite_of_its_cancel_is_completed(bench: Bench) -> None:
    started = asyncio.Event()

    async def stubborn() -> str:
        started.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "done all the same"
        return "slept"

    bench.task(stubborn)
    ref = await bench.put(stubborn)
    async with bench.working():
        await started.wait()
        await bench.broker.act([CancelJob(ref=ref)])
        assert (await bench.reaches(ref, State.COMPLETED)).status.result == b'"done all the same"'


async def test_a_handler_that_cancels_itself_only_fails_its_job(bench: Bench) -> None:
    async def confused() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(1)

    async def fine() -> None:
        await asyncio.sleep(0.001)

    bench.task(confused)
    bench.task(fine)
    bad = await bench.put(confused, attempt_max=1)
    good = [await bench.put(fine) for _ in range(5)]
    await bench.burst(concurrency=1)
    assert (await bench.record(bad)).status.errors[0].type.endswith("CancelledError")
    assert await bench.states(good) == [State.COMPLETED] * 5
