"""A store with a job of every kind, as text that stays: `python golden_store.py > golden_vN.py`.

Made once for each schema, by the release that writes it, and read by all that come after it.
"""

import asyncio
import base64
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import msgspec

from ropeway.action import CancelJob
from ropeway.broker import Beat, Entry, Filter, JobStore
from ropeway.brokers.redis import RedisBroker
from ropeway.flow.rules import LimitRule, Slots
from ropeway.job import Failure, Job, JobRecord, JobRef, Lease, LimitKey, Progress, UniqueKey
from ropeway.outcome import Ack, Bury, Outcome, Retry, Snooze
from ropeway.testing.servers import RedisServer

COMMANDS = {
    "hash": ("HGETALL", "HSET"),
    "list": ("LRANGE", "RPUSH"),
    "set": ("SMEMBERS", "SADD"),
    "zset": ("ZRANGE", "ZADD"),
    "string": ("GET", "SET"),
}


class Golden(msgspec.Struct):
    """What was stored, and what it means.

    Attributes:
        keys: type and content of each key.
        records: all records, newest first.

    """

    keys: dict[str, tuple[str, list[bytes]]]
    records: list[JobRecord]

    def restore(self, server: RedisServer) -> None:
        """Write it into an empty server."""
        with server.client() as client:
            for key, (kind, values) in self.keys.items():
                words = _scores_first(values) if kind == "zset" else values
                client.call(COMMANDS[kind][1], key, *words)

    @staticmethod
    def read(text: str) -> "Golden":
        """From its text."""
        packed = zlib.decompress(base64.b85decode("".join(text.split())))
        return msgspec.msgpack.decode(packed, type=Golden)

    def text(self) -> str:
        """Lines that fit a module."""
        packed = zlib.compress(msgspec.msgpack.encode(self), 9)
        text = base64.b85encode(packed).decode()
        return "\n".join(text[at : at + 96] for at in range(0, len(text), 96))


def _scores_first(values: list[bytes]) -> list[bytes]:
    return [part for at in range(0, len(values), 2) for part in (values[at + 1], values[at])]


def taken_from(server: RedisServer, records: list[JobRecord]) -> Golden:
    """All keys of a server; streams hold signals only, which do not last."""
    keys: dict[str, tuple[str, list[bytes]]] = {}
    with server.client() as client:
        for name in sorted(cast(list[bytes], client.call("KEYS", "*"))):
            kind = client.text("TYPE", name)
            if kind == "stream":
                continue
            more = {"list": (0, -1), "zset": (0, -1, "WITHSCORES")}.get(kind, ())
            found = client.call(COMMANDS[kind][0], name, *more)
            values = found if isinstance(found, list) else [found]
            keys[name.decode()] = kind, cast(list[bytes], values)
    return Golden(keys, records)


async def filled(broker: JobStore) -> list[JobRecord]:
    """Jobs with every option, in every state; their records."""
    failure = Failure(at_ms=5, attempt=1, type="ValueError", message="no", traceback="at line 1")
    await broker.declare([LimitRule(name="api", limit=Slots(2))])
    jobs: dict[str, Job] = {
        name: Job(id=f"job-{name}", task=f"task.{name}", payload=b'{"n":1}', **fields)
        for name, fields in _kinds().items()
    }
    await broker.enqueue(list(jobs.values()))
    outcomes: dict[str, Callable[[Lease], Outcome]] = {
        "done": lambda lease: Ack(lease=lease, result=b'{"ok":true}'),
        "other": lambda lease: Ack(lease=lease, result=b"\x00raw", result_codec="raw"),
        "retry": lambda lease: Retry(lease=lease, delay_ms=3_600_000, failure=failure),
        "snooze": lambda lease: Snooze(lease=lease, delay_ms=3_600_000, reason="later"),
        "dead": lambda lease: Bury(lease=lease, reason="no attempts left", failure=failure),
    }
    leases = await broker.reserve(["work"], worker="worker-1", limit=20, lease_ms=3_600_000)
    settled: list[Outcome] = []
    for lease in leases:
        name = lease.job.id.removeprefix("job-")
        if name in outcomes:
            settled.append(outcomes[name](lease))
        elif name == "running":
            progress = Progress(fraction=0.5, note="half")
            beat = Beat(lease=lease, progress=progress, saved=b"7")
            await broker.extend([beat], lease_ms=3_600_000)
            await broker.append([Entry(lease=lease, kind="log", at_ms=6, data="a line")])
    await broker.settle(settled)
    await broker.act([CancelJob(ref=JobRef("job-cancelled", "rest"), reason="by hand")])
    await broker.pause("rest")
    return (await broker.find(Filter(), limit=100)).records


def _kinds() -> dict[str, dict[str, Any]]:
    taken = ("done", "other", "retry", "snooze", "dead", "running")
    unique = UniqueKey(key="k", window_ms=3_600_000)
    return {
        **{name: {"queue": "work"} for name in taken},
        "plain": {"queue": "rest"},
        "urgent": {"queue": "rest", "priority": 7},
        "delayed": {"queue": "rest", "delay_ms": 3_600_000},
        "expiring": {"queue": "rest", "expires_after_ms": 10**12, "deadline_after_ms": 10**12},
        "labelled": {"queue": "rest", "tags": ("a", "é"), "headers": {"h": "v"}},
        "unique": {"queue": "rest", "unique": unique, "retention_ms": 5_000},
        "ordered": {"queue": "rest", "ordering_key": "o", "attempt_max": 3, "crash_max": 1},
        "fair": {"queue": "rest", "fair_key": "tenant", "fair_weight": 3, "timeout_ms": 900},
        "limited": {"queue": "rest", "limits": (LimitKey("api", "x"),)},
        "child": {"queue": "rest", "parents": ("job-plain",), "on_parent_failed": "wait"},
        "cancelled": {"queue": "rest"},
    }


async def main() -> None:
    """Print the module."""
    with RedisServer(Path(tempfile.mkdtemp())) as server:
        broker = RedisBroker(server.url)
        await broker.open()
        records = await filled(broker)
        await broker.close()
        golden = taken_from(server, records)
    sys.stdout.write('"""Written by `golden_store.py`; not to be changed."""\n\nTEXT = """\\\n')
    sys.stdout.write(f'{golden.text().replace(chr(92), chr(92) * 2)}\n"""\n')


if __name__ == "__main__":
    asyncio.run(main())
