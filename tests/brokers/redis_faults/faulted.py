"""Producers and workers of one store, each with a broker of its own, and a tally of both."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import cycle
from typing import Any

from ropeway import Ropeway, codec
from ropeway.broker import EnqueueAnswer, Enqueued, JobStore, Queues
from ropeway.brokers.redis.cluster.broker import ClusterBroker
from ropeway.brokers.registry import broker_from_url
from ropeway.context import Context
from ropeway.errors import BrokerError
from ropeway.job import FINAL, Job, JobRef, Lease, State
from ropeway.outcome import Ack, Outcome, Settled
from ropeway.runtime import new_id
from ropeway.submit import submit
from ropeway.worker import Worker, WorkerOptions

LEASE_MS = 1_500
SOON_S = 30.0


async def until(is_so: Callable[[], Any], *, within_s: float = SOON_S) -> None:
    """Wait until something is so, or fail."""
    end = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < end, f"not so within {within_s} s"
        await asyncio.sleep(0.01)


def tallied(url: str, settled: Counter[str]) -> JobStore:
    """A broker that counts the jobs that it was told are completed now."""
    broker: Any = broker_from_url(url)
    settle, exchange = broker.settle, broker.exchange

    def count(outcomes: Sequence[Outcome], answers: Sequence[Settled]) -> None:
        for outcome, answer in zip(outcomes, answers, strict=True):
            if isinstance(outcome, Ack) and answer is Settled.OK:
                settled[outcome.lease.job.id] += 1

    async def counted_settle(outcomes: Sequence[Outcome]) -> list[Settled]:
        answers: list[Settled] = await settle(outcomes)
        count(outcomes, answers)
        return answers

    async def counted_exchange(
        outcomes: Sequence[Outcome], queues: Queues, **asked: Any
    ) -> tuple[list[Settled], list[Lease]]:
        answers, leases = await exchange(outcomes, queues, **asked)
        count(outcomes, answers)
        return answers, leases

    broker.settle = counted_settle
    if not isinstance(broker, ClusterBroker):  # its exchange settles by `settle`
        broker.exchange = counted_exchange
    return broker


class Load:
    """Producers and workers on a store, what was acknowledged, and what became of it.

    Args:
        url: of the store; each producer and worker has a connection of its own.
        queues: of the jobs, in turn.

    Attributes:
        acknowledged_in, runs_in: how many, by queue.
        acknowledged: the jobs whose enqueue was answered, and when (monotonic seconds).
        runs: how often each job was run.
        settled: how often each was settled as completed.
        errors: what producers were told in place of an answer.

    """

    def __init__(self, url: str, *, queues: Sequence[str] = ("default",)) -> None:
        self.url = url
        self._queues = queues
        self.acknowledged_in: Counter[str] = Counter()
        self.runs_in: Counter[str] = Counter()
        self._queue_of: dict[str, str] = {}
        self.acknowledged: dict[str, float] = {}
        self.runs: Counter[str] = Counter()
        self.settled: Counter[str] = Counter()
        self.errors: list[BrokerError] = []
        self._app = Ropeway()

        @self._app.task(name="work")
        async def work(ctx: Context[None], name: str) -> str:
            self.runs[name] += 1
            self.runs_in[ctx.job.queue] += 1
            await asyncio.sleep(0.002)
            return name

    def broker(self) -> JobStore:
        """One more connection."""
        return tallied(self.url, self.settled)

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[JobStore]:
        """One more connection, open."""
        broker = self.broker()
        await broker.open()
        try:
            yield broker
        finally:
            await broker.close()

    @asynccontextmanager
    async def working(self, workers: int = 2, **options: Any) -> AsyncGenerator[None]:
        """Workers that take the jobs of the queue `default`."""
        settings: dict[str, Any] = {
            "lease_ms": LEASE_MS,
            "concurrency": 20,
            "queues": self._queues,
            **options,
        }
        async with contextlib.AsyncExitStack() as stack:
            made: list[Worker] = []
            for _ in range(workers):
                broker = await stack.enter_async_context(self.opened())
                options_ = WorkerOptions(grace_ms=3_000, **settings)
                made.append(Worker(broker, self._app.definitions, options=options_))
            running = [asyncio.create_task(worker.run()) for worker in made]
            try:
                yield
            finally:
                for worker in made:
                    worker.stop()
                await asyncio.wait_for(asyncio.gather(*running), SOON_S)

    @asynccontextmanager
    async def producing(
        self, producers: int = 2, *, resend: bool = True, pause_s: float = 0.01
    ) -> AsyncGenerator[None]:
        """Producers that enqueue a few jobs again and again.

        Args:
            producers: how many.
            resend: call again, as an app does, what failed for want of a connection; else it is
                noted in `errors` and never asked for again.
            pause_s: between the calls of each.

        """
        over = asyncio.Event()
        async with contextlib.AsyncExitStack() as stack:
            brokers = [await stack.enter_async_context(self.opened()) for _ in range(producers)]
            tasks = [
                asyncio.create_task(self._produce(broker, over, resend=resend, pause_s=pause_s))
                for broker in brokers
            ]
            try:
                yield
            finally:
                over.set()
                await asyncio.wait_for(asyncio.gather(*tasks), 70)

    async def _produce(
        self, broker: JobStore, over: asyncio.Event, *, resend: bool, pause_s: float
    ) -> None:
        for queue in cycle(self._queues):
            if over.is_set():
                return
            jobs = [job(queue=queue) for _ in range(5)]
            try:
                answers = await (submit(broker, jobs) if resend else broker.enqueue(jobs))
            except BrokerError as error:
                self.errors.append(error)
            else:
                self.note(answers)
            await asyncio.sleep(pause_s)

    def note(self, answers: Sequence[Enqueued]) -> None:
        """These were acknowledged just now."""
        now = time.monotonic()
        for answer in answers:
            assert answer.answer in {EnqueueAnswer.OK, EnqueueAnswer.DUPLICATE_ID}, answer
            self.acknowledged[answer.id] = now
            self._queue_of[answer.id] = answer.queue
            self.acknowledged_in[answer.queue] += 1

    async def lost(self) -> list[str]:
        """The acknowledged jobs that never ran and are not stored."""
        async with self.opened() as broker:
            missing = [id_ for id_ in self.acknowledged if id_ not in self.runs]
            records = await broker.get([JobRef(id_, self._queue_of[id_]) for id_ in missing])
            return [id_ for id_, record in zip(missing, records, strict=True) if record is None]

    async def drain(self, *, within_s: float = SOON_S) -> None:
        """Wait until no job is unfinished."""
        end = time.monotonic() + within_s
        async with self.opened() as broker:
            while left := await unfinished(broker):
                assert time.monotonic() < end, f"unfinished after {within_s} s: {left}"
                await asyncio.sleep(0.05)

    async def expect_all_done_once(self) -> None:
        """Every acknowledged job ends, all have run, and none was settled twice."""
        async with self.working():
            await self.drain()
        assert await self.lost() == []
        assert self.acknowledged.keys() <= self.runs.keys(), "acknowledged and never run"
        assert [id_ for id_, times in self.settled.items() if times > 1] == []


def job(**fields: Any) -> Job:
    """A job of the task `work`, with an id of its own."""
    id_ = new_id()
    return Job(id=id_, task="work", payload=codec.encode({"name": id_}).data, **fields)


async def unfinished(broker: JobStore) -> dict[State, int]:
    """How many jobs of which states have not ended."""
    left: Counter[State] = Counter()
    for queue in await broker.queues():
        left.update({state: n for state, n in queue.counts.items() if n and state not in FINAL})
    return dict(left)
