"""One worker for the bench's jobs: a process of its own, or in this one where it has to be."""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from ropeway.app import Ropeway
from ropeway.bench.tasks import PLACE_VARIABLE
from ropeway.connection import URL_VARIABLE
from ropeway.errors import RopewayError
from ropeway.worker import Worker, WorkerOptions
from ropeway.worker.options import Concurrency
from ropeway.worker.process.main import loop_factory, tune_interpreter

T = TypeVar("T")

STOP_S: Final = 30
LOG_SHOWN: Final = 2_000  # characters of the worker's own words when it fails

Check = Callable[[], None]
"""Raises RopewayError when the worker has ended before its time."""


@asynccontextmanager
async def serving(
    app: Ropeway[Any], *, url: str, queue: str, concurrency: Concurrency, place: Path
) -> AsyncGenerator[Check]:
    """Run one worker on `queue` until the block ends; then stop it gracefully.

    A store that processes share gets a process, started by the command that a user would type;
    a store inside this process gets a worker on this event loop.

    Yields:
        A check to be called while waiting for the worker.
    """
    if app.store.capabilities.shared:
        made = _process(url=url, queue=queue, concurrency=concurrency, place=place)
    else:
        made = _task(app, queue=queue, concurrency=concurrency)
    async with made as check:
        yield check


@asynccontextmanager
async def _task(
    app: Ropeway[Any], *, queue: str, concurrency: Concurrency
) -> AsyncGenerator[Check]:
    worker = Worker(
        app.store,
        app.definitions,
        options=WorkerOptions(queues=(queue,), concurrency=concurrency),
        lifespan=app.lifespan,
    )
    running = asyncio.create_task(worker.run())

    def check() -> None:
        if running.done():
            running.result()
            raise RopewayError("the bench's worker has ended before its work was done")

    try:
        yield check
    finally:
        worker.stop()
        await running


@asynccontextmanager
async def _process(
    *, url: str, queue: str, concurrency: Concurrency, place: Path
) -> AsyncGenerator[Check]:
    log = place / "worker.log"
    command = ("-m", "ropeway", "worker", "ropeway.bench.served:app")
    options = ("--queues", queue, "--concurrency", str(concurrency))
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *command,
            *options,
            stdout=output,
            stderr=output,
            env={**os.environ, URL_VARIABLE: url, PLACE_VARIABLE: str(place)},
        )

    def check() -> None:
        if process.returncode is not None:
            said = log.read_text(errors="replace").strip()[-LOG_SHOWN:]
            raise RopewayError(
                f"the bench's worker ended with code {process.returncode}; it said: {said}"
            )

    try:
        yield check
    finally:
        await _stop(process)


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(STOP_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def run_bench(work: Coroutine[Any, Any, T]) -> T:
    """Run a bench as `ropeway worker` runs: with its event loop and its interpreter's settings."""
    tune_interpreter()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(work)
