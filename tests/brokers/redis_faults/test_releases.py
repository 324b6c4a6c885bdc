"""The next release reads what this one wrote; this one refuses what a newer one wrote."""

import golden_v1
import msgspec
import pytest
from faulted import Load, job, unfinished
from golden_store import Golden

from ropeway.action import CancelJob
from ropeway.broker import Filter
from ropeway.brokers.redis import RedisBroker
from ropeway.errors import SchemaMismatch
from ropeway.job import State
from ropeway.outcome import Ack, Settled
from ropeway.testing.servers import RedisServer

pytestmark = pytest.mark.anyio

GOLDEN = Golden.read(golden_v1.TEXT)
STATUSES = "{ropeway}:7:default:s"


async def test_every_record_of_the_first_schema_is_read_back_equal(server: RedisServer) -> None:
    GOLDEN.restore(server)
    async with Load(server.url).opened() as broker:
        found = (await broker.find(Filter(), limit=100)).records
        assert found == GOLDEN.records
        assert await broker.get([record.job.ref for record in found]) == found
        assert {record.status.state for record in found} == set(State)


async def test_a_store_of_the_first_schema_goes_on(server: RedisServer) -> None:
    GOLDEN.restore(server)
    async with Load(server.url).opened() as broker:
        await broker.resume("rest")
        served: list[str] = []
        while leases := await broker.reserve(
            ["work", "rest"], worker="w", limit=10, lease_ms=60_000
        ):
            answers = await broker.settle([Ack(lease=lease) for lease in leases])
            assert answers == [Settled.OK] * len(leases)
            served += [lease.job.id for lease in leases]
            await broker.maintain()
        assert served[0] == "job-urgent"
        assert {"job-plain", "job-child", "job-limited", "job-ordered", "job-fair"} <= set(served)
        await broker.act([CancelJob(ref=record.job.ref) for record in GOLDEN.records])
        await broker.maintain()
        left = await unfinished(broker)
        assert set(left) <= {State.RUNNING}, left


async def test_a_store_of_a_newer_schema_is_refused(server: RedisServer) -> None:
    await (broker := RedisBroker(server.url)).open()
    await broker.close()
    with server.client() as client:
        client.call("HSET", "{ropeway}:m", "v", 2)
    with pytest.raises(SchemaMismatch, match="has schema 2; this release of Ropeway reads 1"):
        await broker.open()


async def test_fields_of_a_status_that_a_newer_release_added_do_not_disturb(
    server: RedisServer,
) -> None:
    async with Load(server.url).opened() as broker:
        jobs = [job(), job()]
        await broker.enqueue(jobs)
        leases = await broker.reserve(["default"], worker="w", limit=2, lease_ms=60_000)
        before = await broker.get([one.ref for one in jobs])
        for one in jobs:
            add_field(server, one.id)
        assert await broker.get([one.ref for one in jobs]) == before
        assert await broker.settle([Ack(lease=lease) for lease in leases]) == [Settled.OK] * 2


def add_field(server: RedisServer, id_: str) -> None:
    with server.client() as client:
        status = client.call("HGET", STATUSES, id_)
        assert isinstance(status, bytes)
        length = int.from_bytes(status[:4], "big")
        head = msgspec.msgpack.decode(status[4 : 4 + length])
        packed = msgspec.msgpack.encode({**head, "not_yet_known": [1, 2]})
        changed = len(packed).to_bytes(4, "big") + packed + status[4 + length :]
        client.call("HSET", STATUSES, id_, changed)
