"""A small app for the tests: its tasks, and a worker that takes one job and settles it as told."""

from dataclasses import dataclass
from datetime import date

from ropeway import Context, Ropeway, codec
from ropeway.broker import Beat, Entry
from ropeway.job import Failure, Lease, Progress
from ropeway.outcome import Ack, Bury, Cancel, Outcome, Settled


@dataclass
class Report:
    day: date
    lines: int


class Desk:
    """The app, its tasks, and a worker's part played by hand."""

    def __init__(self, app: Ropeway[None]) -> None:
        self.app = app
        self.store = app.store

        @app.task
        async def report(ctx: Context[None], day: date, *, lines: int = 1) -> Report:
            await ctx.progress(1)
            return Report(day, lines)

        @app.task(queue="words", tags=["text"])
        def words(text: str) -> int:
            return len(text.split())

        self.report = report
        self.words = words

    async def take(self, queue: str = "default") -> Lease:
        leases = await self.store.reserve([queue], worker="w", limit=1, lease_ms=60_000)
        assert leases, f"no job is available in {queue}"
        return leases[0]

    async def settle(self, outcome: Outcome) -> None:
        assert await self.store.settle([outcome]) == [Settled.OK]

    async def complete(self, result: object, queue: str = "default") -> None:
        data = codec.encode(result, what="result")
        await self.settle(
            Ack(lease=await self.take(queue), result=data.data, result_codec=data.codec)
        )

    async def fail(
        self, error: str = "ValueError", *, reason: str | None = None, traceback: str = ""
    ) -> None:
        failure = Failure(
            at_ms=0, attempt=1, type=error, message="no such page", traceback=traceback
        )
        await self.settle(Bury(lease=await self.take(), failure=failure, reason=reason))

    async def cancel(self, reason: str) -> None:
        await self.settle(Cancel(lease=await self.take(), reason=reason))

    async def say(self, lease: Lease, *lines: str) -> None:
        await self.store.append(
            [Entry(lease=lease, kind="log", at_ms=0, data=line) for line in lines]
        )

    async def advance(self, lease: Lease, fraction: float) -> None:
        await self.store.extend([Beat(lease=lease, progress=Progress(fraction))], lease_ms=60_000)
