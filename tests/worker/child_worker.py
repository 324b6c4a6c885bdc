"""A worker process for the tests of the supervisor: `python child_worker.py DATABASE [option=n]`.

Each job of the task `note` adds a line to the file that it is given.
"""

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Any

from worker_bench import define

from ropeway.broker import JobStore
from ropeway.brokers.sqlite import SQLiteBroker
from ropeway.context import Context
from ropeway.worker import WorkerOptions
from ropeway.worker.process.exits import EXIT_CONFIG
from ropeway.worker.process.main import Program, run_worker


async def note(ctx: Context[Any], path: str, seconds: float = 0.0) -> int:
    with Path(path).open("a", encoding="utf-8") as file:  # noqa: ASYNC230
        file.write(f"{ctx.job.id} {os.getpid()} {time.time()}\n")
    await asyncio.sleep(seconds)
    return os.getpid()


async def block(path: str, seconds: float) -> None:
    Path(path).write_text("began", encoding="utf-8")  # noqa: ASYNC240
    time.sleep(seconds)  # noqa: ASYNC251 - what the beater must survive


def load() -> Program:
    path = sys.argv[1]
    if path == "refused":
        raise SystemExit(EXIT_CONFIG)

    def broker() -> JobStore:
        return SQLiteBroker(path, durability="fast")

    definitions = [define(note, ctx=True), define(block)]
    return Program(broker=broker(), tasks={d.name: d for d in definitions}, broker_factory=broker)


def main() -> int:
    given = dict(word.split("=") for word in sys.argv[2:])
    options: dict[str, Any] = {name: int(value) for name, value in given.items()}
    processes = options.pop("processes", 1)
    return run_worker(
        load,
        WorkerOptions(concurrency=2, **options),
        processes=processes,
        command=[sys.executable, *sys.argv],
    )


if __name__ == "__main__":
    raise SystemExit(main())
