"""The app that the bench enqueues with, and its worker runs: tasks, one a kind of work."""

import asyncio
import resource
import sys
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Literal

import msgspec

from ropeway.app import Ropeway
from ropeway.bench.ledger import Ledger
from ropeway.context import Context
from ropeway.flow.options import Concurrency, RateLimit
from ropeway.task import Task

PLACE_VARIABLE: Final = "ROPEWAY_BENCH_PLACE"
LEDGER_FILE: Final = "ledger"
USAGE_FILE: Final = "usage.json"

IO_S: Final = 0.01
CPU_STEPS: Final = 12_000  # about half a millisecond of Python
KEY_SLOTS: Final = 10  # of a key of the tasks with a concurrency limit

TaskName = Literal["noop", "sleep1ms", "sync"]
FlowKind = Literal["plain", "rate", "concurrency", "fair"]
WorkKind = Literal["noop", "io", "cpu", "mixed"]
WORK_KINDS: Final[tuple[WorkKind, ...]] = ("noop", "io", "cpu", "mixed")
FLOW_KINDS: Final[tuple[FlowKind, ...]] = ("plain", "rate", "concurrency", "fair")


class Usage(msgspec.Struct, frozen=True):
    """What the worker's process used: CPU seconds while it worked, bytes of memory at its peak."""

    cpu_s: float
    rss_bytes: int


@dataclass(frozen=True)
class Subject:
    """The app of one run, and its tasks by name; each marks the ledger and returns its number."""

    app: Ropeway[Ledger]
    tasks: Mapping[TaskName, Task[[int], int]]
    flow: Mapping[FlowKind, Task[[int, str], int]]
    work: Mapping[WorkKind, Sequence[Task[[int], int]]]  # a job of each in turn


def make_subject(url: str | None, place: Path) -> Subject:
    """An app whose handlers mark the ledger in the folder `place`; without a URL, see `Ropeway`."""
    app = Ropeway(url, lifespan=partial(_measured, place))

    @app.task
    async def noop(ctx: Context[Ledger], number: int) -> int:
        ctx.state.mark(number)
        return number

    @app.task
    async def sleep1ms(ctx: Context[Ledger], number: int) -> int:
        ctx.state.mark(number)
        await asyncio.sleep(0.001)
        return number

    @app.task
    def sync(ctx: Context[Ledger], number: int) -> int:
        ctx.state.mark(number)
        return number

    @app.task
    async def sleep10ms(ctx: Context[Ledger], number: int) -> int:
        ctx.state.mark(number)
        await asyncio.sleep(IO_S)
        return number

    @app.task
    def compute(ctx: Context[Ledger], number: int) -> int:
        ctx.state.mark(number)
        for step in range(CPU_STEPS):
            number ^= step
        return number

    work: dict[WorkKind, Sequence[Task[[int], int]]] = {
        "noop": (noop,),
        "io": (sleep10ms,),
        "cpu": (compute,),
        "mixed": (noop, sleep10ms, compute),
    }
    tasks: dict[TaskName, Task[[int], int]] = {"noop": noop, "sleep1ms": sleep1ms, "sync": sync}
    return Subject(app, tasks, _flow_tasks(app), work)


def _flow_tasks(app: Ropeway[Ledger]) -> Mapping[FlowKind, Task[[int, str], int]]:
    """The same task without flow control, and under each kind of it."""

    @app.task
    async def plain(ctx: Context[Ledger], number: int, _key: str) -> int:
        ctx.state.mark(number)
        return number

    @app.task(rate=RateLimit(1_000_000, 1))
    async def rate(ctx: Context[Ledger], number: int, _key: str) -> int:
        ctx.state.mark(number)
        return number

    @app.task(concurrency=Concurrency(KEY_SLOTS, key="_key"))
    async def concurrency(ctx: Context[Ledger], number: int, _key: str) -> int:
        ctx.state.mark(number)
        return number

    @app.task(fair="_key")
    async def fair(ctx: Context[Ledger], number: int, _key: str) -> int:
        ctx.state.mark(number)
        return number

    return {"plain": plain, "rate": rate, "concurrency": concurrency, "fair": fair}


@asynccontextmanager
async def _measured(place: Path) -> AsyncGenerator[Ledger]:
    """Open the ledger for the handlers; afterwards note what the process used meanwhile."""
    with Ledger(place / LEDGER_FILE) as ledger:
        began_s = time.process_time()
        yield ledger
        usage = Usage(time.process_time() - began_s, _rss_max_bytes())
    (place / USAGE_FILE).write_bytes(msgspec.json.encode(usage))


def _rss_max_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # elsewhere in KiB


def usage_in(place: Path) -> Usage:
    """What the last worker noted."""
    return msgspec.json.decode((place / USAGE_FILE).read_bytes(), type=Usage)
