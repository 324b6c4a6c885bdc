"""Calls of every kind on jobs of every kind: keys, limits, tenants, batches, parents, streams."""

from random import Random
from typing import Any

import msgspec
from varied_calls import LEASE_MS, QUEUES, VariedCalls

from ropeway.action import EditJob
from ropeway.broker import Entry, JobStore
from ropeway.flow.rules import Breaker, GroupRule, LimitRule, QueueRule, Rate, Rule, Slots
from ropeway.job import Job, JobRef, LimitKey, UniqueKey
from ropeway.testing.manual_clock import ManualClock

LIMITS = ("slots", "rate", "breaker")
FIRST_RULES: tuple[Rule, ...] = (
    LimitRule(name="slots", limit=Slots(1)),
    LimitRule(name="rate", limit=Rate(2, 1_000, 1)),
    LimitRule(name="breaker", limit=Breaker(1, 700)),
    QueueRule(
        name="a", max_length=12, on_full="drop_oldest", limits=(Slots(4), Rate(50, 1_000, 5))
    ),
    GroupRule(name="t", size=3, within_ms=900, grace_ms=300),
)
OTHER_RULES: tuple[Rule, ...] = (
    *FIRST_RULES,
    LimitRule(name="slots", limit=Slots(2)),
    LimitRule(name="rate", limit=Slots(2)),
    LimitRule(name="breaker", limit=Rate(3, 500, 2)),
    QueueRule(name="b", max_length=6, on_full="drop_oldest"),
    QueueRule(name="a", max_length=5, on_full="drop_new", limits=(Breaker(2, 500),)),
)


class BroadCalls(VariedCalls):
    """`VariedCalls` with flow control, edits, ids that are given again."""

    def __init__(self, broker: JobStore, clock: ManualClock, random: Random) -> None:
        super().__init__(broker, clock, random)
        self._steps += [self._reserve_group] * 2
        self._steps += [self._edit, self._declare, self._purge_all, self._append_much]

    def _job(self) -> Job:
        job = super()._job()
        random, fields = self._random, self._flow()
        if random.random() < 0.3:
            fields["priority"] = random.randint(0, 10)
        if random.random() < 0.1:
            fields["deadline_after_ms"] = random.choice([500, 3_000])
        if random.random() < 0.1 and job.unique is None and "unique" not in fields:
            fields["unblocks"] = tuple(
                {JobRef(ref.id) for ref in random.choices(self._refs, k=2)} - {JobRef(job.id)}
            )
        if random.random() < 0.05:
            again = random.choice(self._refs).id
            known = {job.id, *job.parents, *(ref.id for ref in fields.get("unblocks", ()))}
            fields["id"] = job.id if again in known else again
        fields["payload"] = b"{}"
        fields["on_parent_failed"] = random.choice(["cancel", "run", "wait"])
        return msgspec.structs.replace(job, **fields)

    def _flow(self) -> dict[str, Any]:
        random = self._random
        nothing: dict[str, Any] = {"unique": None, "ordering_key": None}
        match random.randrange(6):
            case 0:
                return {**nothing, "ordering_key": random.choice(["", "h", "d"])}
            case 1:
                return {**nothing, "fair_key": random.choice("xy"), "fair_weight": 2}
            case 2:
                return {**nothing, "group_key": random.choice("gh")}
            case 3:
                names = random.sample(LIMITS, random.randint(1, 2))
                limits = tuple(LimitKey(name, random.choice("kl")) for name in names)
                return {**nothing, "limits": limits}
            case 4:
                key = UniqueKey(key=random.choice("kl"), window_ms=1_000, on_conflict="replace")
                return {**nothing, "unique": key}
            case _:
                return {}

    async def _enqueue(self) -> None:
        jobs = [self._job() for _ in range(self._random.choice([1, 1, 1, 8]))]
        call_id = self._random.choice([None, f"call-{self._random.random()}"])
        await self._broker.enqueue(jobs, call_id=call_id)

    async def _reserve_group(self) -> None:
        self._leases += await self._broker.reserve_group(QUEUES, worker="w1", lease_ms=LEASE_MS)

    async def _edit(self) -> None:
        job = self._job()
        if not job.unblocks:
            await self._broker.act(
                [EditJob(ref=JobRef(self._random.choice(self._refs).id), job=job)]
            )

    async def _declare(self) -> None:
        await self._broker.declare([self._random.choice(OTHER_RULES)])

    async def _purge_all(self) -> None:
        await self._broker.purge(self._random.choice(QUEUES))

    async def _append_much(self) -> None:
        data = "x" * self._random.choice([0, 600_000])
        await self._broker.append(
            [Entry(lease=lease, kind="log", at_ms=1, data=data) for lease in self._leases[:2]]
        )
