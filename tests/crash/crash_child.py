"""The processes that are killed: `python crash_child.py produce|work|chain URL LEDGER`.

The ledger is a file of its own, one line an event, written at once: it outlives any kill.
"""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from ropeway.action import CancelJob
from ropeway.broker import Filter, JobStore
from ropeway.brokers.registry import broker_from_url
from ropeway.job import UNFINISHED, Job, JobRef, UniqueKey
from ropeway.offload import Offload
from ropeway.outcome import Ack
from ropeway.submit import submit
from ropeway.testing.simulation.workload import Handlers, payload
from ropeway.worker import Worker, WorkerOptions

LEASE_MS = 600
CHAIN = "chain"  # a queue that no worker serves before its chain role is done
# The payload of "big" and the result of "long" are over this size.
OFFLOAD = Offload(Path(sys.argv[3]).parent / "blobs", above=2)
_ledger = os.open(sys.argv[3], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def note(_who: str, event: str, job: str, **_facts: Any) -> None:
    os.write(_ledger, f"{event} {job}\n".encode())


def calls() -> list[list[Job]]:
    """What the producer enqueues: the same ids each time that it runs."""

    def job(name: str, task: str, ms: int, **fields: Any) -> Job:
        return Job(id=name, task=task, payload=payload(ms), **fields)

    parents = [job(f"parent-{n}", "sleeps", 10) for n in range(2)]
    return [
        [job(f"plain-{n}", "sleeps", 10) for n in range(5)],
        [job("long", "sleeps", LEASE_MS), job("thread", "blocks", 1)],
        [job("fails", "fails", 1), job("snoozes", "snoozes", 50)],
        [job("big", "sleeps", 10)],
        [job("delayed", "instant", 1, delay_ms=300)],
        [job("unique", "sleeps", 10, unique=UniqueKey(key="k"))],
        [job(f"ordered-{n}", "instant", 1, ordering_key="o") for n in range(3)],
        [*parents, job("child", "instant", 1, parents=tuple(p.id for p in parents))],
        [job("first", "instant", 1, queue=CHAIN), job("unwanted", "instant", 1, queue=CHAIN)],
    ]


async def produce(broker: JobStore) -> None:
    for jobs in calls():
        for job in jobs:
            note("", "ask", job.id)
        is_big = jobs[0].id == "big"
        await submit(broker, await OFFLOAD.keep_payloads(jobs) if is_big else jobs)
        for job in jobs:
            note("", "ack", job.id)


async def chain(broker: JobStore) -> None:
    """Acks a job that is followed by another one, and cancels a third."""
    await broker.act([CancelJob(ref=JobRef("unwanted", CHAIN))])
    then = (Job(id="second", task="instant", payload=payload(1)),)
    leases = await broker.reserve([CHAIN], worker="chain", limit=1, lease_ms=LEASE_MS)
    if not leases:  # another one was killed while it held the job
        await asyncio.sleep(LEASE_MS / 1000)
        await broker.maintain()
        leases = await broker.reserve([CHAIN], worker="chain", limit=1, lease_ms=LEASE_MS)
    for lease in leases:
        note("", "start", lease.job.id)
        note("", "end", lease.job.id)
        await broker.settle([Ack(lease=lease, then=then)])


async def work(broker: JobStore, url: str) -> None:
    """A real worker, until every job outside the chain is final."""
    definitions = Handlers("", note, lambda: None).definitions()
    options = WorkerOptions(lease_ms=LEASE_MS, concurrency=4, offload=OFFLOAD)
    worker = Worker(
        broker, definitions, options=options, broker_factory=lambda: broker_from_url(url)
    )
    running = asyncio.create_task(worker.run())
    while await broker.count(Filter(queue="default", states=UNFINISHED)):  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    worker.stop()
    await running


async def main(role: str, url: str) -> None:
    broker = broker_from_url(url)
    await broker.open()
    match role:
        case "produce":
            await produce(broker)
        case "chain":
            await chain(broker)
        case _:
            await work(broker, url)
    await broker.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
