"""What a worker costs the server while there is nothing to do."""

import asyncio
import time

import psutil
import pytest
from faulted import Load, job, until

from ropeway.testing.servers import RedisServer

pytestmark = pytest.mark.anyio

MEASURED_S = 20.0
SHARE_MAX = 0.03  # it takes 0.2 %


async def test_a_worker_on_a_hundred_idle_queues_costs_the_server_next_to_nothing(
    server: RedisServer,
) -> None:
    load = Load(server.url)
    queues = [f"queue-{number}" for number in range(100)]
    async with load.opened() as broker:
        await broker.enqueue([job(queue=queue) for queue in queues])
        async with load.working(1, queues=queues, lease_ms=10_000):
            await until(lambda: load.runs.total() == len(queues))
            process = psutil.Process(server.pid)
            before, began = process.cpu_times(), time.monotonic()
            await asyncio.sleep(MEASURED_S)
            after, ended = process.cpu_times(), time.monotonic()
    used = (after.user + after.system) - (before.user + before.system)
    print(f"{100 * used / (ended - began):.2f} % of a core")
    assert used / (ended - began) < SHARE_MAX
