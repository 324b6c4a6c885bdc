"""Group commit, isolation of callers, and processes that share one file."""

import asyncio
import gc
import os
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ropeway import crash
from ropeway.broker import EnqueueAnswer, Filter
from ropeway.brokers.sqlite import SQLiteBroker
from ropeway.brokers.sqlite.connection import Gate
from ropeway.errors import BrokerError, IdConflict
from ropeway.job import Job
from ropeway.outcome import Ack, Settled
from ropeway.testing.steps import enqueue, make_job, record_of, take_one

pytestmark = pytest.mark.anyio


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[SQLiteBroker]:
    broker = SQLiteBroker(tmp_path / "jobs.db", durability="fast")
    await broker.open()
    yield broker
    await broker.close()


def hold_gate(broker: SQLiteBroker) -> threading.Event:
    """Keep every writer of the file waiting until the event is set."""
    held, free = threading.Event(), threading.Event()

    def hold() -> None:
        gate = Gate(broker._path.with_name(broker._path.name + "-gate"))
        with gate.held():
            held.set()
            free.wait(10)
        gate.close()

    threading.Thread(target=hold).start()
    held.wait(10)
    return free


async def test_one_bad_call_of_a_group_fails_alone(broker: SQLiteBroker) -> None:
    taken = await enqueue(broker)
    free = hold_gate(broker)
    calls = [asyncio.create_task(broker.enqueue([make_job()])) for _ in range(10)]
    bad = asyncio.create_task(broker.enqueue([make_job(), make_job(id=taken.id, task="other")]))
    more = [asyncio.create_task(broker.enqueue([make_job()])) for _ in range(10)]
    await asyncio.sleep(0.05)
    free.set()
    with pytest.raises(IdConflict):
        await bad
    for call in calls + more:
        assert (await call)[0].answer is EnqueueAnswer.OK
    assert await broker.count(Filter()) == 21


async def test_a_cancelled_caller_takes_only_itself_out(broker: SQLiteBroker) -> None:
    free = hold_gate(broker)
    first = asyncio.create_task(enqueue(broker))
    await asyncio.sleep(0.05)  # the writer waits at the gate with this one
    given_up = asyncio.create_task(enqueue(broker))
    stays = asyncio.create_task(enqueue(broker))
    await asyncio.sleep(0)
    given_up.cancel()
    free.set()
    await asyncio.gather(first, stays)
    with pytest.raises(asyncio.CancelledError):
        await given_up
    assert await broker.count(Filter()) == 2


async def test_nothing_is_answered_before_it_is_written(broker: SQLiteBroker) -> None:
    free = hold_gate(broker)
    call = asyncio.create_task(enqueue(broker))
    done, _ = await asyncio.wait([call], timeout=0.1)
    assert not done
    assert await broker.count(Filter()) == 0  # looking waits for no writer
    free.set()
    await call


async def test_a_failing_store_reaches_every_caller_of_the_group(broker: SQLiteBroker) -> None:
    opened = broker._opened
    assert opened is not None
    opened.writer._connection.run("PRAGMA query_only = 1")
    calls = [asyncio.create_task(enqueue(broker)) for _ in range(5)]
    answers = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 10)
    assert all(isinstance(answer, BrokerError) for answer in answers)
    opened.writer._connection.run("PRAGMA query_only = 0")
    await enqueue(broker)


async def test_leases_of_a_cancelled_reserve_are_handed_back_uncounted(
    broker: SQLiteBroker,
) -> None:
    job = await enqueue(broker)
    call = asyncio.create_task(take_one(broker))

    def give_up(point: str) -> None:
        if point == "reserve.written":
            call.cancel()

    with crash.listening(give_up), pytest.raises(asyncio.CancelledError):
        await call
    async with asyncio.timeout(10):
        while (await record_of(broker, job)).status.settled_token == 0:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    assert (await take_one(broker)).attempt == 1


async def test_a_call_cancelled_before_its_turn_is_never_made(broker: SQLiteBroker) -> None:
    free = hold_gate(broker)
    call = asyncio.create_task(enqueue(broker))
    await asyncio.sleep(0.05)  # the writer waits at the gate with it
    call.cancel()
    free.set()
    await enqueue(broker)
    assert await broker.count(Filter()) == 1


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_opening_and_closing_leaves_no_thread_and_no_descriptor(tmp_path: Path) -> None:
    async def once() -> None:
        broker = SQLiteBroker(tmp_path / "jobs.db", durability="fast")
        await broker.open()
        await enqueue(broker)
        await broker.close()

    await once()
    gc.collect()
    before = threading.active_count(), descriptors()
    for _ in range(20):
        await once()
    gc.collect()
    assert (threading.active_count(), descriptors()) == before


async def test_a_waiting_reserve_ends_when_the_broker_is_closed(tmp_path: Path) -> None:
    broker = SQLiteBroker(tmp_path / "jobs.db")
    await broker.open()
    call = asyncio.create_task(
        broker.reserve(["default"], worker="w", limit=1, lease_ms=1000, wait_ms=60_000)
    )
    await asyncio.sleep(0.02)
    await broker.close()
    with pytest.raises(BrokerError):
        await asyncio.wait_for(call, 5)


async def test_an_idle_waiter_costs_next_to_no_cpu(broker: SQLiteBroker) -> None:
    await broker.reserve(["default"], worker="w", limit=1, lease_ms=1000, wait_ms=1500)
    before = time.process_time()
    await broker.reserve(["default"], worker="w", limit=1, lease_ms=1000, wait_ms=1000)
    assert time.process_time() - before < 0.05


# ------------------------------------------------------------------------------ processes


CHILD = """
import asyncio, sys
from ropeway.broker import Signal
from ropeway.brokers.sqlite import SQLiteBroker
from ropeway.job import Job

async def enqueue_on_demand(path):
    broker = SQLiteBroker(path)
    await broker.open()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    await broker.enqueue([Job(id="from-afar", task="t")])
    await broker.send(Signal(kind="quiet"))
    await broker.close()

asyncio.run(enqueue_on_demand(sys.argv[1]))
"""


async def start_child(*arguments: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD, *arguments, stdin=pipe, stdout=pipe, stderr=pipe
    )


async def test_a_job_from_another_process_wakes_a_waiter(broker: SQLiteBroker) -> None:
    child = await start_child(str(broker.path))
    assert child.stdin is not None
    assert child.stdout is not None
    assert await child.stdout.readline() == b"ready\n"
    await broker.signals(after=0, wait_ms=1100)  # long enough idle for the slowest polling
    waits = asyncio.gather(
        broker.reserve(["default"], worker="w", limit=1, lease_ms=1000, wait_ms=30_000),
        broker.wait([Job(id="from-afar", task="t").ref], timeout_ms=10),
        broker.signals(after=0, wait_ms=30_000),
    )
    await asyncio.sleep(0.1)
    started = time.monotonic()
    child.stdin.write(b"go\n")
    leases, _, signals = await waits
    assert time.monotonic() - started < 0.5
    assert [lease.job.id for lease in leases] == ["from-afar"]
    assert [signal.kind for signal in signals] == ["quiet"]
    await child.communicate()


async def test_a_job_settled_elsewhere_ends_a_wait(broker: SQLiteBroker) -> None:
    other = SQLiteBroker(broker._path, durability="fast")
    await other.open()
    job = await enqueue(broker, retention_ms=0)
    lease = await take_one(other)
    call = asyncio.create_task(broker.wait([job.ref], timeout_ms=10_000))
    await asyncio.sleep(0.1)
    assert await other.settle([Ack(lease=lease, result=b"7")]) == [Settled.OK]
    (record,) = await asyncio.wait_for(call, 5)
    assert record is not None
    assert record.status.result == b"7"
    await other.close()


def test_a_broker_carried_over_a_fork_says_so(tmp_path: Path) -> None:
    async def fork_and_ask() -> int:
        broker = SQLiteBroker(tmp_path / "jobs.db")
        await broker.open()
        pid = os.fork()
        if pid == 0:
            try:
                await broker.queues()
            except BrokerError as error:
                os._exit(0 if "forked" in str(error) else 2)
            os._exit(3)
        _, status = os.waitpid(pid, 0)  # noqa: ASYNC222 - nothing else runs here
        await broker.close()
        return os.waitstatus_to_exitcode(status)

    assert asyncio.run(fork_and_ask()) == 0
