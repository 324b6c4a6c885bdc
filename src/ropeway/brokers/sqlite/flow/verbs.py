"""Declaring and changing rules, and looking at what they hold back."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

from ropeway.broker import KeyInfo
from ropeway.brokers.sqlite.connection import Connection
from ropeway.brokers.sqlite.flow import rules as table
from ropeway.brokers.sqlite.flow.control import Control
from ropeway.brokers.sqlite.flow.keys import Keys, queue_key
from ropeway.brokers.sqlite.flow.rules import FlowCache, Rules
from ropeway.brokers.sqlite.inspect import Reader
from ropeway.brokers.sqlite.rows import Flag, Stored, load_seqs
from ropeway.brokers.sqlite.step import Step
from ropeway.errors import ConfigError
from ropeway.flow import limit as arithmetic
from ropeway.flow.gate import Gate, KeyId
from ropeway.flow.limit import KeyState
from ropeway.flow.rules import GroupRule, LimitRule, QueueRule, Rule, RuleInfo, Slots, too_few
from ropeway.job import JobRef, State

HOLDERS_SHOWN: Final = 100
_RUNNING = f"SELECT seq FROM jobs WHERE state = 3 AND flags & {Flag.LIMITED} ORDER BY seq"
_UNPARK_ALL = "UPDATE jobs SET blocked = 0, parked_on = NULL WHERE parked_on = ?"
_IDS = "SELECT id FROM limit_keys WHERE name = ?"


class FlowVerbs:
    """The verbs of the contract; the broker gives the ways into its lanes."""

    async def _write(self, verb: Callable[[Step, Any], Any], argument: Any) -> Any:
        raise NotImplementedError

    async def _read(self, verb: Callable[[Reader, Any], Any], argument: Any) -> Any:
        raise NotImplementedError

    async def declare(self, rules: Sequence[Rule]) -> None:
        await self._write(declare, rules)

    async def override(self, rules: Sequence[Rule], *, force: bool = False) -> None:
        await self._write(override, Override(rules, force))

    async def reset(self, rules: Sequence[Rule]) -> int:
        return await self._write(reset, rules)

    async def rules(self) -> list[RuleInfo]:
        return await self._read(infos, None)

    async def keys(self, name: str, *, key: str | None = None, limit: int = 100) -> list[KeyInfo]:
        return await self._read(keys, KeysAsked(name, key, limit))


class Override(NamedTuple):
    """The arguments of one call of `override`."""

    rules: Sequence[Rule]
    force: bool


class KeysAsked(NamedTuple):
    """The arguments of one call of `keys`."""

    name: str
    key: str | None
    limit: int


def declare(step: Step, rules: Sequence[Rule]) -> None:
    """The code's word."""
    before = step.flow.rules
    changed = table.declare(step.sql, rules)
    if changed:
        _follow(step, before, changed)


def override(step: Step, call: Override) -> None:
    """An operator's word."""
    before = step.flow.rules
    if not call.force:
        for rule in call.rules:
            _refuse_too_few(step, rule)
    table.override(step.sql, call.rules)
    _follow(step, before, call.rules)


def reset(step: Step, rules: Sequence[Rule]) -> int:
    """Forget overrides; how many there were."""
    before = step.flow.rules
    count = table.reset(step.sql, rules)
    if count:
        _follow(step, before, rules)
    return count


def _follow(step: Step, before: Rules, changed: Iterable[Rule]) -> None:
    """Bring what is counted in line with rules that changed."""
    flow = step.renewed_flow()
    step.woke = True
    for rule in changed:
        if isinstance(rule, GroupRule):
            flow.groups.changed(rule.name)
        elif isinstance(rule, LimitRule) and rule.name in flow.rules.limits:
            old, new = before.limits.get(rule.name), flow.rules.limits[rule.name]
            if old is None or (type(old.limit), old.scope) != (type(new.limit), new.scope):
                _recount(step, flow, new)
            flow.keys.touch(rule.name)


def _recount(step: Step, flow: Control, rule: LimitRule) -> None:
    """Begin anew with what runs now: the states so far were counted in another way."""
    for (id_,) in step.sql.rows(_IDS, (rule.name,)):
        step.sql.run(_UNPARK_ALL, (id_,))
    flow.keys.forget(rule.name)
    if isinstance(rule.limit, Slots):
        for row in _running(step.sql):
            for key in row.job.limits:
                if key.name == rule.name:
                    id_ = flow.keys.gate.id_of(row.job.queue, key)
                    flow.keys.load([id_])
                    arithmetic.take(rule.limit, flow.keys.gate.state(id_), step.now_ms)


def _running(sql: Connection) -> list[Stored]:
    """The running jobs that have limits."""
    return load_seqs(sql, [seq for (seq,) in sql.rows(_RUNNING)])


def _refuse_too_few(step: Step, rule: Rule) -> None:
    if isinstance(rule, LimitRule):
        found = step.sql.rows("SELECT max(used) FROM limit_keys WHERE name = ?", (rule.name,))
        limits, used = (rule.limit,), found[0][0] or 0
    elif isinstance(rule, QueueRule):
        limits, used = rule.limits, step.count_of(rule.name, State.RUNNING)
    else:
        return
    for limit in limits:
        if isinstance(limit, Slots) and limit.n < used:
            raise ConfigError(too_few(rule, limit.n, used))


# ------------------------------------------------------------------------------ look


def infos(reader: Reader, _: None) -> list[RuleInfo]:
    """All rules, by kind and name."""
    return table.infos(reader.sql)


def keys(reader: Reader, call: KeysAsked) -> list[KeyInfo]:
    """The keys of a limit that hold or wait, those with the most parked jobs first."""
    rules = FlowCache().read(reader.sql)
    known = Keys(reader.sql, rules)
    if call.name.startswith("queue:"):
        found = _keys_of_queue(reader, call.name.removeprefix("queue:"), known, rules)
        return [info for info in found if call.key in (None, info.key)][: call.limit]
    rule = rules.limits.get(call.name)
    if rule is None:
        return []
    ids = known.read_all(call.name)
    holders = _holders(_running(reader.sql), known.gate, call.name)
    found = [
        _info(rule, id_, known.gate.states[id_], holders.get(id_, []), reader.now_ms)
        for id_ in ids
        if call.key in (None, id_.key)
        and not arithmetic.is_idle(rule.limit, known.gate.states[id_], reader.now_ms)
    ]
    found.sort(key=lambda info: (-info.parked, info.queue, info.key))
    return found[: call.limit]


def _holders(running: Iterable[Stored], gate: Gate, name: str) -> dict[KeyId, list[JobRef]]:
    holders: dict[KeyId, list[JobRef]] = {}
    for row in running:
        for id_ in gate.ids(row.job):
            if id_.name == name:
                holders.setdefault(id_, []).append(row.job.ref)
    return holders


def _info(
    rule: LimitRule, id_: KeyId, state: KeyState, holders: Sequence[JobRef], now_ms: int
) -> KeyInfo:
    has_room = arithmetic.room(rule.limit, state, now_ms) > 0
    return KeyInfo(
        name=rule.name,
        queue=id_.queue,
        key=id_.key,
        running=tuple(holders[:HOLDERS_SHOWN]),
        used=len(holders),
        parked=state.parked,
        opens_at_ms=None if has_room else arithmetic.opens_at_ms(rule.limit, state),
    )


def _keys_of_queue(reader: Reader, queue: str, known: Keys, rules: Rules) -> list[KeyInfo]:
    found = reader.sql.rows(
        "SELECT seq FROM jobs WHERE state = 3 AND +queue = ? ORDER BY seq", (queue,)
    )
    seqs = [seq for (seq,) in found]
    shown = load_seqs(reader.sql, seqs[:HOLDERS_SHOWN])
    infos: list[KeyInfo] = []
    for limit in rules.queue(queue).limits:
        id_ = queue_key(queue, limit)
        known.load([id_])
        state = known.gate.states.get(id_, KeyState())
        is_slots = isinstance(limit, Slots)
        opens_ms = arithmetic.opens_at_ms(limit, state)
        infos.append(
            KeyInfo(
                name=f"queue:{queue}",
                queue=queue,
                key=id_.key,
                running=tuple(row.job.ref for row in shown) if is_slots else (),
                used=len(seqs) if is_slots else state.used,
                parked=0,
                opens_at_ms=opens_ms if opens_ms is not None and opens_ms > reader.now_ms else None,
            )
        )
    return infos


def next_group_ms(reader: Reader, queues: Iterable[str]) -> int | None:
    """Milliseconds until a batch of these queues may be ready: 0 is now, None is unknown."""
    soonest: int | None = None
    for queue in queues:
        if reader.sql.rows("SELECT 1 FROM paused WHERE queue = ?", (queue,)):
            continue
        ((ready_ms,),) = reader.sql.rows(
            "SELECT min(ready_ms) FROM groups WHERE queue = ?", (queue,)
        )
        ((due_ms,),) = reader.sql.rows(
            "SELECT min(due_ms) FROM jobs WHERE queue = ? AND state IN (1, 4)", (queue,)
        )
        for at_ms in (ready_ms, due_ms):
            if at_ms is not None:
                left_ms = max(0, at_ms - reader.now_ms)
                soonest = left_ms if soonest is None else min(soonest, left_ms)
    return soonest
