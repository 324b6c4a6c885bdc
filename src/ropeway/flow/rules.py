"""What a store enforces for all its users: limits, bounds of queues, sizes of batches.

Rules are plain records that the code declares and an operator may override; the store keeps both.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from ropeway.errors import ConfigError
from ropeway.job import Job

RATE_MAX_PER_MS = 1_000
"""More starts than this cannot be told apart by a clock that counts milliseconds."""

NUMBER_MAX = 1_000_000_000
"""Of a limit or a bound: more is no limit, and not every store could count it."""

QUEUE_PREFIX = "queue:"
"""Before the name of a queue: the limits of the queue itself."""

OnFull = Literal["refuse", "drop_oldest", "drop_new"]
Scope = Literal["queue", "app"]


class Slots(msgspec.Struct, frozen=True, tag="slots", gc=False):
    """At most `n` jobs run at a time."""

    n: int


class Rate(msgspec.Struct, frozen=True, tag="rate", gc=False):
    """At most `n` starts per `period_ms`, evenly spaced, of which `burst` may come at once.

    In any span of time t there are at most `burst + t * n / period_ms` starts.
    """

    n: int
    period_ms: int
    burst: int


class Breaker(msgspec.Struct, frozen=True, tag="breaker", gc=False):
    """After `failures` failed runs in a row no job starts for `cooldown_ms`; then one is tried."""

    failures: int
    cooldown_ms: int


Limit = Slots | Rate | Breaker


class LimitRule(msgspec.Struct, frozen=True, kw_only=True, tag="limit", gc=False):
    """A limit by its name, to which jobs refer with a key of their own (`Job.limits`).

    It is counted for each key by itself; with the scope "queue" for each queue by itself too.
    """

    name: str
    limit: Limit
    scope: Scope = "queue"


class QueueRule(
    msgspec.Struct, frozen=True, kw_only=True, tag="queue", omit_defaults=True, gc=False
):
    """What holds for a queue as a whole: how long it may grow, and its own limits."""

    name: str
    max_length: int | None = None  # pending, scheduled and available jobs together
    on_full: OnFull = "refuse"
    limits: tuple[Limit, ...] = ()  # at most one of each kind


class GroupRule(msgspec.Struct, frozen=True, kw_only=True, tag="group", gc=False):
    """When the gathered jobs of a batch task, the rule's name, become one batch.

    At `size` jobs, or when none has come for `grace_ms`, or when the first has waited `within_ms`.
    """

    name: str
    size: int
    within_ms: int
    grace_ms: int


Rule = LimitRule | QueueRule | GroupRule


class RuleInfo(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A rule as a store has it."""

    declared: Rule | None  # by the code
    override: Rule | None  # by an operator; it counts until it is reset

    @property
    def rule(self) -> Rule:
        """The one in force."""
        rule = self.override or self.declared
        assert rule is not None, "a store keeps no rule that nobody made"
        return rule


def kind_of(rule: Rule) -> str:
    """What a rule is about: with the name, what tells one rule from all others."""
    return str(rule.__struct_config__.tag)


def check(rule: Rule) -> None:
    """Raise ConfigError when a rule cannot be meant."""
    what = f"{kind_of(rule)} {rule.name!r}"
    if not rule.name:
        raise ConfigError(f"a {kind_of(rule)} rule needs a name")
    if isinstance(rule, LimitRule):
        _check_limit(rule.limit, what)
    elif isinstance(rule, GroupRule):
        _at_least(what, 1, size=rule.size, within_ms=rule.within_ms, grace_ms=rule.grace_ms)
    else:
        if rule.max_length is not None and rule.max_length < 1:
            raise ConfigError(
                f"{what}: max_length={rule.max_length} would take no job at all; give 1 or more, "
                "or pause the queue"
            )
        kinds = [type(limit) for limit in rule.limits]
        if len(set(kinds)) != len(kinds):
            raise ConfigError(f"{what}: give one limit of each kind, not {len(kinds)}")
        for limit in rule.limits:
            _check_limit(limit, what)


def _check_limit(limit: Limit, what: str) -> None:
    if isinstance(limit, Slots):
        _at_least(what, 1, slots=limit.n)
    elif isinstance(limit, Breaker):
        _at_least(what, 1, failures=limit.failures, cooldown_ms=limit.cooldown_ms)
    else:
        _at_least(what, 1, rate=limit.n, period_ms=limit.period_ms, burst=limit.burst)
        if limit.n > RATE_MAX_PER_MS * limit.period_ms:
            raise ConfigError(
                f"{what}: {limit.n} per {limit.period_ms} ms is more than the "
                f"{RATE_MAX_PER_MS} per ms that can be told apart; leave the limit out"
            )


def _at_least(what: str, least: int, **numbers: int) -> None:
    for name, number in numbers.items():
        if number < least:
            raise ConfigError(f"{what}: {name}={number} is too small; give {least} or more")


def refuse_unknown(jobs: Iterable[Job], declared: Mapping[str, LimitRule]) -> None:
    """Raise ConfigError for a job of a limit that nobody has declared."""
    for job in jobs:
        for limit in job.limits:
            if limit.name not in declared:
                raise ConfigError(
                    f"job {job.id}: its limit {limit.name!r} is not declared in this store, so it "
                    "could not be enforced; open the app that declares it, or start one of its "
                    "workers, first"
                )


def too_few(rule: Rule, slots: int, used: int) -> str:
    """What to say of an override that would leave running jobs without a slot."""
    return (
        f"{kind_of(rule)} {rule.name!r}: slots={slots} is fewer than the {used} in use now; give "
        f"{used} or more, or force it: then the jobs that run go on, and none starts meanwhile"
    )
