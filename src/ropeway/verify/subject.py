"""The app that is verified: `ropeway worker ropeway.verify.subject:app` imports it.

Every handler writes its start and its end into the ledger before it does or returns anything.
Which files and which lease is told by the environment, since a worker has no other caller.
"""

import asyncio
import os
import signal
import threading
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

from ropeway.app import Ropeway
from ropeway.context import Context
from ropeway.flow.options import Concurrency
from ropeway.retry import Backoff
from ropeway.verify.ledger import Ledger
from ropeway.verify.load import LIMIT_SLOTS, RETENTION_S

LEDGER_VARIABLE: Final = "ROPEWAY_VERIFY_LEDGER"
LEASE_VARIABLE: Final = "ROPEWAY_VERIFY_LEASE_S"
WORKER_VARIABLE: Final = "ROPEWAY_VERIFY_WORKER"
"""Set by the worker for the handler processes that it starts."""

LEASE_S: Final = float(os.environ[LEASE_VARIABLE])
STALL_LOOK_S: Final = 0.05

ledger: Ledger = Ledger(
    Path(os.environ[LEDGER_VARIABLE]), pid=int(os.environ.get(WORKER_VARIABLE, os.getpid()))
)


@asynccontextmanager
async def _watched() -> AsyncGenerator[None]:
    os.environ[WORKER_VARIABLE] = str(os.getpid())
    threading.Thread(target=watch_for_stalls, daemon=True).start()
    ledger.note("up")
    yield


def watch_for_stalls() -> None:
    """Note when this process was not running: frozen, or starved by the rest of the machine."""
    before_s = time.monotonic()
    while True:
        time.sleep(STALL_LOOK_S)
        now_s = time.monotonic()
        if now_s - before_s > LEASE_S / 4:
            ledger.note("stall", at_s=before_s, until_s=now_s)
        before_s = now_s


app: Ropeway[None] = Ropeway(
    lifespan=_watched,
    defaults={"crash_max": 10_000, "attempts": 1_000, "retention": RETENTION_S},
)


@contextmanager
def noted(ctx: Context[None]) -> Generator[None]:
    """Note the start and the end of a run, whatever the end is."""
    said = {"job": ctx.job.id, "token": ctx.lease.token}
    ledger.note("start", **said, kind=ctx.job.task, attempt=ctx.attempt)
    try:
        yield
    except Exception as error:
        ledger.note("fail", **said, detail=type(error).__name__)
        raise
    except BaseException as error:
        ledger.note("stop", **said, detail=type(error).__name__)
        raise
    ledger.note("end", **said)


@app.task
async def on_the_loop(ctx: Context[None], work_ms: int) -> int:
    """Wait on the worker's loop; a cancel is seen at once."""
    with noted(ctx):
        await asyncio.sleep(work_ms / 1000)
    return work_ms


@app.task
def in_a_thread(ctx: Context[None], work_ms: int) -> int:
    """Wait in a thread."""
    with noted(ctx):
        time.sleep(work_ms / 1000)
    return work_ms


@app.task(process=True)
def in_a_process(ctx: Context[None], work_ms: int) -> int:
    """Wait in a process of its own."""
    with noted(ctx):
        time.sleep(work_ms / 1000)
    return work_ms


@app.task(retry=Backoff.constant(0.1))
async def fails_once(ctx: Context[None], work_ms: int) -> int:
    """Fail in the first attempt."""
    with noted(ctx):
        await asyncio.sleep(work_ms / 1000)
        if ctx.attempt == 1:
            raise ConnectionError("the first attempt always fails")
    return work_ms


@app.task(concurrency=Concurrency(LIMIT_SLOTS))
async def limited(ctx: Context[None], work_ms: int) -> int:
    """Hold a slot of its key; no more than so many of them run anywhere."""
    with noted(ctx):
        await asyncio.sleep(work_ms / 1000)
    return work_ms


@app.task
async def quiet(ctx: Context[None], work_ms: int) -> int:
    """Hold the lease for a while; after a crash only say that it was started again."""
    with noted(ctx):
        await asyncio.sleep(0 if ctx.lease.crashes or ctx.attempt > 1 else work_ms / 1000)
    return work_ms


@app.task
async def blocks_its_loop(ctx: Context[None], work_ms: int) -> int:
    """Let nothing else run on the worker's loop."""
    with noted(ctx):
        time.sleep(work_ms / 1000)  # noqa: ASYNC251 - it is what is tested
    return work_ms


def _die(ctx: Context[None], *, worker: bool) -> None:
    said = {"job": ctx.job.id, "token": ctx.lease.token}
    ledger.note("start", **said, kind=ctx.job.task, attempt=ctx.attempt)
    ledger.note("die", **said)
    if worker:
        ledger.note("fault", kind="poison", key=ctx.job.id)
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)  # the signal may take a moment to arrive


@app.task
async def kills_on_the_loop(ctx: Context[None], work_ms: int) -> int:
    """Kill the worker."""
    _die(ctx, worker=True)
    return work_ms


@app.task
def kills_in_a_thread(ctx: Context[None], work_ms: int) -> int:
    """Kill the worker, from a thread of it."""
    _die(ctx, worker=True)
    return work_ms


@app.task(process=True)
def kills_its_process(ctx: Context[None], work_ms: int) -> int:
    """Kill the handler's own process; the worker lives."""
    _die(ctx, worker=False)
    return work_ms
