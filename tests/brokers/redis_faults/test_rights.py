"""The rule of docs/redis.md for a user of its own: it works, and nothing in it is idle."""

import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pytest
from faulted import Load, job

from ropeway.action import CancelJob, MoveJob
from ropeway.broker import Beat, Entry, Filter, JobStore, Signal, WorkerInfo
from ropeway.brokers.redis import RedisBroker
from ropeway.brokers.redis.wire.replies import Refused
from ropeway.flow.rules import LimitRule, Slots
from ropeway.job import LimitKey
from ropeway.outcome import Ack, Retry
from ropeway.testing.servers import RedisServer, redis_8, redis_server, valkey

pytestmark = pytest.mark.anyio

PACKAGE = files("ropeway.brokers.redis")
MANUAL = Path(__file__).parents[3] / "docs" / "redis.md"
BINARIES: dict[str, Callable[[], Path]] = {"7": redis_server, "8": redis_8, "valkey": valkey}
OPTIONAL = {"hello", "client|setname", "info"}  # asked where allowed
SCRIPTS = {"evalsha", "script|load"}
CONFIRMING = {"eval", "wait", "waitaof"}  # of durability=replica and durability=fsync


def documented() -> str:
    """The rule: all after the password."""
    found = re.search(r"ACL SETUSER ropeway on >secret ((?:.|\n)*?)```", MANUAL.read_text("utf-8"))
    assert found is not None
    return " ".join(found[1].replace("\\\n", " ").split())


def used() -> set[str]:
    """The commands in the scripts, and in the code that calls commands by themselves."""
    lua = "\n".join(path.read_text() for path in (PACKAGE / "lua").iterdir())
    python = "\n".join(
        (PACKAGE / name).read_text() for name in ("server.py", "shard.py", "waiting.py", "news.py")
    )
    commands = re.findall(r"(?:call|many)\('([A-Z]+)'", lua)
    commands += re.findall(r"(?:call|block)\(\s*(?:self\._?)?tag,\s*\"([A-Z]+)\"", python)
    return {command.lower() for command in commands} | SCRIPTS


def test_the_rule_has_exactly_the_commands_that_are_used() -> None:
    granted = {word[1:] for word in documented().split() if word.startswith("+")}
    assert granted - OPTIONAL - CONFIRMING - {"blpop", "xread"} == used() - OPTIONAL - {
        "waitaof",
        "blpop",
        "xread",
    }
    assert granted >= OPTIONAL | CONFIRMING | {"blpop", "xread"}


@pytest.mark.parametrize("binary", BINARIES)
async def test_with_the_rule_everything_works(tmp_path: Path, binary: str) -> None:
    rule = documented()
    if binary == "7":
        rule = rule.replace("+waitaof", "")  # it refuses a rule with a command that it lacks
    options = {"user": f"ropeway on >secret {rule}"}
    with RedisServer(tmp_path, binary=BINARIES[binary](), options=options) as server:
        url = server.url_as("ropeway", "secret")
        load = Load(url)
        async with load.working(), load.producing():
            while load.runs.total() < 50:
                await load.drain()
        async with load.opened() as broker:
            await everything(broker)
        if binary != "7":
            await (broker := RedisBroker(f"{url}?durability=fsync")).open()
            await broker.enqueue([job()])
            await broker.close()


@pytest.mark.parametrize("lacking", ["hset", "zadd", "blpop", "script|load"])
async def test_a_right_that_lacks_is_named(tmp_path: Path, lacking: str) -> None:
    options = {"user": f"ropeway on >secret {documented()} -{lacking}"}
    with RedisServer(tmp_path, binary=redis_8(), options=options) as server:
        async with Load(server.url_as("ropeway", "secret")).opened() as broker:
            with pytest.raises(Refused, match=rf"to run the '{re.escape(lacking)}'.*docs/redis.md"):
                await everything(broker)


async def test_a_prefix_that_the_user_may_not_use_is_refused(server: RedisServer) -> None:
    with server.client() as client:
        client.call("ACL", "SETUSER", "ropeway", "on", ">secret", *documented_for_7())
    with pytest.raises(Refused, match="keys"):
        await RedisBroker(f"{server.url_as('ropeway', 'secret')}?prefix=other").open()


def documented_for_7() -> list[str]:
    return [word for word in documented().split() if word != "+waitaof"]


async def everything(broker: JobStore) -> None:
    """Each verb once."""
    await broker.reserve(["empty"], worker="w", limit=1, lease_ms=60_000, wait_ms=10)
    await broker.declare([LimitRule(name="api", limit=Slots(1))])
    held, moved = job(limits=(LimitKey("api"),)), job(delay_ms=60_000)
    await broker.enqueue([job(), job(priority=3), moved, held, job(ordering_key="o")])
    await broker.enqueue([job(parents=(held.id,)), job(fair_key="t"), job(group_key="g")])
    leases = await broker.reserve(["default"], worker="w", limit=5, lease_ms=60_000)
    await broker.extend([Beat(lease=leases[0], saved=b"1")], lease_ms=60_000)
    await broker.append([Entry(lease=leases[0], kind="log", at_ms=1, data="x")])
    await broker.events(leases[0].job.ref)
    await broker.settle([Ack(lease=leases[0]), Retry(lease=leases[1], delay_ms=1)])
    await broker.reserve_group(["default"], worker="w", lease_ms=1_000)
    await broker.wait([moved.ref], timeout_ms=5)
    await broker.act([MoveJob(ref=moved.ref, queue="other"), CancelJob(ref=held.ref)])
    for look in (broker.find(Filter()), broker.peek("default"), broker.keys("api")):
        await look
    await broker.send(Signal(kind="tune"))
    await broker.signals(after=10**15, wait_ms=5)
    await broker.heartbeat(WorkerInfo(id="w", host="", pid=0))
    await broker.workers()
    await broker.pause("default")
    await broker.maintain()
    await broker.abandon(["w"])
    await broker.purge("default")
