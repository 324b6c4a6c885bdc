"""Fair queues: tenants take turns by their weights, whatever each of them has waiting."""

from collections import Counter

from ropeway.action import CancelJob
from ropeway.broker import JobStore
from ropeway.job import Job
from ropeway.outcome import Ack, Retry
from ropeway.testing.contract.flow.queues import drained
from ropeway.testing.manual_clock import ManualClock
from ropeway.testing.steps import act, enqueue, ids, make_job, put, restart, settle, take, take_one


def tenants(jobs: list[Job]) -> str:
    """The tenants of jobs, in order, each by a letter; "-" for a job without."""
    return "".join(job.fair_key or "-" for job in jobs)


def of(tenant: str, n: int, **fields: object) -> list[Job]:
    """Jobs of one tenant."""
    return [make_job(fair_key=tenant, **fields) for _ in range(n)]


class FairContract:
    """Turns."""

    async def test_tenants_take_turns(self, broker: JobStore) -> None:
        await put(broker, *of("a", 4), *of("b", 2), *of("c", 1))
        assert tenants(await drained(broker)) == "abcabaa"

    async def test_a_late_tenant_waits_for_one_job_of_each_other(self, broker: JobStore) -> None:
        await put(broker, *of("a", 300), *of("b", 300))
        for lease in await take(broker, limit=100):
            await settle(broker, Ack(lease=lease))
        single = await enqueue(broker, fair_key="c")
        assert single.id in ids(await take(broker, limit=3))

    async def test_shares_follow_the_weights(self, broker: JobStore) -> None:
        jobs = [*of("a", 300), *of("b", 300, fair_weight=2), *of("c", 300, fair_weight=3)]
        await put(broker, *jobs)
        served = Counter(lease.job.fair_key for lease in await take(broker, limit=300))
        for key, share in (("a", 50), ("b", 100), ("c", 150)):
            assert abs(served[key] - share) <= 6  # 2 % of 300

    async def test_equal_tenants_get_equal_shares_whatever_waits(self, broker: JobStore) -> None:
        await put(broker, *(job for n, key in enumerate("abcdef") for job in of(key, 40 * (n + 1))))
        served = Counter(lease.job.fair_key for lease in await take(broker, limit=120))
        jain = sum(served.values()) ** 2 / (6 * sum(n * n for n in served.values()))
        assert jain >= 0.99

    async def test_priority_goes_before_fairness(self, broker: JobStore) -> None:
        await put(broker, *of("a", 2), *of("b", 2, priority=5))
        assert tenants(await drained(broker)) == "bbaa"

    async def test_an_idle_tenant_saves_up_no_turns(self, broker: JobStore) -> None:
        await put(broker, *of("a", 50))
        for lease in await take(broker, limit=20):
            await settle(broker, Ack(lease=lease))
        await put(broker, *of("b", 5))
        assert tenants(await drained(broker))[:6].count("b") <= 3

    async def test_jobs_without_a_tenant_are_together_one_more(self, broker: JobStore) -> None:
        await put(broker, *of("a", 3))
        await put(broker, *(make_job() for _ in range(3)))
        assert tenants(await drained(broker)) in {"a-a-a-", "-a-a-a"}

    async def test_a_delayed_job_takes_its_turn_when_it_is_due(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        await put(broker, *of("a", 1, delay_ms=1_000), *of("b", 5))
        for lease in await take(broker, limit=2):
            await settle(broker, Ack(lease=lease))
        clock.advance(1_000)
        assert "a" in tenants(await drained(broker))[:2]

    async def test_a_retry_takes_a_new_turn(self, broker: JobStore, clock: ManualClock) -> None:
        await put(broker, *of("a", 3), *of("b", 3))
        first = await take_one(broker)
        await settle(broker, Retry(lease=first, delay_ms=10))
        clock.advance(10)
        order = await drained(broker)
        assert tenants(order)[0] == "b"
        assert order[0].id != first.job.id

    async def test_a_cancelled_job_gives_its_turn_back(self, broker: JobStore) -> None:
        many = of("a", 20)
        await put(broker, *many)
        for job in many:
            await act(broker, CancelJob(ref=job.ref))
        await put(broker, *of("b", 4), *of("a", 4))
        assert tenants(await drained(broker))[:4] in {"baba", "abab"}

    async def test_turns_are_known_after_a_restart(self, broker: JobStore) -> None:
        await put(broker, *of("a", 4))
        await take(broker, limit=2)
        await restart(broker)
        await put(broker, *of("b", 1))
        assert "b" in tenants([lease.job for lease in await take(broker, limit=2)])
