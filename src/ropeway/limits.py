"""What operators do about flow control: see the rules in force, change them, take changes back.

A change counts at once for all workers, for jobs that wait already too, and until it is reset.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, TypedDict

import msgspec

from ropeway.broker import JobStore, KeyInfo
from ropeway.errors import ConfigError
from ropeway.flow.options import CircuitBreaker, Concurrency, FlowLimit, RateLimit
from ropeway.flow.rules import (
    QUEUE_PREFIX,
    Breaker,
    GroupRule,
    Limit,
    LimitRule,
    QueueRule,
    Rate,
    Rule,
    RuleInfo,
    Slots,
    kind_of,
)
from ropeway.handle import Link
from ropeway.options import as_choice, as_name, known, queue_policy

_OPTIONS: Final[Mapping[type[Limit], type[FlowLimit]]] = {
    Slots: Concurrency,
    Rate: RateLimit,
    Breaker: CircuitBreaker,
}
_ON_FULL: Final = ("raise", "drop_oldest", "drop_new")  # to wait is a producer's own decision
_OF_QUEUE: Final[Mapping[str, type[Limit]]] = {
    "concurrency": Slots,
    "rate": Rate,
    "breaker": Breaker,
}


class QueueSettings(TypedDict, total=False):
    """What an operator may change of a queue. None lifts it; what is left out stays."""

    max_length: int | None  # pending, scheduled and available jobs together
    on_full: Literal["raise", "drop_oldest", "drop_new"]
    rate: RateLimit | None  # of the whole queue, over all workers
    concurrency: Concurrency | None  # of the whole queue, over all workers and hosts
    breaker: CircuitBreaker | None  # the queue rests after failures in a row


class Limits:
    """The limits of an app's tasks: `app.limits`. Those of whole queues are in `app.queues`."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def list(self) -> list[RuleInfo]:
        """Every limit by name: as the code declares it, an operator's override, the one in force.

        `info.rule` is the one in force.
        """
        return [i for i in await self._link.store.rules() if isinstance(i.rule, LimitRule)]

    async def keys(
        self, name: str, key: str | None = None, *, limit: int = 100
    ) -> Sequence[KeyInfo]:
        """Which jobs hold a limit, how many wait for it, and when it opens by time alone.

        The keys with the most waiting jobs come first; those that nothing holds and nothing waits
        for are left out.

        Args:
            name: the limit's; of a limit of a whole queue: "queue:" and its name.
            key: only this one; None: all.
            limit: how many at most.

        Raises:
            ConfigError: there is no such limit.
        """
        store = self._link.store
        await _required(store, name)
        return await store.keys(name, key=key, limit=limit)

    async def set(self, name: str, limit: FlowLimit, *, force: bool = False) -> RuleInfo:
        """Override the numbers of a limit, at once and until `reset`; the rule as it is then.

            await app.limits.set("fetch.rate", RateLimit(10, per=1))

        Args:
            name: the limit's.
            limit: its numbers; what is limited (`key`, `name`, `scope`) is the code's word.
            force: also when more jobs run than the new limit has slots: they go on, and none
                starts until there is room.

        Raises:
            ConfigError: there is no such limit, it is of another kind, `limit` says more than
                numbers, or more slots are in use than it has (without `force`).
        """
        return await set_limit(self._link.store, name, limit, force=force)

    async def reset(self, name: str) -> bool:
        """Let the code's word count again; whether there was an override.

        Raises:
            ConfigError: there is no such limit.
        """
        return await reset_limit(self._link.store, name)


async def find_rule(store: JobStore, name: str) -> RuleInfo | None:
    """What a store has of the limit of this name, or of "queue:" and the name of a queue."""
    queue = name.removeprefix(QUEUE_PREFIX)
    kind = LimitRule if queue == name else QueueRule
    found = (info for info in await store.rules() if info.rule.name == queue)
    return next((info for info in found if isinstance(info.rule, kind)), None)


def limit_of(rule: Rule, info: KeyInfo) -> Limit | None:
    """The limit that a key is held to; of a queue's own limits the key is named for the kind."""
    if isinstance(rule, LimitRule):
        return rule.limit
    own = rule.limits if isinstance(rule, QueueRule) else ()
    return next((limit for limit in own if limit.__struct_config__.tag == info.key), None)


def words(limit: Limit) -> str:
    """A limit as a person says it: "2 slots", "100 per 60 s, burst 10"."""
    if isinstance(limit, Slots):
        return f"{limit.n} slot{'' if limit.n == 1 else 's'}"
    if isinstance(limit, Rate):
        return f"{limit.n} per {limit.period_ms / 1000:g} s, burst {limit.burst}"
    failures = f"{limit.failures} failure{'' if limit.failures == 1 else 's'} in a row"
    return f"{failures}, then a rest of {limit.cooldown_ms / 1000:g} s"


def rule_words(rule: Rule) -> str:
    """A rule as a person says it."""
    if isinstance(rule, LimitRule):
        return words(rule.limit)
    if isinstance(rule, GroupRule):
        grace, within = rule.grace_ms / 1000, rule.within_ms / 1000
        return f"{rule.size} jobs, {grace:g} s after the last or {within:g} s after the first"
    said = [words(limit) for limit in rule.limits]
    if rule.max_length is not None:
        said.insert(0, f"at most {rule.max_length:,} jobs waiting, then {rule.on_full}")
    return "; ".join(said) or "no bound and no limits"


Rules = dict[tuple[str, str], Rule]
"""The rules of a program's tasks by their kinds and names."""


def add_rules(known: Rules, rules: Iterable[Rule], *, task: str) -> None:
    """Add the rules of a task to those of others.

    Raises:
        ConfigError: another task means something else by one of the names; nothing was added.
    """
    added = {(kind_of(rule), rule.name): rule for rule in rules}
    for place, rule in added.items():
        if known.get(place, rule) != rule:
            raise ConfigError(
                f"task {task!r}: another task means a different limit or scope by the name "
                f"{rule.name!r}: {rule_words(known[place])}, not {rule_words(rule)}; give both one "
                "and the same limit, or two names"
            )
    known |= added


async def set_limit(
    store: JobStore, name: str, limit: FlowLimit, *, force: bool = False
) -> RuleInfo:
    """See `Limits.set`."""
    rule = await _required_limit(store, name)
    wanted = _OPTIONS[type(rule.limit)]
    if type(limit) is not wanted:
        raise ConfigError(
            f"limit {name!r} is one of {words(rule.limit)}; give {wanted.__name__}(...), since "
            "the code says what kind of limit it is"
        )
    if limit.key is not None or limit.name is not None or limit.scope not in ("queue", rule.scope):
        raise ConfigError(
            f"limit {name!r}: key, name and scope are the code's word; give the numbers only"
        )
    await store.override([msgspec.structs.replace(rule, limit=limit.limit())], force=force)
    return await _required(store, name)


async def reset_limit(store: JobStore, name: str) -> bool:
    """See `Limits.reset`."""
    return await store.reset([await _required_limit(store, name)]) > 0


async def set_queue(
    store: JobStore, queue: str, settings: Mapping[str, Any], *, force: bool = False
) -> RuleInfo:
    """See `Queues.set`."""
    known(settings, QueueSettings, what="queue setting")
    if "on_full" in settings:
        as_choice("on_full", settings["on_full"], _ON_FULL)
    if not settings:
        raise ConfigError(f"queue {queue!r}: nothing to change; give max_length or another setting")
    name = QUEUE_PREFIX + as_name("queue", queue)
    info = await find_rule(store, name)
    old = info.rule if info is not None else QueueRule(name=queue)
    assert isinstance(old, QueueRule), "found by its kind"
    options = {option: value for option, value in settings.items() if value is not None}
    if "max_length" not in settings and old.max_length is not None:
        options["max_length"] = old.max_length  # on_full is about it
    new = queue_policy(queue, options).rule
    changed = {_OF_QUEUE[option] for option in settings if option in _OF_QUEUE}
    kept = [limit for limit in old.limits if type(limit) not in changed]
    rule = msgspec.structs.replace(
        new,
        on_full=new.on_full if "on_full" in settings else old.on_full,
        limits=tuple(sorted((*kept, *new.limits), key=_place)),
    )
    await store.override([rule], force=force)
    return await _required(store, name)


async def reset_queue(store: JobStore, queue: str) -> bool:
    """See `Queues.reset`."""
    return await store.reset([QueueRule(name=as_name("queue", queue))]) > 0


def _place(limit: Limit) -> int:
    return list(_OF_QUEUE.values()).index(type(limit))


async def _required(store: JobStore, name: str) -> RuleInfo:
    info = await find_rule(store, name)
    if info is None:
        rules = [info.rule for info in await store.rules()]
        declared = ", ".join(rule.name for rule in rules if isinstance(rule, LimitRule))
        raise ConfigError(
            f"there is no limit {name!r}; declared are {declared or 'none'}. A limit is known once "
            "an app or a worker with its task has opened the store"
        )
    return info


async def _required_limit(store: JobStore, name: str) -> LimitRule:
    rule = (await _required(store, name)).rule
    if not isinstance(rule, LimitRule):
        raise ConfigError(f"{name!r} is a queue's own; change it with `queues`: set or reset")
    return rule
