"""Deduplication in time: periods, and delays that begin anew but not for ever."""

from ropeway.broker import EnqueueAnswer, JobStore
from ropeway.job import WAITING, State, UniqueKey
from ropeway.outcome import Ack
from ropeway.testing.manual_clock import ManualClock
from ropeway.testing.steps import (
    enqueue,
    make_job,
    put,
    record_of,
    settle,
    settle_time,
    take,
    take_one,
)

OK, REPLACED, DUPLICATE = (
    EnqueueAnswer.OK,
    EnqueueAnswer.REPLACED,
    EnqueueAnswer.DUPLICATE_KEY,
)
PERIOD_MS = 60_000


def last_wins(delay_max_ms: int | None = None) -> UniqueKey:
    """The key of a debounced job."""
    return UniqueKey(key="k", during=WAITING, on_conflict="replace", delay_max_ms=delay_max_ms)


class TimedUniqueContract:
    """Unique keys that end with a period, and jobs that are put off."""

    async def test_one_job_a_period_even_after_its_end(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        clock.advance(PERIOD_MS - clock.wall_ms() % PERIOD_MS)  # to the beginning of a period
        key = UniqueKey(key="k", during=frozenset(), period_ms=PERIOD_MS)
        clock.advance(PERIOD_MS - 10)
        await enqueue(broker, unique=key)
        await settle(broker, Ack(lease=await take_one(broker)))
        assert await put(broker, make_job(unique=key)) == [DUPLICATE]
        clock.advance(10)
        await settle_time(broker)
        assert await put(broker, make_job(unique=key)) == [OK]

    async def test_the_last_call_wins_and_the_delay_begins_anew(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        job = await enqueue(broker, unique=last_wins(), delay_ms=1_000, payload=b'{"n":1}')
        clock.advance(900)
        assert await put(
            broker, make_job(unique=last_wins(), delay_ms=1_000, payload=b'{"n":2}')
        ) == [REPLACED]
        clock.advance(999)
        assert await take(broker) == []
        clock.advance(1)
        (lease,) = await take(broker)
        assert (lease.job.id, lease.job.payload) == (job.id, b'{"n":2}')

    async def test_it_is_not_put_off_for_ever(self, broker: JobStore, clock: ManualClock) -> None:
        key = last_wins(2_500)
        job = await enqueue(broker, unique=key, delay_ms=1_000)
        for _ in range(4):
            clock.advance(500)
            await put(broker, make_job(unique=key, delay_ms=1_000))
        assert (await record_of(broker, job)).status.state is State.SCHEDULED
        clock.advance(500)
        assert len(await take(broker)) == 1

    async def test_once_it_runs_the_next_call_waits_by_itself(
        self, broker: JobStore, clock: ManualClock
    ) -> None:
        await enqueue(broker, unique=last_wins(), delay_ms=10)
        clock.advance(10)
        await take_one(broker)
        assert await put(broker, make_job(unique=last_wins(), delay_ms=10)) == [OK]
