"""Flow control as a program writes it: `rate=RateLimit(100, 60, key="host")` and its kin."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, cast

from ropeway.duration import to_ms
from ropeway.errors import ConfigError
from ropeway.flow import rules
from ropeway.flow.rules import Scope

Duration = float | timedelta

SMOOTH_MS: Final = 100
"""What a rate may let through at once unless told otherwise: what it allows in this time.

Workers take jobs in batches; without it a fast rate would be throttled to one job a batch.
"""


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most `count` starts per `per`, evenly spaced (GCRA), over all workers.

    - `count`, `per`: so many per this duration (seconds or a timedelta).
    - `key`: the parameter whose value is limited by itself, e.g. `"host"`; None: all together.
    - `burst`: how many may start at once. Default: what the rate allows in 100 ms, at least 1.
    - `name`: default: the task's name and `.rate`. Tasks that name the same limit share it.
    - `scope`: "queue": counted in each queue by itself; "app": over all queues.

    Raises `ConfigError` for numbers that cannot be meant.
    """

    count: int
    per: Duration
    key: str | None = None
    burst: int | None = None
    name: str | None = None
    scope: Scope = "queue"

    def __post_init__(self) -> None:
        """Check the numbers."""
        _checked(self.rule("rate"))

    def limit(self) -> rules.Rate:
        """The limit as a store takes it."""
        count = _whole("count", self.count)
        period_ms = to_ms(self.per, name="per", minimum_ms=1)
        burst = self.burst
        if burst is None:
            burst = max(1, math.floor(count * SMOOTH_MS / period_ms))
        return rules.Rate(count, period_ms, _whole("burst", burst))

    def rule(self, name: str) -> rules.LimitRule:
        """The rule; `name` is used when the limit has none of its own."""
        return _rule(self, name, self.limit())


@dataclass(frozen=True, slots=True)
class Concurrency:
    """At most `slots` running jobs at a time, over all workers and hosts.

    A slot belongs to a running job and ends with its lease, so that a killed worker keeps none.
    `key`, `name` and `scope` are those of `RateLimit`; the default name ends in `.concurrency`.

    Raises `ConfigError` for numbers that cannot be meant.
    """

    slots: int
    key: str | None = None
    name: str | None = None
    scope: Scope = "queue"

    def __post_init__(self) -> None:
        """Check the numbers."""
        _checked(self.rule("concurrency"))

    def limit(self) -> rules.Slots:
        """The limit as a store takes it."""
        return rules.Slots(_whole("slots", self.slots))

    def rule(self, name: str) -> rules.LimitRule:
        """The rule; `name` is used when the limit has none of its own."""
        return _rule(self, name, self.limit())


@dataclass(frozen=True, slots=True)
class CircuitBreaker:
    """After `failures` failed runs in a row no job starts for `cooldown`; then one is tried.

    If the trial succeeds the others follow, if it fails the cooldown begins anew. `key`, `name`
    and `scope` are those of `RateLimit`; the default name ends in `.breaker`.

    Raises `ConfigError` for numbers that cannot be meant.
    """

    failures: int
    cooldown: Duration
    key: str | None = None
    name: str | None = None
    scope: Scope = "queue"

    def __post_init__(self) -> None:
        """Check the numbers."""
        _checked(self.rule("breaker"))

    def limit(self) -> rules.Breaker:
        """The limit as a store takes it."""
        cooldown_ms = to_ms(self.cooldown, name="cooldown", minimum_ms=1)
        return rules.Breaker(_whole("failures", self.failures), cooldown_ms)

    def rule(self, name: str) -> rules.LimitRule:
        """The rule; `name` is used when the limit has none of its own."""
        return _rule(self, name, self.limit())


FlowLimit = RateLimit | Concurrency | CircuitBreaker
"""What limits a task or a queue."""

SUFFIX: Final[Mapping[type[FlowLimit], str]] = {
    RateLimit: "rate",
    Concurrency: "concurrency",
    CircuitBreaker: "breaker",
}


@dataclass(frozen=True, slots=True)
class Fair:
    """Tenants of a queue take turns, however many jobs each of them has waiting.

    - `key`: the parameter whose value is the tenant.
    - `weights`: tenant (a text) → turns it has where others have one, 1 or more; those not named
      have 1.

    Raises `ConfigError` for weights that cannot be meant.
    """

    key: str
    weights: Mapping[str, int] | None = None

    def __post_init__(self) -> None:
        """Check the weights."""
        weights = cast("object", {} if self.weights is None else self.weights)
        if not isinstance(weights, Mapping):
            raise ConfigError(f"weights={weights!r}: give a mapping of tenant to whole number")
        for tenant, weight in cast("Mapping[object, object]", weights).items():
            if not isinstance(tenant, str):
                raise ConfigError(
                    f"weights: {tenant!r} is no text; tenants are known by the text of their key: "
                    f"{str(tenant)!r}"
                )
            as_weight(f"the weight of {tenant!r}", weight)

    def weight_of(self, tenant: str) -> int:
        """The tenant's weight."""
        return self.weights.get(tenant, 1) if self.weights else 1


def as_weight(name: str, value: object) -> int:
    """The value, if it is a fair weight."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1_000_000:
        raise ConfigError(f"{name}={value!r}: give a whole number, 1 to 1,000,000")
    return value


def named(
    limits: Collection[FlowLimit], task: str
) -> tuple[tuple[rules.LimitRule, str | None], ...]:
    """The rules of a task's limits, each with the parameter it takes its key from.

    Raises:
        ConfigError: two of them have one name.
    """
    found: dict[str, tuple[rules.LimitRule, str | None]] = {}
    for limit in limits:
        rule = limit.rule(f"{task}.{SUFFIX[type(limit)]}")
        if rule.name in found:
            raise ConfigError(f"two limits are named {rule.name!r}; give one of them name=")
        found[rule.name] = rule, limit.key
    return tuple(found.values())


def _rule(limit: Any, name: str, arithmetic: rules.Limit) -> rules.LimitRule:
    if limit.scope not in ("queue", "app"):
        raise ConfigError(f"scope={limit.scope!r}: choose 'queue' or 'app'")
    if limit.name is not None:
        name = _name(limit.name)
    return rules.LimitRule(name=name, limit=arithmetic, scope=limit.scope)


def _name(value: object) -> str:
    if not isinstance(value, str) or not value or value != value.strip():
        raise ConfigError(f"name={value!r}: give a text that is not empty, without outer spaces")
    if value.startswith(rules.QUEUE_PREFIX):
        raise ConfigError(
            f"name={value!r}: names with {rules.QUEUE_PREFIX!r} are for the limits of queues; give "
            "another one"
        )
    return value


def _checked(rule: rules.LimitRule) -> None:
    rules.check(rule)


def _whole(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= rules.NUMBER_MAX:
        raise ConfigError(f"{name}={value!r}: give a whole number, 1 to {rules.NUMBER_MAX:,}")
    return value
