"""Jobs under flow control: limited, of tenants, in bounded queues, and gathering for batches."""

import asyncio
from random import Random
from typing import Any, Final

from ropeway.broker import JobStore
from ropeway.errors import BrokerError, Disconnected, QueueFull
from ropeway.flow.rules import Breaker, GroupRule, LimitRule, QueueRule, Rate, Rule, Slots
from ropeway.job import Job, Lease, LimitKey
from ropeway.outcome import Ack
from ropeway.runtime import Runtime
from ropeway.submit import submit
from ropeway.testing.simulation.workload import LEASE_MS, Note, payload

BOUNDED: Final = "bounded"
DROPPING: Final = "dropping"
GATHERING: Final = "gathering"
SERVED: Final = (BOUNDED, DROPPING)
"""The queues of this module that every worker serves."""

SLOTS: Final = Slots(2)
RATE: Final = Rate(4, 1_000, 2)
BREAKER: Final = Breaker(2, 600)
LENGTHS: Final = {BOUNDED: 10, DROPPING: 5}
BATCH: Final = GroupRule(name="gathers", size=3, within_ms=1_500, grace_ms=400)
RULES: Final[tuple[Rule, ...]] = (
    LimitRule(name="slots", limit=SLOTS, scope="app"),
    LimitRule(name="rate", limit=RATE, scope="app"),
    LimitRule(name="breaker", limit=BREAKER),
    QueueRule(name=BOUNDED, max_length=LENGTHS[BOUNDED]),
    QueueRule(name=DROPPING, max_length=LENGTHS[DROPPING], on_full="drop_oldest"),
    BATCH,
)


def make_limited(name: str, random: Random) -> Job:
    """A job of a kind that chance chooses; the end of its id says which."""
    tenant = random.choice("xyz")
    given: dict[str, Any] = {
        "queue": random.choice(SERVED),
        "crash_max": 1_000,
        "fair_key": tenant,
        "fair_weight": 2 if tenant == "x" else 1,
    }
    kind = random.choice(("slots", "slots", "rate", "breaker", "both", "batch"))
    key = random.choice("kl")
    if kind == "batch":
        given = {"queue": GATHERING, "group_key": key, "crash_max": 1_000}
        return Job(id=f"{name}-batch", task=BATCH.name, payload=payload(9), **given)
    names = ("slots", "rate") if kind == "both" else (kind,)
    limits = tuple(LimitKey(limit, key) for limit in names)
    task, most_ms = ("fails", 2) if kind == "breaker" else ("sleeps", 500)
    ms = random.randint(0, most_ms)
    return Job(id=f"{name}-{kind}", task=task, payload=payload(ms), limits=limits, **given)


async def produce_limited(
    who: str, store: JobStore, *, runtime: Runtime, random: Random, note: Note, pause_ms: int
) -> None:
    """Enqueue peaks of jobs, until killed."""
    number = 0
    while True:
        await asyncio.sleep(random.randint(0, 2 * pause_ms) / 1000)
        number += 1
        count = random.choice((1, 1, 2, 6))
        jobs = [make_limited(f"{who}-{number}.{place}", random) for place in range(count)]
        for job in jobs:
            note(who, "send", job.id, delay_ms=0)
        refused: tuple[str, ...] = ()
        try:
            await submit(store, jobs, runtime=runtime)
        except QueueFull as error:
            refused = error.refused
        except BrokerError as error:
            for job in jobs:
                note(who, "unknown", job.id, error=type(error).__name__)
            continue
        for job in jobs:
            if job.id not in refused:
                note(who, "sent", job.id, answer="ok", id=job.id)


async def gather(who: str, store: JobStore, *, runtime: Runtime, note: Note) -> None:
    """Run one batch after the other, until killed."""
    while True:
        try:
            leases = await store.reserve_group(
                [GATHERING], worker=who, lease_ms=LEASE_MS, wait_ms=500
            )
            await _run(who, store, leases, runtime=runtime, note=note)
        except Disconnected:
            await asyncio.sleep(0.05)


async def _run(
    who: str, store: JobStore, leases: list[Lease], *, runtime: Runtime, note: Note
) -> None:
    for lease in leases:
        note(who, "start", lease.job.id, token=lease.token, attempt=lease.attempt)
    await asyncio.sleep(runtime.random.uniform(0, 0.3))
    for lease in leases:
        note(who, "end", lease.job.id, token=lease.token, attempt=lease.attempt, how="ok")
    if leases:
        await store.settle([Ack(lease=lease) for lease in leases])
