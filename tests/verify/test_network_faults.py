"""Where a broker is a server, the nemesis disturbs the network of single processes."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from ropeway.verify.faults.fleet import Fleet
from ropeway.verify.faults.nemesis import Nemesis, Sight
from ropeway.verify.faults.network import NETWORK, Network
from ropeway.verify.ledger import Ledger, read
from ropeway.verify.load import Plan, faults_of

pytestmark = pytest.mark.anyio

HERE = Path(__file__).parent
LASTING = {"half_open", "slow", "stall", "refuse", "lost_reply"}


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say each line in capitals."""
    try:
        while line := await reader.readline():
            writer.write(line.upper())
    except ConnectionError:
        pass
    writer.close()


async def test_each_kind_of_fault_hits_a_worker_that_holds_a_lease_and_is_over_afterwards(
    tmp_path: Path,
) -> None:
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"line://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    path = tmp_path / "ledger"
    ledger, network = Ledger(path), Network(url)
    sight = Sight(path)
    env = {"ROPEWAY_VERIFY_LEDGER": str(path), "PYTHONPATH": str(HERE)}
    fleet = Fleet(tmp_path, env, "ropeway.verify.ledger", ledger)
    plan = Plan(url=url, faults=dict.fromkeys(NETWORK, 2), lease_s=0.5)
    async with server:
        try:
            for name in ("worker-0", "worker-1"):
                own = {"ROPEWAY_URL": await network.url_for(name)}
                fleet.add(name, "line_client", env=own)
            await Nemesis(plan, fleet, sight, network).storm()
            over = len(read(path))
            async with asyncio.timeout(20):
                for name in fleet.names("worker"):
                    while not sight.holds(fleet.pid(name)):  # noqa: ASYNC110 - another process
                        await asyncio.sleep(0.01)
        finally:
            fleet.end()
            await network.close()
    faults = [event for event in read(path) if event.what == "fault"]
    assert Counter(fault.kind for fault in faults) == Counter(plan.faults)
    assert {fault.pid for fault in faults} <= {e.pid for e in read(path) if e.what == "up"}
    long_s = 1.5 * plan.lease_s
    assert all(f.until_s - f.at_s >= long_s for f in faults if f.kind in LASTING)
    failed = [event for event in read(path)[:over] if event.what == "fail"]
    for fault in faults:  # but what is only slow: each one is felt
        felt = [e for e in failed if e.pid == fault.pid and fault.at_s <= e.at_s]
        assert felt or fault.kind == "slow", fault
    sight.close()
    ledger.close()


@pytest.mark.parametrize("url", ["sqlite:///x.db", "memory://"])
async def test_without_a_server_there_is_no_network_to_fail(url: str) -> None:
    assert not NETWORK.keys() & faults_of(100, url=url).keys()
    assert await Network(url).url_for("worker-0") == url


async def test_every_fault_of_the_network_is_asked_for_often_enough() -> None:
    faults = faults_of(100, url="line://127.0.0.1:7000/")
    assert (
        Plan(url="line://127.0.0.1:7000/", faults=faults).hits_min.items()
        >= dict.fromkeys(NETWORK, 20).items()
    )
