"""What a worker does with batches: many jobs, one call."""

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from worker_bench import Bench, until

from ropeway import BatchContext, Bury, Cancel, Retry, Ropeway, Snooze, current_job
from ropeway.action import CancelJob
from ropeway.codec import REFERENCE
from ropeway.job import JobRef, State
from ropeway.offload import Offload
from ropeway.testing.faults import FlakyBroker
from ropeway.worker import Worker, WorkerOptions

pytestmark = pytest.mark.anyio

FULL = {"size": 3, "within": 60, "grace": 60}


class Indexed:
    """A batch task that notes the items of each call, and answers as told."""

    def __init__(self, bench: Bench, answer: Any = None, **options: Any) -> None:
        self.calls: list[list[Any]] = []
        self.answer = answer
        self.go = asyncio.Event()
        self.go.set()
        self.cancelled = 0
        self.running = 0

        @bench.app.batch_task(**{**FULL, **options})
        async def index(items: list[str]) -> Any:
            self.calls.append(items)
            self.running += 1
            try:
                await self.go.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
            finally:
                self.running -= 1
            if isinstance(self.answer, BaseException):
                raise self.answer
            return self.answer

        self.task = index
        self.bench = bench

    async def put(self, *items: Any, **options: Any) -> list[JobRef]:
        task = self.task.opts(**options)
        handles = await self.bench.app.enqueue_many(task.s(item) for item in items)
        return [handle.ref for handle in handles]


async def states(bench: Bench, refs: list[JobRef]) -> list[str]:
    return [state.value for state in await bench.states(refs)]


async def test_a_full_batch_is_one_call_and_each_item_has_its_result(bench: Bench) -> None:
    indexed = Indexed(bench, answer=[1, None, "three"])
    refs = await indexed.put("a", "b", "c")
    await bench.burst()
    assert indexed.calls == [["a", "b", "c"]]
    assert await states(bench, refs) == ["completed"] * 3
    assert [(await bench.record(ref)).status.result for ref in refs] == [b"1", None, b'"three"']


async def test_a_worker_that_waits_takes_a_batch_when_the_grace_is_over(bench: Bench) -> None:
    indexed = Indexed(bench, size=100, within=5, grace=0.05)
    async with bench.working():
        refs = await indexed.put("a", "b")
        await bench.reaches(refs[1], State.COMPLETED)
    assert indexed.calls == [["a", "b"]]


async def test_keys_make_calls_of_their_own(bench: Bench) -> None:
    indexed = Indexed(bench, size=2, key=lambda item: item[0])
    await indexed.put("a1", "b1", "a2", "b2")
    await bench.burst()
    assert sorted(indexed.calls) == [["a1", "a2"], ["b1", "b2"]]


async def test_a_sync_function_runs_in_a_thread_with_a_context_of_the_batch(bench: Bench) -> None:
    seen: list[Any] = []

    @asynccontextmanager
    async def lifespan() -> AsyncGenerator[str]:
        yield "pool"

    @bench.app.batch_task(size=2)
    def index(ctx: BatchContext[str], items: list[int]) -> None:
        ctx.check()
        ctx.progress_sync(0.5, "half")
        ctx.log.warning("%d items", len(items))
        with pytest.raises(LookupError, match="in a batch of jobs"):
            current_job()
        is_main = threading.current_thread() is threading.main_thread()
        seen.append((ctx.state, [job.payload for job in ctx.jobs], is_main))

    refs = [handle.ref for handle in await index.enqueue_many([1, 2])]
    await bench.burst(lifespan=lifespan)
    assert seen == [("pool", [b'{"item":1}', b'{"item":2}'], False)]
    for ref in refs:
        assert [e.data for e in await bench.broker.events(ref)] == ["WARNING 2 items"]
        progress = (await bench.record(ref)).status.progress
        assert progress is not None
        assert progress.note == "half"


async def test_each_item_ends_as_the_call_says_of_it(bench: Bench) -> None:
    answer = [1, ValueError("bad"), Retry(60), Snooze(60), Bury("look"), Cancel("gone")]
    indexed = Indexed(bench, answer=answer, size=6, attempts=1)
    refs = await indexed.put(*"abcdef")
    await bench.burst()
    assert await states(bench, refs) == [
        "completed",
        "dead",
        "dead",
        "scheduled",
        "dead",
        "cancelled",
    ]
    assert (await bench.record(refs[1])).status.errors[0].message == "bad"


async def test_what_is_raised_fails_every_item_by_its_own_attempts(bench: Bench) -> None:
    indexed = Indexed(bench, answer=OSError("down"), attempts=5)
    refs = await indexed.put("a", "b") + await indexed.put("c", attempts=1)
    await bench.burst()
    assert await states(bench, refs) == ["retryable", "retryable", "dead"]
    assert len(indexed.calls) == 1


@pytest.mark.parametrize("answer", [[1, 2], [1, 2, 3, 4], "abc", {"a": 1}])
async def test_an_answer_that_is_not_one_for_each_item_is_an_error_of_all(
    bench: Bench, answer: Any
) -> None:
    indexed = Indexed(bench, answer=answer, attempts=1)
    refs = await indexed.put("a", "b", "c")
    await bench.burst()
    assert await states(bench, refs) == ["dead"] * 3
    assert "index returned" in (await bench.record(refs[0])).status.errors[0].message


async def test_a_verdict_that_is_returned_counts_for_all(bench: Bench) -> None:
    indexed = Indexed(bench, answer=[])
    indexed.answer = Bury("hopeless")
    refs = await indexed.put("a", "b", "c")
    await bench.burst()
    assert await states(bench, refs) == ["dead"] * 3


async def test_an_item_that_does_not_decode_is_buried_alone(bench: Bench) -> None:
    indexed = Indexed(bench)
    refs = await indexed.put("a", "b")
    refs.append(await bench.put("index", payload=b'{"item":3}', group_key="*"))
    await bench.burst()
    assert await states(bench, refs) == ["completed", "completed", "dead"]
    assert indexed.calls == [["a", "b"]]
    assert (await bench.record(refs[2])).status.reason == "bad payload"


async def test_a_job_without_a_group_is_a_batch_by_itself(bench: Bench) -> None:
    indexed = Indexed(bench, answer=["done"])
    ref = await bench.put("index", args={"item": "a"})
    await bench.burst()
    assert indexed.calls == [["a"]]
    assert (await bench.record(ref)).status.result == b'"done"'


async def test_a_batch_takes_one_slot(bench: Bench) -> None:
    indexed = Indexed(bench, size=2)
    indexed.go.clear()
    await indexed.put(*"abcdefgh")
    async with bench.working(concurrency=2) as worker:
        await until(lambda: indexed.running == 2)
        await asyncio.sleep(0.05)
        assert indexed.running == 2
        assert len(worker._held) == 4
        assert len(worker._info().running) == 4
        indexed.go.set()
        await until(lambda: len(indexed.calls) == 4)


async def test_batches_and_single_jobs_share_the_slots(bench: Bench) -> None:
    indexed = Indexed(bench, size=2)
    done: list[int] = []

    async def single(n: int) -> None:
        await asyncio.sleep(0.001)
        done.append(n)

    bench.task(single)
    for n in range(60):
        await bench.put(single, args={"n": n})
    await indexed.put("a", "b")
    async with bench.working(concurrency=1):
        await until(lambda: indexed.calls)
        assert len(done) < 60  # it did not have to wait for all of them
        await until(lambda: len(done) == 60)


async def test_the_call_is_stopped_at_the_tasks_timeout(bench: Bench) -> None:
    indexed = Indexed(bench, timeout=0.03, attempts=1)
    indexed.go.clear()
    refs = await indexed.put("a", "b", "c")
    await bench.burst()
    assert await states(bench, refs) == ["dead"] * 3
    assert (await bench.record(refs[0])).status.errors[0].type == "timeout"
    assert indexed.cancelled == 1


@pytest.mark.parametrize(
    ("answer", "state"),
    [(None, "completed"), (OSError("down"), "cancelled"), (Bury("look"), "cancelled")],
)
async def test_a_cancelled_item_does_not_stop_the_call_and_ends_with_it(
    bench: Bench, answer: Any, state: str
) -> None:
    indexed = Indexed(bench, answer=answer, attempts=5)
    indexed.go.clear()
    refs = await indexed.put("a", "b", "c")
    async with bench.working(lease_ms=150):
        await until(lambda: indexed.running)
        await bench.broker.act([CancelJob(ref=refs[0])])
        await asyncio.sleep(0.2)
        assert indexed.cancelled == 0
        indexed.go.set()
        await bench.reaches(refs[0], State.COMPLETED, State.CANCELLED)
    assert (await states(bench, refs))[0] == state


async def test_a_call_all_of_whose_items_are_cancelled_is_stopped(bench: Bench) -> None:
    indexed = Indexed(bench)
    indexed.go.clear()
    refs = await indexed.put("a", "b", "c")
    async with bench.working(lease_ms=150):
        await until(lambda: indexed.running)
        await bench.broker.act([CancelJob(ref=ref) for ref in refs])
        for ref in refs:
            await bench.reaches(ref, State.CANCELLED)
    assert indexed.cancelled == 1


async def test_a_lost_lease_drops_one_outcome_and_no_other(bench: Bench) -> None:
    indexed = Indexed(bench, answer=[1, 2, 3])
    indexed.go.clear()
    refs = await indexed.put("a", "b", "c")
    async with bench.working(lease_ms=150) as worker:
        await until(lambda: indexed.running)
        lost = next(run for run in worker._held if run.lease.job.id == refs[1].id)
        other = await bench.broker.get([refs[1]])
        assert other[0] is not None
        stale = bench.broker._state.table.find(refs[1])  # type: ignore[attr-defined]
        stale.status.token += 1  # somebody else has it by now
        await until(lambda: lost.reason is not None)
        indexed.go.set()
        await bench.reaches(refs[2], State.COMPLETED)
        await until(lambda: not worker._held)
    assert [(await bench.record(ref)).status.result for ref in refs] == [b"1", None, b"3"]


async def test_a_worker_that_stops_releases_all_items_uncounted(bench: Bench) -> None:
    indexed = Indexed(bench)
    indexed.go.clear()
    refs = await indexed.put("a", "b", "c")
    async with bench.working():
        await until(lambda: indexed.running)
    records = [await bench.record(ref) for ref in refs]
    assert {(r.status.state, r.status.attempt) for r in records} == {(State.AVAILABLE, 0)}


async def test_leases_of_a_long_batch_are_prolonged(bench: Bench) -> None:
    indexed = Indexed(bench)
    indexed.go.clear()
    refs = await indexed.put("a", "b", "c")
    async with bench.working(lease_ms=100):
        await asyncio.sleep(0.4)
        indexed.go.set()
        await bench.reaches(refs[0], State.COMPLETED)
    assert len(indexed.calls) == 1


async def test_a_quiet_worker_takes_no_batch(bench: Bench) -> None:
    indexed = Indexed(bench)
    async with bench.working(wait_ms=20) as worker:
        await until(lambda: worker._roles)
        assert worker._roles is not None
        worker._roles.fetcher.be_quiet()
        await asyncio.sleep(0.05)
        refs = await indexed.put("a", "b", "c")
        await asyncio.sleep(0.1)
        assert await states(bench, refs) == ["available"] * 3
    assert indexed.calls == []


async def test_batches_come_again_after_an_outage(bench: Bench) -> None:
    indexed = Indexed(bench)
    flaky = FlakyBroker(bench.broker)
    async with bench.working(broker=flaky.store, wait_ms=20):
        flaky.is_down = True
        await asyncio.sleep(0.1)
        flaky.is_down = False
        refs = await indexed.put("a", "b", "c")
        await bench.reaches(refs[0], State.COMPLETED)


async def test_a_batch_of_a_task_that_is_not_known_here_is_left_to_others(bench: Bench) -> None:
    Indexed(bench)
    ref = await bench.put("elsewhere", args={"item": 1}, group_key="k")
    await bench.burst()
    status = (await bench.record(ref)).status
    assert (status.state, status.reason) == (State.SCHEDULED, "unknown_task")


async def test_items_that_may_have_killed_their_worker_run_alone(bench: Bench) -> None:
    indexed = Indexed(bench, within=0.05, grace=0.05)
    await bench.broker.declare(bench.app.rules)
    refs = await indexed.put("a", "b", "c")
    for _ in range(2):
        leases = await bench.broker.reserve_group(["default"], worker="dies", lease_ms=1_000)
        assert len(leases) == 3
        await bench.broker.abandon(["dies"])
    async with bench.working(wait_ms=20):
        for ref in refs:
            await bench.reaches(ref, State.COMPLETED)
    assert sorted(indexed.calls) == [["a"], ["b"], ["c"]]


async def test_a_worker_without_batch_tasks_leaves_gathering_jobs_alone(bench: Bench) -> None:
    async def quick() -> None: ...

    bench.task(quick)
    ref = await bench.put("index", args={"item": 1}, group_key="k")
    async with bench.working(wait_ms=20):
        await asyncio.sleep(0.1)
    assert (await bench.record(ref)).status.state is State.AVAILABLE


async def test_big_items_and_results_of_a_batch_are_offloaded(bench: Bench, tmp_path: Path) -> None:
    app = Ropeway(bench.broker, offload=Offload(tmp_path, above=100))

    @app.batch_task(size=2)
    async def double(items: list[str]) -> list[str]:
        return [item * 2 for item in items]

    async with app:
        big, small = await double.enqueue_many(["x" * 300, "y"])
        options = WorkerOptions(burst=True, offload=app.offload)
        await Worker(bench.broker, app.definitions, options=options, rules=app.rules).run()
        assert [await big, await small] == ["x" * 600, "yy"]
        record = await bench.record(big.ref)
        assert (record.job.codec, record.status.result_codec) == (REFERENCE, REFERENCE)


# -- turns of tenants ----------------------------------------------------------------------------


async def test_nothing_is_fetched_ahead_of_the_turns_of_tenants(bench: Bench) -> None:
    order: list[str] = []
    waiting: list[int] = []

    @bench.app.task(fair="tenant")
    async def serve(tenant: str) -> None:
        order.append(tenant)
        assert worker._roles is not None
        waiting.append(worker._roles.runner.buffered)
        if len(order) == 100:
            await serve.enqueue("late")

    await serve.enqueue_many(["busy"] * 400)
    worker = bench.worker(burst=True, concurrency=4)
    await worker.run()
    assert max(waiting) < 4
    assert order.index("late") <= 100 + 2 * 4


async def test_a_fair_queue_is_known_by_its_jobs_too(bench: Bench) -> None:
    most = 0

    async def serve() -> None:
        nonlocal most
        assert worker._roles is not None
        most = max(most, worker._roles.runner.buffered)

    bench.task(serve)
    for n in range(300):
        await bench.put(serve, fair_key=f"t{n % 3}")
    worker = bench.worker(burst=True, concurrency=4)
    await worker.run()
    assert most < 4
