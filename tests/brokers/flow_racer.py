"""Processes that race for the same keys, places and slots of one store."""

import asyncio
import multiprocessing
import random
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Final

from ropeway.broker import Filter, JobStore
from ropeway.brokers.redis import RedisBroker
from ropeway.brokers.sqlite import SQLiteBroker
from ropeway.job import UNFINISHED, LimitKey, UniqueKey
from ropeway.outcome import Ack
from ropeway.testing.steps import make_job

PROCESSES: Final = 8
QUEUES: Final = ("q0", "q1", "q2")
_WAIT_S: Final = 300
_LEASE_MS: Final = 60_000
_LOST_LEASE_MS: Final = 200

Told = list[tuple[str, str]]
Where = Path | str
"""A file of SQLite, or a URL of Redis."""
Racer = Callable[[JobStore, int], Awaitable[Told]]

_barriers: list[Barrier] = []


async def unique(broker: JobStore, races: int) -> Told:
    """Enqueue one job of the same key as all others, race after race; the answers."""
    told: Told = []
    for race in range(races):
        job = make_job(unique=UniqueKey(key=f"race-{race}"))
        _barriers[-1].wait(_WAIT_S)
        (answer,) = await broker.enqueue([job])
        told.append((answer.answer.value, answer.id))
    return told


async def bounded(broker: JobStore, races: int) -> Told:
    """Two jobs a race, then one is run, which makes room; the answers."""
    told: Told = []
    for _ in range(races):
        jobs = [make_job(), make_job()]
        _barriers[-1].wait(_WAIT_S)
        told += [(answer.answer.value, answer.id) for answer in await broker.enqueue(jobs)]
        leases = await broker.reserve(["default"], worker="w", limit=1, lease_ms=_LEASE_MS)
        await broker.settle([Ack(lease=lease) for lease in leases])
    return told


async def slots(broker: JobStore, races: int) -> Told:
    """Enqueue jobs of two keys (which are their tasks too), then run whatever there is.

    One lease in twenty is lost.
    """
    keys = [random.choice("kl") for _ in range(races)]
    await broker.enqueue(
        [
            make_job(queue=random.choice(QUEUES), task=key, limits=(LimitKey("slots", key),))
            for key in keys
        ]
    )
    told: Told = []
    _barriers[-1].wait(_WAIT_S)
    while await broker.count(Filter(states=UNFINISHED)):
        queues = random.sample(QUEUES, len(QUEUES))
        leases = await broker.reserve(
            queues, worker="w", limit=random.randint(1, 4), lease_ms=_LOST_LEASE_MS, wait_ms=20
        )
        told += [("started", lease.job.id) for lease in leases]
        await broker.settle([Ack(lease=lease) for lease in leases if random.random() > 0.05])
        await broker.maintain()
    return told


def broker_of(where: Where) -> RedisBroker | SQLiteBroker:
    """One process's broker of the store."""
    if isinstance(where, str):
        return RedisBroker(where)
    return SQLiteBroker(where, durability="fast")


def race(racer: Racer, where: Where, races: int) -> list[Told]:
    """What each process was told, when all of them race together."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(PROCESSES)
    with ProcessPoolExecutor(
        PROCESSES, mp_context=context, initializer=_join, initargs=(barrier,)
    ) as pool:
        runs = [pool.submit(_run, racer, where, races) for _ in range(PROCESSES)]
        return [run.result() for run in runs]


def _join(barrier: Barrier) -> None:
    _barriers.append(barrier)


def _run(racer: Racer, where: Where, races: int) -> Told:
    return asyncio.run(_with_broker(racer, where, races))


async def _with_broker(racer: Racer, where: Where, races: int) -> Told:
    broker = broker_of(where)
    await broker.open()
    try:
        return await racer(broker, races)
    finally:
        await broker.close()
