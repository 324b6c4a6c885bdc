"""A process that writes: `python sqlite_writer.py hang URL POINT | hammer URL SECONDS`.

`hang` writes until it passes the crash point of that name and does nothing more: it then holds
every lock of its transaction. It tells the number of a child that it forks there and that outlives
it, as a handler's may. `hammer` writes all the time, and tells how many jobs it enqueued and how
many seconds the longest call took.
"""

import asyncio
import os
import random
import sys
import threading
import time
from collections.abc import Awaitable
from typing import Any, TypeVar

from ropeway import crash
from ropeway.action import CancelJob
from ropeway.broker import JobStore
from ropeway.brokers.registry import broker_from_url
from ropeway.outcome import Ack, Retry
from ropeway.testing.steps import make_job

T = TypeVar("T")


async def hang(broker: JobStore, point: str) -> None:
    """One call of each kind: whichever passes the point never returns."""

    def listen(passed: str) -> None:
        if passed == point:
            child = os.fork()
            if child:
                print(child, flush=True)
            threading.Event().wait()

    with crash.listening(listen):
        await broker.enqueue([make_job(queue="hung") for _ in range(300)])
        leases = await broker.reserve(["given"], worker="w", limit=300, lease_ms=60_000)
        await broker.settle([Ack(lease=lease) for lease in leases])
        await broker.act([CancelJob(ref=make_job().ref)])


async def hammer(broker: JobStore, seconds: float) -> None:
    """Single and bulk enqueues, reserves and settles, as fast as they are answered."""
    enqueued, waits = 0, [0.0]

    async def timed(call: Awaitable[T]) -> T:
        began = time.monotonic()
        answer = await call
        waits.append(time.monotonic() - began)
        return answer

    async def produce(size: int, pause_s: float) -> None:
        nonlocal enqueued
        while time.monotonic() < until:
            await timed(broker.enqueue([make_job() for _ in range(size)]))
            enqueued += size
            await asyncio.sleep(random.uniform(0, pause_s))

    async def work() -> None:
        while time.monotonic() < until:
            call = broker.reserve(["default"], worker="w", limit=20, lease_ms=60_000)
            outcomes: list[Any] = [
                Ack(lease=lease) if random.random() < 0.9 else Retry(lease=lease, delay_ms=1)
                for lease in await timed(call)
            ]
            await timed(broker.settle(outcomes))

    until = time.monotonic() + seconds
    await asyncio.gather(produce(1, 0), produce(200, 0.05), work())
    print(enqueued, max(waits))


async def main(role: str, url: str, argument: str) -> None:
    broker = broker_from_url(url)
    await broker.open()
    if role == "hang":
        await hang(broker, argument)
    else:
        await hammer(broker, float(argument))
    await broker.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
