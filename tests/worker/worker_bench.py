"""A worker over the memory broker, driven as a user would: enqueue, run, look at the records."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Any

from ropeway import Ropeway, codec
from ropeway.broker import JobStore
from ropeway.definition import Definition
from ropeway.job import Job, JobRecord, JobRef, State
from ropeway.retry import Backoff, RetryPolicy
from ropeway.runtime import SYSTEM, new_id
from ropeway.signature import Parameters
from ropeway.worker import Ended, Worker, WorkerOptions

SOON_S = 8.0  # how long a test waits for what should happen within milliseconds


def define(
    func: Callable[..., Any], *, ctx: bool = False, kind: str | None = None, **fields: Any
) -> Definition:
    """A definition as the app would make it, named like the function."""
    found = "async" if asyncio.iscoroutinefunction(func) else "thread"
    fields.setdefault(
        "policy", RetryPolicy(attempts=3, backoff=Backoff.constant(0.01, jitter=False))
    )
    return Definition(
        name=func.__name__,
        func=func,
        parameters=Parameters.of(func, skip_first=ctx),
        kind=kind or found,  # type: ignore[arg-type]
        wants_ctx=ctx,
        **fields,
    )


async def until(is_so: Callable[[], Any], *, within_s: float = SOON_S) -> None:
    """Wait until something is so, or fail."""
    end = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < end, f"not so within {within_s} s"
        await asyncio.sleep(0.002)


class Bench:
    """A broker, some tasks and short words for what tests do with them.

    Tasks are declared by `app`, as a program would, or defined by `task` with any field.
    """

    def __init__(self, broker: JobStore) -> None:
        self.broker = broker
        self.tasks: dict[str, Definition] = {}
        self.app = Ropeway(broker, defaults={"retry": Backoff.constant(0.01, jitter=False)})

    def task(self, func: Callable[..., Any], **fields: Any) -> Callable[..., Any]:
        definition = define(func, **fields)
        self.tasks[definition.name] = definition
        return func

    async def put(self, task: str | Callable[..., Any], /, **fields: Any) -> JobRef:
        name = task if isinstance(task, str) else task.__name__
        args = fields.pop("args", {})
        payload = fields.pop("payload", None) or codec.encode(args).data
        job = Job(id=new_id(), task=name, payload=payload, **fields)
        await self.broker.enqueue([job])
        return job.ref

    def worker(self, **options: Any) -> Worker:
        broker = options.pop("broker", self.broker)
        lifespan = options.pop("lifespan", None)
        runtime = options.pop("runtime", SYSTEM)
        options = {"lease_ms": 1_000, "grace_ms": 2_000, **options}
        return Worker(
            broker,
            {**self.tasks, **self.app.definitions},
            options=WorkerOptions(**{"hooks": self.app.hooks, **options}),
            lifespan=lifespan,
            rules=self.app.rules,
            runtime=runtime,
        )

    async def burst(self, **options: Any) -> Ended:
        return await self.worker(burst=True, **options).run()

    @contextlib.asynccontextmanager
    async def working(self, **options: Any) -> AsyncGenerator[Worker]:
        worker = self.worker(**options)
        running = asyncio.create_task(worker.run())
        try:
            yield worker
        finally:
            worker.stop_now()
            await asyncio.wait_for(running, SOON_S)

    async def record(self, ref: JobRef) -> JobRecord:
        (record,) = await self.broker.get([ref])
        assert record is not None
        return record

    async def reaches(self, ref: JobRef, *states: State) -> JobRecord:
        """Wait until the job is in one of the states."""
        end = time.monotonic() + SOON_S
        while (record := await self.record(ref)).status.state not in states:
            assert time.monotonic() < end, f"still {record.status.state}: {record.status}"
            await asyncio.sleep(0.002)
        return record

    async def states(self, refs: Iterable[JobRef]) -> list[State]:
        return [(await self.record(ref)).status.state for ref in refs]
