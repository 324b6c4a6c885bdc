"""Short steps of which tests of a broker are made: make a job, take one, bring it to a state."""

from collections.abc import Iterable
from typing import Any

import msgspec

from ropeway.action import Acted, Action
from ropeway.broker import EnqueueAnswer, Filter, JobStore
from ropeway.job import Job, JobRecord, JobRef, Lease, State, Status
from ropeway.outcome import Ack, Bury, Cancel, Outcome, Retry, Settled
from ropeway.runtime import new_id
from ropeway.testing.manual_clock import ManualClock

QUEUE = "default"
WORKER = "worker-1"
LEASE_MS = 10_000
HOUR_MS = 3_600_000
STALE_TOKEN = 2**40  # a token that no broker has given out


def make_job(**fields: Any) -> Job:
    """A job with a new id and the given fields."""
    given: dict[str, Any] = {"id": new_id(), "task": "test.task", **fields}
    return Job(**given)


async def put(broker: JobStore, *jobs: Job) -> list[EnqueueAnswer]:
    """Enqueue the jobs in one call and return the bare answers."""
    return [enqueued.answer for enqueued in await broker.enqueue(jobs)]


async def enqueue(broker: JobStore, **fields: Any) -> Job:
    """Enqueue one new job, which must be accepted."""
    job = make_job(**fields)
    assert await put(broker, job) == [EnqueueAnswer.OK]
    return job


async def take(
    broker: JobStore,
    *queues: str,
    limit: int = 100,
    lease_ms: int = LEASE_MS,
    worker: str = WORKER,
) -> list[Lease]:
    """Reserve without waiting, from the default queue unless told otherwise."""
    return await broker.reserve(queues or (QUEUE,), worker=worker, limit=limit, lease_ms=lease_ms)


async def take_one(
    broker: JobStore, *queues: str, lease_ms: int = LEASE_MS, worker: str = WORKER
) -> Lease:
    """Reserve one job, which must be there."""
    leases = await take(broker, *queues, limit=1, lease_ms=lease_ms, worker=worker)
    assert len(leases) == 1
    return leases[0]


async def settle(broker: JobStore, outcome: Outcome) -> Settled:
    """Settle one lease."""
    (answer,) = await broker.settle([outcome])
    return answer


async def act(broker: JobStore, action: Action) -> Acted:
    """Ask for one action."""
    (acted,) = await broker.act([action])
    return acted


async def find_record(broker: JobStore, job: Job | JobRef) -> JobRecord | None:
    """The record of a job, or None."""
    ref = job.ref if isinstance(job, Job) else job
    (record,) = await broker.get([ref])
    return record


async def record_of(broker: JobStore, job: Job | JobRef) -> JobRecord:
    """The record of a job, which must be there."""
    record = await find_record(broker, job)
    assert record is not None
    return record


async def status_of(broker: JobStore, job: Job | JobRef) -> Status:
    """The status of a job, which must be there."""
    return (await record_of(broker, job)).status


async def state_of(broker: JobStore, job: Job | JobRef) -> State | None:
    """The state of a job, or None when it has no record."""
    record = await find_record(broker, job)
    return None if record is None else record.status.state


async def all_records(broker: JobStore, where: Filter | None = None) -> list[JobRecord]:
    """Every record that matches, newest first, read page by page."""
    found: list[JobRecord] = []
    cursor: str | None = None
    while True:
        page = await broker.find(where or Filter(), after=cursor, limit=100)
        found += page.records
        cursor = page.cursor
        if cursor is None:
            return found


def ids(items: Iterable[Lease | JobRecord | Job]) -> list[str]:
    """The ids of jobs, in order."""
    return [item.id if isinstance(item, Job) else item.job.id for item in items]


def stale(job: Job) -> Lease:
    """A lease that no broker has given out."""
    return Lease(job=job, attempt=1, token=STALE_TOKEN, expires_at_ms=0)


def with_token(lease: Lease, token: int) -> Lease:
    """The same lease under another token."""
    return msgspec.structs.replace(lease, token=token)


async def crash(broker: JobStore, clock: ManualClock, *queues: str) -> Lease:
    """Take one job, let its lease expire and have it taken back."""
    lease = await take_one(broker, *queues)
    clock.advance(LEASE_MS + 1)
    await broker.maintain()
    return lease


async def restart(broker: JobStore) -> None:
    """Close and open a durable store; another one has nothing to show for it."""
    if broker.capabilities.durable:
        await broker.close()
        await broker.open()


async def settle_time(broker: JobStore) -> None:
    """Call `maintain` until there is nothing more to do now."""
    while (done := await broker.maintain()).more or any(
        (done.promoted, done.expired, done.buried, done.cascaded, done.pruned)
    ):
        pass


async def bring_to(
    broker: JobStore, state: State, *, queue: str = QUEUE, **fields: Any
) -> tuple[Job, Lease]:
    """Make a job and bring it to `state`; waiting times last an hour, leases a day.

    Returns the job and the lease it was last held under; a stale lease if it was never held.
    """
    if state is State.PENDING:
        job = await enqueue(broker, queue=queue, **{"parents": (new_id(),), **fields})
        return job, stale(job)
    if state is State.SCHEDULED:
        job = await enqueue(broker, queue=queue, **{"delay_ms": HOUR_MS, **fields})
        return job, stale(job)
    job = await enqueue(broker, queue=queue, **fields)
    if state is State.AVAILABLE:
        return job, stale(job)
    lease = await take_one(broker, queue, lease_ms=24 * HOUR_MS)
    outcomes: dict[State, Outcome] = {
        State.RETRYABLE: Retry(lease=lease, delay_ms=HOUR_MS),
        State.COMPLETED: Ack(lease=lease),
        State.DEAD: Bury(lease=lease),
        State.CANCELLED: Cancel(lease=lease),
    }
    if state in outcomes:
        assert await settle(broker, outcomes[state]) is Settled.OK
    return job, lease
