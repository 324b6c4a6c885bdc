"""From a decorated function to a `Definition`, with every check that a declaration allows."""

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from ropeway import batches
from ropeway.context import BatchContext, Context
from ropeway.definition import Definition, Fallback, Kind
from ropeway.duration import to_ms
from ropeway.errors import ConfigError
from ropeway.flow.options import CircuitBreaker, Concurrency, Fair, FlowLimit, RateLimit, named
from ropeway.flow.rules import LimitRule
from ropeway.options import (
    CODECS,
    PARENT_FAILED,
    BatchOptions,
    TaskOptions,
    as_choice,
    as_int,
    as_name,
    as_priority,
    as_tags,
    known,
)
from ropeway.retry import RetryPolicy
from ropeway.signature import ItemParameters, Parameters
from ropeway.task import Task
from ropeway.unique import Unique

_POLICY = {"attempts": "attempts", "retry": "backoff"} | {
    name: name for name in ("never", "only", "free", "rules")
}


def define(
    func: Callable[..., Any], options: Mapping[str, Any], *, kind: type = TaskOptions
) -> Definition:
    """Check a task's options against its function and make its definition.

    Args:
        func: the function as it was written.
        options: of the type `kind` (a TypedDict); durations in seconds or as `timedelta`.
        kind: which options there are.

    Raises:
        ConfigError: an option is unknown or cannot be meant, or the function cannot be a task.
    """
    name = _task_name(func, options)
    where = f"task {name!r}"
    try:
        if kind is BatchOptions:
            batches.refuse_contradictions(options)
        known(options, kind, what="task option")
        return _define(func, name, options, is_batch=kind is BatchOptions)
    except ConfigError as error:
        if where in str(error):
            raise
        raise ConfigError(f"{where}: {error}") from error


def _define(
    func: Callable[..., Any], name: str, options: Mapping[str, Any], *, is_batch: bool
) -> Definition:
    wants_ctx = takes_context(func, BatchContext if is_batch else Context)
    kind_of_parameters = ItemParameters if is_batch else Parameters
    parameters = kind_of_parameters.of(func, skip_first=wants_ctx)
    unique = options.get("unique")
    if unique is not None:
        if not isinstance(unique, Unique):
            raise ConfigError(f"unique={unique!r}: give Unique(...)")
        unique.check_against(parameters.names, task=f"task {name!r}")
    timeout_ms = _ms(options, "timeout", minimum_ms=1)
    soft_ms = _ms(options, "soft_timeout", minimum_ms=1)
    if soft_ms is not None and timeout_ms is not None and soft_ms >= timeout_ms:
        raise ConfigError(
            f"soft_timeout={options['soft_timeout']!r} must be shorter than "
            f"timeout={options['timeout']!r}: it is the warning before it"
        )
    ordering = _parameter(func, parameters, "ordering", options.get("ordering"))
    fair = _fair(func, parameters, options.get("fair"))
    if ordering is not None and fair is not None:
        raise ConfigError(
            f"ordering={ordering!r} and fair={fair.key!r}: jobs cannot both keep their order and "
            "take turns; give one of the two"
        )
    fields: dict[str, Any] = {
        option: check(options[option]) for option, check in _CHECKED.items() if option in options
    }
    policy = {field: options[option] for option, field in _POLICY.items() if option in options}
    return Definition(
        name=name,
        func=func,
        parameters=parameters,
        kind=_kind(func, options),
        wants_ctx=wants_ctx,
        policy=RetryPolicy(**policy),
        timeout_ms=timeout_ms,
        soft_timeout_ms=soft_ms,
        expires_after_ms=_ms(options, "expires"),
        retention_ms=_ms(options, "retention"),
        unique=unique,
        ordering=ordering,
        limits=_limits(func, parameters, name, options),
        fair=fair,
        fallback=_fallback(parameters, options),
        batch=batches.rule(name, options) if is_batch else None,
        group=batches.group(parameters, options.get("key")) if is_batch else None,
        **fields,
    )


_CHECKED: Mapping[str, Callable[[Any], Any]] = {
    "queue": lambda v: as_name("queue", v),
    "priority": as_priority,
    "crash_max": lambda v: as_int("crash_max", v, least=0),
    "ack": lambda v: as_choice("ack", v, ("after", "before")),
    "codec": lambda v: as_choice("codec", v, CODECS),
    "payload_max_bytes": lambda v: as_int("payload_max_bytes", v, least=1),
    "result_max_bytes": lambda v: as_int("result_max_bytes", v, least=1),
    "tags": as_tags,
    "on_parent_failed": lambda v: as_choice("on_parent_failed", v, PARENT_FAILED),
}


def _task_name(func: Callable[..., Any], options: Mapping[str, Any]) -> str:
    if "name" in options:
        return as_name("name", options["name"])
    name = getattr(func, "__name__", None)
    if not name or name == "<lambda>":
        raise ConfigError(f"{func!r} has no name that workers could find it by; give name=")
    return name


def _kind(func: Callable[..., Any], options: Mapping[str, Any]) -> Kind:
    inner = inspect.unwrap(func)
    if inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner):
        raise ConfigError("a task returns one value; this function is a generator (it yields)")
    process = options.get("process", False)
    if not isinstance(process, bool):
        raise ConfigError(f"process={process!r}: give True or False")
    if inspect.iscoroutinefunction(inner):
        if process:
            raise ConfigError(
                "process=True needs a plain `def`: an async function runs on the event loop"
            )
        return "async"
    return "process" if process else "thread"


def _ms(options: Mapping[str, Any], name: str, *, minimum_ms: int = 0) -> int | None:
    value = options.get(name)
    return None if value is None else to_ms(value, name=name, minimum_ms=minimum_ms)


def _parameter(
    func: Callable[..., Any], parameters: Parameters, option: str, name: object
) -> str | None:
    """The name of a parameter with one value, from which an option takes a key."""
    if name is None:
        return None
    if not isinstance(name, str) or name not in parameters.names:
        of = ", ".join(parameters.names) or "none"
        raise ConfigError(f"{option}={name!r}: name one of its parameters ({of})")
    star = inspect.signature(func).parameters[name].kind
    if star in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
        raise ConfigError(f"{option}={name!r}: name a parameter with one value, not *args")
    return name


def _fair(func: Callable[..., Any], parameters: Parameters, given: object) -> Fair | None:
    if given is None:
        return None
    fair = Fair(given) if isinstance(given, str) else given
    if not isinstance(fair, Fair):
        raise ConfigError(f"fair={given!r}: give the name of a parameter, or Fair(...)")
    _parameter(func, parameters, "fair", fair.key)
    return fair


def _limits(
    func: Callable[..., Any], parameters: Parameters, task: str, options: Mapping[str, Any]
) -> tuple[tuple[LimitRule, str | None], ...]:
    limits: list[FlowLimit] = []
    for option, kind in _LIMITS.items():
        given: object = options.get(option, ())
        several = cast("Sequence[object]", given if isinstance(given, (list, tuple)) else (given,))
        for limit in several:
            if not isinstance(limit, kind):
                raise ConfigError(
                    f"{option}={limit!r}: give {kind.__name__}(...) or a list of them"
                )
            _parameter(func, parameters, f"{option} key", limit.key)
            limits.append(limit)
    return named(limits, task)


_LIMITS: Mapping[str, type[FlowLimit]] = {
    "rate": RateLimit,
    "concurrency": Concurrency,
    "breaker": CircuitBreaker,
}


def _fallback(parameters: Parameters, options: Mapping[str, Any]) -> Fallback | None:
    given: object = options.get("fallback")
    if given is None:
        return None
    shown = getattr(given, "__qualname__", repr(given))
    if not callable(given) or isinstance(given, Task):
        raise ConfigError(
            f"fallback={given!r}: give a function; to enqueue a task, do so in that function"
        )
    if options.get("ack") == "before":
        raise ConfigError(
            f'fallback={shown}: with ack="before" a job is completed before it runs, so none '
            "fails for good"
        )
    context = BatchContext if isinstance(parameters, ItemParameters) else Context
    fallback = Fallback(given, takes_context(given, context))
    try:
        parameters.require_same_call(given, skip_first=fallback.wants_ctx)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"fallback={shown}: it is called as the task's function is, with the same arguments; "
            f"{error}"
        ) from error
    return fallback


def takes_context(func: Callable[..., Any], context: type = Context) -> bool:
    """Whether the first parameter is annotated as a `context`, which no caller passes.

    Raises:
        ConfigError: another parameter is annotated so, or the first one as the other kind of
            context: a batch task takes a `BatchContext`, any other a `Context`.
    """
    try:
        parameters = list(inspect.signature(func).parameters.values())
    except (TypeError, ValueError):
        return False  # `Parameters.of` says what is wrong
    for place, parameter in enumerate(parameters):
        if place and _is_context(func, parameter.annotation, context):
            raise ConfigError(
                f"parameter {parameter.name!r} is a {context.__name__}, but only the first one "
                "can be"
            )
        other = Context if context is BatchContext else BatchContext
        if _is_context(func, parameter.annotation, other):
            raise ConfigError(
                f"parameter {parameter.name!r} is a {other.__name__}; the function is given a "
                f"{context.__name__}"
            )
    return bool(parameters) and _is_context(func, parameters[0].annotation, context)


def _is_context(func: Callable[..., Any], annotation: object, context: type) -> bool:
    if isinstance(annotation, str):  # `from __future__ import annotations`
        return _text_is_context(func, annotation, context)
    return (typing.get_origin(annotation) or annotation) is context


def _text_is_context(func: Callable[..., Any], annotation: str, context: type) -> bool:
    """An annotation kept as text: by the name it uses, whatever that is imported as."""
    head = annotation.strip(" '\"").partition("[")[0].strip()
    if head.rpartition(".")[2] == context.__name__:
        return True
    names = cast("dict[str, object]", getattr(inspect.unwrap(func), "__globals__", {}))
    return names.get(head) is context
