"""Declaring and changing rules."""

from collections.abc import Sequence
from typing import Any

import msgspec

from ropeway.brokers.redis import scripts
from ropeway.brokers.redis.shard import Shard
from ropeway.errors import ConfigError
from ropeway.flow.rules import Rule, RuleInfo, check, kind_of, too_few

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


class _Kept(msgspec.Struct):
    declared: Rule | None = None
    override: Rule | None = None


_decode_kept = msgspec.msgpack.Decoder(_Kept).decode


async def declare(shard: Shard, rules: Sequence[Rule]) -> None:
    """See `JobStore.declare`."""
    await _change(shard, "declare", rules)


async def override(shard: Shard, rules: Sequence[Rule], *, force: bool) -> None:
    """See `JobStore.override`."""
    _refuse(rules, await _change(shard, "override", rules, force=force))


async def check_override(shard: Shard, rules: Sequence[Rule]) -> None:
    """Raise what `override` would raise, and change nothing."""
    _refuse(rules, await _change(shard, "check", rules))


def _refuse(rules: Sequence[Rule], reply: Sequence[Any]) -> None:
    if not reply:
        return
    if reply[0] == "few":
        _, place, slots, used = reply
        rule = rules[int(place) - 1]
        raise ConfigError(too_few(rule, slots, used))
    _, kind, name, *known = reply
    raise ConfigError(f"no {kind} {name!r} is declared; known are: {', '.join(known) or 'none'}")


async def reset(shard: Shard, rules: Sequence[Rule]) -> int:
    """See `JobStore.reset`."""
    head = ["reset", False, *((kind_of(rule), rule.name) for rule in rules)]
    return _decode(await shard.run(scripts.RULES, head))[0]


async def _change(
    shard: Shard, verb: str, rules: Sequence[Rule], *, force: bool = False
) -> list[Any]:
    for rule in rules:
        check(rule)
    head = [verb, force, *((kind_of(rule), rule.name) for rule in rules)]
    return _decode(await shard.run(scripts.RULES, head, [_encode(rule) for rule in rules]))


async def infos(shard: Shard) -> list[RuleInfo]:
    """See `JobStore.rules`."""
    reply = await shard.run(scripts.RULES, ["list", False])
    kept = {reply[at]: _decode_kept(reply[at + 1]) for at in range(0, len(reply), 2)}
    return [
        RuleInfo(declared=kept[name].declared, override=kept[name].override)
        for name in sorted(kept)
    ]
