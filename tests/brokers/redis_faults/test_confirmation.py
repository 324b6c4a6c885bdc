"""What confirms a write speaks of that write: never of another connection's, never of none."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from faulted import job, until

from ropeway.broker import EnqueueAnswer
from ropeway.brokers.redis import RedisBroker
from ropeway.errors import Disconnected
from ropeway.runtime import new_id
from ropeway.testing.servers import RedisServer, redis_8, redis_server
from ropeway.verify.faults.proxy import Proxy

pytestmark = pytest.mark.anyio

# Until 7.0 WAIT speaks of all that happened before it, since then of its connection's last write.
BINARIES = {"redis_7_0": redis_server, "redis_8": redis_8}
UNCONFIRMED = "no replica has confirmed the write"


class Pair:
    """A master with one replica."""

    def __init__(self, folder: Path, binary: Path) -> None:
        options = {"repl-diskless-sync-delay": "0"}
        self.master = RedisServer(folder / "master", binary=binary, options=options)
        self.master.start()
        options = {**options, "replicaof": f"127.0.0.1 {self.master.port}"}
        self.replica = RedisServer(folder / "replica", binary=binary, options=options)
        self.replica.start()

    @property
    def is_copying(self) -> bool:
        return "state=online" in self.master.replication().get("slave0", "")


@pytest.fixture(params=BINARIES)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    pair = Pair(tmp_path, BINARIES[request.param]())
    yield pair
    pair.replica.kill()
    pair.master.kill()


@pytest.fixture
async def proxy(pair: Pair) -> AsyncIterator[Proxy]:
    await until(lambda: pair.is_copying)
    async with Proxy("127.0.0.1", pair.master.port) as proxy:
        yield proxy


@pytest.fixture
async def broker(pair: Pair, proxy: Proxy) -> AsyncIterator[RedisBroker]:
    broker = RedisBroker(proxy.url(pair.master.url) + "?durability=replica")
    await broker.open()
    yield broker
    await broker.close()


async def test_a_write_counts_once_a_replica_has_it(pair: Pair, broker: RedisBroker) -> None:
    asked = job()
    (answer,) = await broker.enqueue([asked])
    assert answer.answer is EnqueueAnswer.OK
    with pair.replica.client() as client:
        assert client.call("HEXISTS", "{ropeway}:7:default:j", asked.id) == 1


async def test_a_call_that_is_sent_again_is_not_confirmed_by_its_new_connection(
    pair: Pair, broker: RedisBroker, proxy: Proxy
) -> None:
    pair.replica.pause()
    call_id, asked = new_id(), job()
    with pytest.raises(Disconnected, match=UNCONFIRMED):
        await broker.enqueue([asked], call_id=call_id)
    proxy.cut()
    await asyncio.sleep(0.1)
    with pytest.raises(Disconnected, match=UNCONFIRMED):  # it is remembered, and nothing is written
        await broker.enqueue([asked], call_id=call_id)
    with pytest.raises(Disconnected, match=UNCONFIRMED):  # a duplicate of what may yet be lost
        await broker.enqueue([asked])
    pair.replica.resume()
    (answer,) = await broker.enqueue([asked], call_id=call_id)
    assert answer.answer is EnqueueAnswer.OK


async def test_a_connection_lost_before_the_confirmation_is_a_failure(
    pair: Pair, broker: RedisBroker, proxy: Proxy
) -> None:
    pair.replica.pause()
    asked = job()
    call = asyncio.create_task(broker.enqueue([asked]))
    await asyncio.sleep(0.3)
    with pair.master.client() as client:  # the script has run
        assert client.call("HEXISTS", "{ropeway}:7:default:j", asked.id) == 1
    proxy.cut(reset=True)
    with pytest.raises(Disconnected, match="whether the call was executed is not known"):
        await call


async def test_a_server_that_forgets_the_scripts_confirms_all_the_same(
    pair: Pair, broker: RedisBroker
) -> None:
    await broker.enqueue([job()])
    with pair.master.client() as client:
        client.call("SCRIPT", "FLUSH")
    await broker.enqueue([job()])
    (lease,) = await broker.reserve(["default"], worker="w", limit=1, lease_ms=1_000)
    assert lease.attempt == 1
