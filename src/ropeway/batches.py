"""What a batch task says about its items: when they become a batch, and which of them gather."""

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from ropeway.duration import to_ms
from ropeway.errors import ConfigError
from ropeway.flow.rules import GroupRule, check
from ropeway.options import as_int
from ropeway.signature import ItemParameters, Parameters

ALL_TOGETHER: Final = "*"
"""The group key of a task that names none."""

SIZE: Final = 100
SIZE_MAX: Final = 10_000
"""As many jobs as one call of a store takes."""
WITHIN_S: Final = 2.0
GRACE_PART: Final = 4
"""A quarter of `within` without a new item: the burst is over, and waiting on would gain little."""

_CONTRADICTIONS: Final[Mapping[str, str]] = {
    "unique": "each item of a batch is a job, and none of them may be refused as a duplicate",
    "ordering": "the jobs of a batch run together, so they cannot run one after the other",
    "fair": "batches are handed out by the key that they gather by, not by turns of tenants",
    "rate": "a limit is for jobs that start one by one",
    "concurrency": "a limit is for jobs that start one by one",
    "breaker": "a limit is for jobs that start one by one",
    "ack": "each item of a batch is acknowledged by what the call says of it",
    "process": "a batch runs on the event loop (async def) or in a thread (def)",
}


def refuse_contradictions(options: Mapping[str, Any]) -> None:
    """Raise ConfigError for an option of other tasks that cannot be meant for a batch."""
    for name, why in _CONTRADICTIONS.items():
        if name in options:
            raise ConfigError(
                f"a batch task takes no {name}={options[name]!r}: {why}; leave it out"
            )


def rule(name: str, options: Mapping[str, Any]) -> GroupRule:
    """When the items of the task become a batch.

    Raises:
        ConfigError: a size that is not within 1..10,000, a time below 1 ms, or a grace that is
            longer than `within`.
    """
    size = as_int("size", options.get("size", SIZE), least=1, most=SIZE_MAX)
    within_ms = to_ms(options.get("within", WITHIN_S), name="within", minimum_ms=1)
    grace = options.get("grace")
    grace_ms = max(1, within_ms // GRACE_PART)
    if grace is not None:
        grace_ms = to_ms(grace, name="grace", minimum_ms=1)
        if grace_ms > within_ms:
            raise ConfigError(
                f"grace={grace!r} is longer than within={options.get('within', WITHIN_S)!r}, after "
                "which the batch runs anyway; give at most that"
            )
    found = GroupRule(name=name, size=size, within_ms=within_ms, grace_ms=grace_ms)
    check(found)
    return found


def group(parameters: Parameters, key: object) -> Callable[[Any], object] | None:
    """How the key of an item is found; None when all items gather together.

    Raises:
        ConfigError: the function takes no list, or the key is neither a name nor a function, or a
            name that the item's type does not have.
    """
    assert isinstance(parameters, ItemParameters), "only a batch task has items"
    type_ = parameters.item_type_if_known
    if key is None:
        return None
    if callable(key):
        return cast("Callable[[Any], object]", key)
    if not isinstance(key, str) or not key:
        raise ConfigError(f"key={key!r}: name a field of the items, or give a function of an item")
    if not _may_have(type_, key):
        raise ConfigError(
            f"key={key!r}: the items are {inspect.formatannotation(type_)}, which has no such "
            "field; name one that it has, or give a function of an item"
        )

    def field_of(item: Any) -> object:
        is_mapping = isinstance(item, Mapping)
        try:
            return cast("Any", item)[key] if is_mapping else getattr(item, key)
        except (KeyError, AttributeError):
            raise ConfigError(f"key={key!r}: the item {item!r} has no such field") from None

    return field_of


def _may_have(type_: Any, name: str) -> bool:
    """Whether values of this type have the field, as far as the type tells."""
    origin: Any = typing.get_origin(type_) or type_
    if origin in {typing.Union, types.UnionType}:
        return all(_may_have(part, name) for part in typing.get_args(type_))
    if origin is typing.Annotated:
        return _may_have(typing.get_args(type_)[0], name)
    if typing.is_typeddict(origin):
        return name in origin.__required_keys__ | origin.__optional_keys__
    if origin in {object, Any} or not isinstance(origin, type) or issubclass(origin, Mapping):
        return True
    if any(name in getattr(base, "__annotations__", {}) for base in origin.__mro__):
        return True
    found: Any = getattr(cast("Any", origin), name, None)
    return found is not None and not callable(found)
