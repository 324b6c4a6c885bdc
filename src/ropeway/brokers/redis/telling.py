"""Words to workers, and word of workers."""

import msgspec

from ropeway.broker import SIGNALS_KEPT_MS, WORKER_GONE_MS, Signal, WorkerInfo
from ropeway.brokers.redis import scripts
from ropeway.brokers.redis.shard import Shard

_encode = msgspec.msgpack.Encoder().encode
_decode_signal = msgspec.msgpack.Decoder(Signal).decode
_decode_worker = msgspec.msgpack.Decoder(WorkerInfo).decode


async def send(shard: Shard, signal: Signal) -> None:
    """See `JobStore.send`."""
    await shard.run(scripts.SEND, (SIGNALS_KEPT_MS,), [_encode(signal)])


async def signals(shard: Shard, after: int | None) -> list[Signal]:
    """Those that are there now."""
    asked = (False if after is None else after, SIGNALS_KEPT_MS)
    reply = await shard.run(scripts.SIGNALS, asked)
    return [
        msgspec.structs.replace(_decode_signal(reply[at + 1]), seq=reply[at])
        for at in range(0, len(reply), 2)
    ]


async def next_signals(shard: Shard, after: int | None, wait_ms: int) -> list[Signal]:
    """See `JobStore.signals`."""
    found = await signals(shard, after)
    if found or after is None or wait_ms <= 0:
        return found
    await _wait_for_signal(shard, after, wait_ms / 1000)
    return await signals(shard, after)


async def _wait_for_signal(shard: Shard, after: int, seconds: float) -> None:
    await shard.client.block(
        shard.tag,
        "XREAD",
        "BLOCK",
        str(max(1, int(seconds * 1000))),
        "STREAMS",
        f"{shard.tag}:sg",
        f"{after}-0",
        timeout_s=seconds,
    )


async def heartbeat(shard: Shard, worker: WorkerInfo) -> None:
    """See `JobStore.heartbeat`."""
    await shard.run(scripts.WORKERS, ("beat", worker.id), [_encode(worker)])


async def workers(shard: Shard) -> list[WorkerInfo]:
    """See `JobStore.workers`."""
    reply = await shard.run(scripts.WORKERS, ("list", WORKER_GONE_MS))
    found = [
        msgspec.structs.replace(_decode_worker(reply[at + 1]), seen_at_ms=reply[at])
        for at in range(0, len(reply), 2)
    ]
    return sorted(found, key=lambda worker: (worker.started_at_ms, worker.id))
