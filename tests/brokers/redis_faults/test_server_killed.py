"""`kill -9` of Redis: what was acknowledged is there when it is back."""

import asyncio
import random
from pathlib import Path

import pytest
from faulted import Load, until

from ropeway.testing.servers import RedisServer

pytestmark = pytest.mark.anyio


async def test_nothing_acknowledged_is_lost_or_settled_twice_when_the_server_is_killed(
    tmp_path: Path, kills: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with RedisServer(tmp_path, appendfsync="always") as server:
        load = Load(server.url)
        async with load.working(2), load.producing(3):
            for _ in range(kills):
                await asyncio.sleep(random.uniform(0.1, 0.5))
                before = len(load.acknowledged)
                await asyncio.to_thread(server.kill)
                await asyncio.sleep(random.uniform(0, 0.2))
                await asyncio.to_thread(server.start)
                await _acknowledges_more_than(load, before)
        await load.expect_all_done_once()
        with capsys.disabled():
            if kills > 6:
                again = sum(times > 1 for times in load.runs.values())
                print(f"\n{kills} kills, {len(load.acknowledged)} jobs, {again} run again")


async def _acknowledges_more_than(load: Load, before: int) -> None:
    await until(lambda: len(load.acknowledged) > before)
