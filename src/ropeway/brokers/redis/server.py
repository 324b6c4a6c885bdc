"""What the server must be, and what it promises."""

from collections.abc import Awaitable, Callable
from typing import Final

from ropeway.brokers.redis.options import Options
from ropeway.brokers.redis.wire.address import Address
from ropeway.brokers.redis.wire.client import Client
from ropeway.brokers.redis.wire.replies import ReplyError
from ropeway.capabilities import Capabilities
from ropeway.errors import BrokerError, ConfigError, Disconnected, SchemaMismatch

SCHEMA: Final = 1
OLDEST: Final = (6, 2)
CONFIRM_MS: Final = 2_000
_ACKNOWLEDGED: Final = {
    "server": "in the server's memory; on its disk as its appendfsync says",
    "fsync": "on the server's disk (fsync of the AOF) before the answer",
    "replica": "in the memory of the server and of a replica before the answer",
}


def capabilities(address: Address, options: Options) -> Capabilities:
    """What the broker of this URL can do."""
    return Capabilities(
        name="redis",
        durable=True,
        shared=True,
        durability=_ACKNOWLEDGED[options.durability],
        limits=True,
        fair=True,
        groups=True,
    )


async def check(client: Client, tag: str, options: Options) -> None:
    """Refuse a server that cannot keep the promises, and a store of a newer release.

    Raises:
        ConfigError: the server is too old, or may evict jobs.
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


Confirm = Callable[[str], Awaitable[None]]


def confirmation(client: Client, options: Options) -> Confirm | None:
    """What a write waits for before it is acknowledged, beyond the server's answer."""
    if options.durability == "server":
        return None

    async def confirm(tag: str) -> None:
        if options.durability == "replica":
            copies = await client.call(tag, "WAIT", 1, CONFIRM_MS)
            if copies < 1:
                raise Disconnected(
                    f"no replica has confirmed the write within {CONFIRM_MS} ms, so it may be lost "
                    "in a fail-over. Repeat the call; or give durability=server"
                )
            return
        synced, _ = await client.call(tag, "WAITAOF", 1, 0, CONFIRM_MS)
        if synced < 1:
            raise Disconnected(
                f"the server has not written its AOF to disk within {CONFIRM_MS} ms. Repeat the call"
            )

    return confirm
