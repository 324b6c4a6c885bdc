"""Calls of every kind on one broker, made up from a seed: each one succeeds and most write."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count
from random import Random
from typing import Any

from ropeway.action import BuryJob, CancelJob, DeleteJob, MoveJob, RetryJob, RunNow
from ropeway.broker import Beat, Entry, JobStore, Signal, WorkerInfo
from ropeway.job import Failure, Job, JobRef, Lease, Progress, State, UniqueKey
from ropeway.outcome import Ack, Bury, Cancel, Crashed, Outcome, Release, Retry, Snooze
from ropeway.testing.manual_clock import ManualClock

QUEUES = ("a", "b")
LEASE_MS = 5_000


class VariedCalls:
    """One seeded history. Each step is one transaction of the store, or none."""

    def __init__(self, broker: JobStore, clock: ManualClock, random: Random) -> None:
        self._broker = broker
        self._clock = clock
        self._random = random
        self._ids = count(1)
        self._refs: list[JobRef] = []
        self._leases: list[Lease] = []
        self._steps: list[Callable[[], Awaitable[object]]] = [
            *([self._enqueue] * 5),
            *([self._enqueue_together] * 2),
            *([self._reserve] * 4),
            *([self._settle] * 4),
            *([self._exchange] * 2),
            self._extend,
            self._append,
            self._act,
            self._maintain,
            self._pause_or_resume,
            self._signal,
            self._heartbeat,
            self._restart,
            self._abandon,
            self._purge,
        ]

    async def walk(self, steps: int) -> AsyncIterator[None]:
        """Take so many steps, and stop after each."""
        for _ in range(steps):
            self._clock.advance(self._random.choice([1, 40, 700]))
            await self._random.choice(self._steps)()
            yield

    def _job(self) -> Job:
        random = self._random
        fields: dict[str, Any] = {
            "queue": random.choice(QUEUES),
            "priority": random.choice([0, 0, 5]),
            "payload": random.randbytes(random.choice([10, 10, 200, 9_000])),
            "tags": random.choice([(), ("t",)]),
        }
        match random.randrange(10):
            case 0:
                fields["delay_ms"] = random.choice([500, 5_000])
            case 1:
                fields["unique"] = UniqueKey(key=random.choice("kl"), window_ms=1_000)
            case 2:
                fields["ordering_key"] = "o"
            case 3 if self._refs:
                fields["parents"] = (random.choice(self._refs).id,)
            case 4:
                fields["expires_after_ms"] = 2_000
            case 5:
                fields["retention_ms"] = 0
            case _:
                pass
        job = Job(id=f"job-{next(self._ids)}", task="t", **fields)
        self._refs.append(job.ref)
        return job

    async def _enqueue(self) -> None:
        jobs = [self._job() for _ in range(self._random.choice([1, 1, 1, 8]))]
        await self._broker.enqueue(jobs, call_id=self._random.choice([None, f"call-{jobs[0].id}"]))

    async def _enqueue_together(self) -> None:
        await asyncio.gather(*(self._broker.enqueue([self._job()]) for _ in range(4)))

    async def _reserve(self) -> None:
        self._leases += await self._broker.reserve(
            self._random.choice([("a",), QUEUES, {"a": 2, "b": 1}]),
            worker=self._random.choice(["w1", "w2"]),
            limit=self._random.choice([1, 5]),
            lease_ms=LEASE_MS,
        )

    def _taken(self) -> list[Lease]:
        """Some of the leases held, or lost meanwhile."""
        self._random.shuffle(self._leases)
        size = self._random.choice([1, 2, 5])
        taken, self._leases = self._leases[:size], self._leases[size:]
        return taken

    def _outcomes(self) -> list[Outcome]:
        return [self._outcome(lease) for lease in self._taken()]

    def _outcome(self, lease: Lease) -> Outcome:
        failure = Failure(at_ms=self._clock.wall_ms(), attempt=lease.attempt, type="E", message="m")
        match self._random.randrange(12):
            case 0:
                return Ack(lease=lease, then=(self._job(),))
            case 1 | 2:
                return Retry(lease=lease, delay_ms=300, failure=failure)
            case 3:
                return Bury(lease=lease, failure=failure, reason="r")
            case 4:
                return Snooze(lease=lease, delay_ms=500)
            case 5:
                return Release(lease=lease)
            case 6:
                return Cancel(lease=lease)
            case 7:
                return Crashed(lease=lease)
            case _:
                return Ack(lease=lease, result=self._random.randbytes(20))

    async def _settle(self) -> None:
        await self._broker.settle(self._outcomes())

    async def _exchange(self) -> None:
        _, leases = await self._broker.exchange(
            self._outcomes(), QUEUES, worker="w1", limit=5, lease_ms=LEASE_MS
        )
        self._leases += leases

    async def _extend(self) -> None:
        beats = [
            Beat(lease=lease, progress=Progress(0.5), saved=b"s") for lease in self._leases[:3]
        ]
        await self._broker.extend(beats, lease_ms=LEASE_MS)

    async def _append(self) -> None:
        entries = [
            Entry(lease=lease, kind="log", at_ms=self._clock.wall_ms(), data="a line")
            for lease in self._leases[:2]
        ]
        await self._broker.append(entries)

    async def _act(self) -> None:
        actions: list[Any] = [
            self._random.choice([CancelJob, RetryJob, RunNow, BuryJob, DeleteJob])(ref=ref)
            for ref in self._random.sample(self._refs, min(3, len(self._refs)))
        ]
        if self._refs:
            actions.append(MoveJob(ref=JobRef(self._random.choice(self._refs).id), queue="b"))
        await self._broker.act(actions)

    async def _maintain(self) -> None:
        self._clock.advance(LEASE_MS)
        await self._broker.maintain()

    async def _pause_or_resume(self) -> None:
        change = self._random.choice([self._broker.pause, self._broker.resume, self._broker.resume])
        await change("b")

    async def _signal(self) -> None:
        await self._broker.send(Signal(kind="quiet"))

    async def _heartbeat(self) -> None:
        await self._broker.heartbeat(WorkerInfo(id="w1", host="h", pid=1))

    async def _restart(self) -> None:
        await self._broker.close()
        await self._broker.open()

    async def _abandon(self) -> None:
        await self._broker.abandon(["w2"])

    async def _purge(self) -> None:
        await self._broker.purge("a", states={State.DEAD})
