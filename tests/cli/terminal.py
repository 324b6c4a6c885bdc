"""What the tests of the command line share: an app, a database from the side, answers."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ropeway.broker import JobStore
from ropeway.brokers.sqlite import SQLiteBroker
from ropeway.job import Failure, Job, Lease
from ropeway.outcome import Ack, Bury, Outcome, Retry

T = TypeVar("T")

APP = """
from ropeway import Ropeway

app = Ropeway("sqlite:///ropeway.db?durability=fast")


@app.task(queue="mail", attempts=5)
async def send(to: str, copies: int = 1) -> str:
    return f"sent {copies} to {to}"


@app.task
async def fail() -> None:
    raise ValueError("no such address")


nothing = 3
"""


@dataclass(frozen=True)
class Said:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def json_lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


Cli = Callable[..., Said]


class Store:
    """The database that the commands work on, from the side."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def run(self, work: Callable[[JobStore], Awaitable[T]]) -> T:
        async def opened() -> T:
            broker = SQLiteBroker(self.path, durability="fast")
            await broker.open()
            try:
                return await work(broker)
            finally:
                await broker.close()

        return asyncio.run(opened())

    def add(self, *jobs: Job) -> None:
        self.run(lambda broker: broker.enqueue(jobs))

    def end(self, *jobs: Job, outcome: Callable[[Lease], Outcome]) -> None:
        """Enqueue jobs, reserve them and settle them so."""

        async def work(broker: JobStore) -> None:
            await broker.enqueue(jobs)
            for job in jobs:
                leases = await broker.reserve([job.queue], worker="w", limit=100, lease_ms=60_000)
                await broker.settle([outcome(lease) for lease in leases])

        self.run(work)

    def dead(self, *jobs: Job, error: str = "ValueError") -> None:
        failure = Failure(
            at_ms=1_700_000_000_000,
            attempt=1,
            type=error,
            message="bad url",
            traceback=f"Traceback (most recent call last):\n  …\n{error}: bad url",
        )
        self.end(*jobs, outcome=lambda lease: Bury(lease=lease, failure=failure))

    def completed(self, *jobs: Job, result: bytes = b'"ok"') -> None:
        self.end(*jobs, outcome=lambda lease: Ack(lease=lease, result=result))

    def retryable(self, *jobs: Job, delay_ms: int = 60_000) -> None:
        failure = Failure(at_ms=1, attempt=1, type="TimeoutError", message="slow")
        self.end(
            *jobs, outcome=lambda lease: Retry(lease=lease, delay_ms=delay_ms, failure=failure)
        )
