"""What the server must be, and what it promises."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from ropeway.brokers.redis.options import Options
from ropeway.brokers.redis.wire.client import Client, Confirmation, Word
from ropeway.brokers.redis.wire.replies import Lost, ReplyError
from ropeway.capabilities import Capabilities
from ropeway.errors import BrokerError, ConfigError, Disconnected, SchemaMismatch

SCHEMA: Final = 1
OLDEST: Final = (6, 2)
CONFIRM_MS: Final = 2_000
UNCONFIRMED: Final = frozenset(
    {
        *("reserve", "reserve_group", "extend", "append", "maintain", "workers", "send", "signals"),
        *("get", "find", "peek", "queues", "keys", "events", "watch", "heard", "outbox"),
    }
)
"""The scripts that acknowledge nothing that must be kept; `durability` holds for all others."""
_MARK: Final = (
    # Full memory refuses the first write of a script if it may need some, and none after it.
    "redis.call('HDEL', KEYS[1], '') return redis.call('HSET', KEYS[1], 'mark', 1)"
)
_ACKNOWLEDGED: Final = {
    "server": "in the server's memory; on its disk as its appendfsync says",
    "fsync": "on the server's disk (fsync of the AOF) before the answer",
    "replica": "in the memory of the server and of a replica before the answer",
}


def capabilities(options: Options, *, app_limits: bool = True) -> Capabilities:
    """What the broker of this URL can do."""
    return Capabilities(
        name="redis",
        durable=True,
        shared=True,
        durability=_ACKNOWLEDGED[options.durability],
        limits=True,
        fair=True,
        groups=True,
        app_limits=app_limits,
    )


async def check(client: Client, tag: str, options: Options) -> None:
    """Refuse a server that cannot keep the promises, and a store of a newer release.

    Raises:
        ConfigError: the server is too old, may evict jobs, or cannot keep the `durability`.
        SchemaMismatch: a newer release wrote there.
    """
    version = client.version
    if version and tuple(map(int, version.split(".")[:2])) < OLDEST:
        raise ConfigError(f"Redis {version} is too old; Ropeway needs 6.2 or newer, or Valkey")
    policy = await _policy(client, tag)
    if policy is not None and policy != "noeviction":
        raise ConfigError(
            f"the server's maxmemory-policy is {policy!r}, so it may delete jobs when its memory "
            "is full. Set it to noeviction: then enqueueing fails instead, and nothing is lost"
        )
    if options.durability == "fsync":
        await _can_sync(client, tag)
    key = f"{tag}:m"
    await client.call(tag, "HSETNX", key, "v", SCHEMA)
    found = int(await client.call(tag, "HGET", key, "v"))
    if found > SCHEMA:
        raise SchemaMismatch(
            f"the store under {tag} has schema {found}; this release of Ropeway reads {SCHEMA}. "
            "Upgrade Ropeway here, or give another ?prefix="
        )


async def _policy(client: Client, tag: str) -> str | None:
    """What the server does when its memory is full; None when it never is, or does not tell."""
    try:
        reply = (await client.call(tag, "INFO", "memory")).decode()
    except (ReplyError, BrokerError) as error:
        if isinstance(error, Disconnected):
            raise
        return None  # the user may lack the right to ask
    told = dict(line.split(":", 1) for line in reply.splitlines() if ":" in line)
    return told.get("maxmemory_policy")


def confirm_writes(client: Client, options: Options) -> None:
    """Have the client confirm what must be more durable than the server's answer says.

    What confirms a script leaves together with it.
    """
    if options.durability == "replica":
        client.confirmation = Confirmation(
            UNCONFIRMED,
            partial(_wait, copies=options.copies),
            partial(_check_replicas, copies=options.copies),
        )
    elif options.durability == "fsync":
        client.confirmation = Confirmation(UNCONFIRMED, _wait_aof, _check_fsync)


def _mark(tag: str) -> tuple[Word, ...]:
    """A write, whatever the script did: WAIT speaks only of what its connection has written.

    The script of a call that is sent again, or of a duplicate, writes nothing; what it answers may
    have been written over another connection, and be on no replica and no disk yet.
    """
    return "EVAL", _MARK, 1, f"{tag}:m"


def _wait(tag: str, *, copies: int) -> list[tuple[Word, ...]]:
    return [_mark(tag), ("WAIT", copies, CONFIRM_MS)]


def _wait_aof(tag: str) -> list[tuple[Word, ...]]:
    return [_mark(tag), ("WAITAOF", 1, 0, CONFIRM_MS)]


def _check_replicas(replies: Sequence[Any], where: str, *, copies: int) -> None:
    confirmed: int = _last(replies, where)
    if confirmed < copies:
        who = "no replica has" if copies == 1 else f"{confirmed} of {copies} replicas have"
        raise Lost(
            f"{where}: {who} confirmed the write within {CONFIRM_MS} ms, so a fail-over may lose "
            "it. Repeat the call, and see INFO replication; or give durability=server"
        )


def _check_fsync(replies: Sequence[Any], where: str) -> None:
    synced, _ = _last(replies, where)
    if synced < 1:
        raise Lost(
            f"{where}: the write was not on the disk within {CONFIRM_MS} ms, so a crash may lose "
            "it. Repeat the call, and see INFO persistence; or give durability=server"
        )


def _last(replies: Sequence[Any], where: str) -> Any:
    for reply in replies:
        if isinstance(reply, ReplyError):
            raise Lost(f"{where} does not confirm the write ({reply}). Repeat the call")
    return replies[-1]


async def _can_sync(client: Client, tag: str) -> None:
    """Refuse durability=fsync where the server cannot say when a write is on its disk."""
    try:
        await client.call(tag, "WAITAOF", 1, 0, 1)
    except ReplyError as error:
        if error.message.startswith("unknown command"):
            lack = f"Redis {client.version} has no WAITAOF, which came with Redis 7.2 and Valkey"
        elif "appendonly" in error.message:
            lack = "the server keeps no append-only file (appendonly no)"
        else:
            raise
        raise ConfigError(
            f"durability=fsync: {lack}. Change the server, or give durability=server and let its "
            "appendfsync=always keep what it has acknowledged"
        ) from error
