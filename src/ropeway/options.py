"""The options of tasks and of single jobs: what may be given, and what it becomes in a `Job`.

Durations are seconds or `timedelta` here and integer milliseconds from here on. What cannot be
meant is refused where it was written, with the name of the option and the way out.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypedDict, cast

from ropeway.definition import AckWhen, CodecName
from ropeway.duration import to_ms
from ropeway.errors import ConfigError
from ropeway.flow.options import CircuitBreaker, Concurrency, Fair, RateLimit, as_weight
from ropeway.flow.rules import NUMBER_MAX, Limit, OnFull, QueueRule
from ropeway.job import PRIORITY_MAX, JobRef, OnParentFailed
from ropeway.retry import Backoff, Rule
from ropeway.unique import Unique

Duration = float | timedelta
"""Seconds, or a timedelta."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


class TaskDefaults(TypedDict, total=False):
    """What an app may set for all its tasks; a task's own options win."""

    queue: str
    priority: int  # 0..10, higher first
    timeout: Duration  # of one run; then the handler is stopped
    soft_timeout: Duration  # of one run; then the handler is told
    attempts: int  # runs of a job, the first included
    retry: Backoff  # the waits between them
    never: tuple[type[BaseException], ...]  # give up at once on these
    only: tuple[type[BaseException], ...]  # retry these and no others
    free: tuple[type[BaseException], ...]  # retry these without costing an attempt
    rules: Mapping[type[BaseException], Rule]  # other attempts or waits by exception
    expires: Duration  # not started within: dead, `expired`
    retention: Duration  # of the finished record; 0: removed at once
    crash_max: int  # crashes of its worker that a job survives within 24 h
    codec: CodecName
    payload_max_bytes: int
    result_max_bytes: int
    tags: Sequence[str]
    on_parent_failed: OnParentFailed


class TaskOptions(TaskDefaults, total=False):
    """The options of `@app.task(...)`."""

    name: str  # default: the function's name
    unique: Unique
    ordering: str  # the parameter whose value orders the jobs: one at a time, first come first
    rate: RateLimit | Sequence[RateLimit]  # starts per time, over all workers
    concurrency: Concurrency | Sequence[Concurrency]  # running jobs, over all workers
    breaker: CircuitBreaker | Sequence[CircuitBreaker]  # a pause after failures in a row
    fair: Fair | str  # tenants take turns; a str is the parameter that names the tenant
    fallback: Callable[..., Any]  # called with the job's arguments when it failed for good
    ack: AckWhen  # "before": acknowledged before it runs, hence at most once
    process: bool  # run in a process of a pool, where it can be stopped and may crash


class BatchOptions(TaskDefaults, total=False):
    """The options of `@app.batch_task(...)`; a time limit is that of one call."""

    name: str  # default: the function's name
    size: int  # items of a call at most; default 100
    within: Duration  # how long the first item may wait for others; default 2 s
    grace: Duration | None  # the call comes when no item has for so long; default: within / 4
    key: str | Callable[[Any], str] | None  # a field of the item, or a function of it: whose
    # values make batches of their own; default: all items of a queue gather together
    fallback: Callable[..., Any]  # called with the items that failed for good


class StubOptions(TypedDict, total=False):
    """The options of `@app.stub(...)`: those that the producing side decides."""

    name: str
    queue: str
    priority: int
    expires: Duration
    retention: Duration
    crash_max: int
    codec: CodecName
    payload_max_bytes: int
    tags: Sequence[str]
    on_parent_failed: OnParentFailed
    unique: Unique
    ordering: str
    rate: RateLimit | Sequence[RateLimit]
    concurrency: Concurrency | Sequence[Concurrency]
    breaker: CircuitBreaker | Sequence[CircuitBreaker]
    fair: Fair | str


class QueueOptions(TypedDict, total=False):
    """The options of `app.queue(...)`."""

    max_length: int  # pending, scheduled and available jobs together
    on_full: Literal["raise", "wait", "drop_oldest", "drop_new"]
    wait: Duration  # with on_full="wait": how long before `QueueFull` is raised; default 30 s
    rate: RateLimit  # of the whole queue, over all workers
    concurrency: Concurrency  # of the whole queue, over all workers and hosts
    breaker: CircuitBreaker  # the queue rests after failures in a row, whatever the task


class EditOptions(TypedDict, total=False):
    """The options of a job that may still be changed while it waits."""

    delay: Duration  # from now
    at: datetime  # with a time zone
    priority: int  # 0..10, higher first
    attempts: int
    timeout: Duration
    expires: Duration | datetime  # do not start after
    deadline: Duration | datetime  # stop running at
    retention: Duration
    crash_max: int
    unique: Unique | str | None  # a str is the key itself; None: not unique, whatever the task says
    ordering_key: str
    headers: Mapping[str, str]
    tags: Sequence[str]  # besides those of the task
    on_parent_failed: OnParentFailed


class JobOptions(EditOptions, total=False):
    """The options of one job: `task.opts(...)` and `app.send(...)`."""

    id: str
    queue: str
    codec: CodecName
    limit_keys: Mapping[str, str]  # name of a limit → the key that the job counts under
    fair_key: str  # the tenant
    fair_weight: int  # turns it has where others have one
    group_key: str  # of a batch task: the jobs of one key make one batch
    parents: Iterable[Any]  # handles or ids; the job is pending until all of them are completed
    unblocks: Iterable[Any]  # handles or refs of pending jobs that shall wait for this one


@dataclass(frozen=True, slots=True)
class Changes:
    """Checked job options: fields of `Job`, and what can only be computed from the arguments."""

    fields: Mapping[str, Any] = field(default_factory=dict[str, Any])
    tags: tuple[str, ...] = ()
    codec: CodecName | None = None
    unique_given: bool = False
    unique: Unique | str | None = None
    limit_keys: Mapping[str, str] = field(default_factory=dict[str, str])

    def over(self, other: "Changes") -> "Changes":
        """These changes after those of `other`: the later word wins, tags add up."""
        mine = self if self.unique_given else other
        return Changes(
            {**other.fields, **self.fields},
            (*other.tags, *(tag for tag in self.tags if tag not in other.tags)),
            self.codec or other.codec,
            mine.unique_given,
            mine.unique,
            {**other.limit_keys, **self.limit_keys},
        )


def job_changes(options: Mapping[str, Any]) -> Changes:
    """Check the options of one job and turn them into `Changes`.

    Raises:
        ConfigError: an unknown option, a value out of its range, a datetime without a time zone.
    """
    known(options, JobOptions, what="job option")
    fields: dict[str, Any] = {}
    for name, value in options.items():
        if convert := _JOB_FIELDS.get(name):
            fields.update(convert(value))
    if "delay" in options and "at" in options:
        raise ConfigError(
            f"delay={options['delay']!r} and at={options['at']!r}: give one of the two"
        )
    unique = options.get("unique")
    if not (unique is None or isinstance(unique, Unique) or (isinstance(unique, str) and unique)):
        raise ConfigError(f"unique={unique!r}: give Unique(...), a key (str), or None")
    if isinstance(unique, str):
        storable("unique", unique)
    codec = options.get("codec")
    return Changes(
        fields=fields,
        tags=as_tags(options.get("tags", ())),
        codec=None if codec is None else as_choice("codec", codec, CODECS),
        unique_given="unique" in options,
        unique=unique,
        limit_keys={
            storable("limit_keys", limit): storable("limit_keys", key)
            for limit, key in _texts("limit_keys", options.get("limit_keys", {})).items()
        },
    )


@dataclass(frozen=True, slots=True)
class QueuePolicy:
    """How a queue is described: what the store enforces, and what an enqueue does when full."""

    rule: QueueRule
    patience_ms: int = 0  # how long an enqueue waits for room


def queue_policy(name: str, options: Mapping[str, Any]) -> QueuePolicy:
    """Check the options of a queue.

    Raises:
        ConfigError: an unknown option, or a value that cannot be meant.
    """
    try:
        return _queue_policy(name, options)
    except ConfigError as error:
        raise ConfigError(f"queue {name!r}: {error}") from error


def _queue_policy(name: str, options: Mapping[str, Any]) -> QueuePolicy:
    known(options, QueueOptions, what="queue option")
    on_full = as_choice("on_full", options.get("on_full", "raise"), tuple(_ON_FULL))
    bound = options.get("max_length")
    if bound is None and ("on_full" in options or "wait" in options):
        raise ConfigError("on_full and wait need a max_length")
    if "wait" in options and on_full != "wait":
        raise ConfigError(f"wait={options['wait']!r} needs on_full='wait'")
    limits: list[Limit] = []
    for option, kind in (
        ("concurrency", Concurrency),
        ("rate", RateLimit),
        ("breaker", CircuitBreaker),
    ):
        if (limit := options.get(option)) is None:
            continue
        if not isinstance(limit, kind):
            raise ConfigError(f"{option}={limit!r}: give {kind.__name__}(...)")
        if limit.key is not None or limit.name is not None or limit.scope != "queue":
            raise ConfigError(f"the {option} of a whole queue has no key, name or scope of its own")
        limits.append(limit.limit())
    patience_ms = to_ms(options.get("wait", 30), name="wait", minimum_ms=1)
    rule = QueueRule(
        name=name,
        max_length=None if bound is None else as_int("max_length", bound, least=1, most=NUMBER_MAX),
        on_full=_ON_FULL[on_full],
        limits=tuple(limits),
    )
    return QueuePolicy(rule, patience_ms if on_full == "wait" else 0)


_ON_FULL: Mapping[str, OnFull] = {
    "raise": "refuse",
    "wait": "refuse",
    "drop_oldest": "drop_oldest",
    "drop_new": "drop_new",
}


def known(options: Mapping[str, Any], kind: type, *, what: str) -> None:
    """Raise ConfigError for an option that `kind` (a TypedDict) does not have."""
    names = option_names(kind)
    for name in options:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(names))}"
            raise ConfigError(f"unknown {what} {name!r}: {hint}")


def option_names(kind: type) -> frozenset[str]:
    """The keys of a TypedDict, all of which may be left out."""
    return cast("frozenset[str]", getattr(kind, "__optional_keys__"))  # noqa: B009 - of TypedDict


CODECS = ("json", "msgpack")
PARENT_FAILED = ("cancel", "run", "wait")


def as_choice(name: str, value: object, choices: Sequence[str]) -> Any:
    """The value, if it is one of `choices`."""
    if value not in choices:
        raise ConfigError(f"{name}={value!r}: choose {' or '.join(map(repr, choices))}")
    return value


def as_int(name: str, value: object, *, least: int, most: int | None = None) -> int:
    """The value, if it is a whole number within the limits (both included)."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int)
        or value < least
        or (most is not None and value > most)
    ):
        upto = f"{least} or more" if most is None else f"{least} to {most:,}"
        raise ConfigError(f"{name}={value!r}: give a whole number, {upto}")
    return value


def as_name(name: str, value: object) -> str:
    """The value, if it is a text that can name something."""
    if not isinstance(value, str) or not value or value != value.strip():
        raise ConfigError(f"{name}={value!r}: give a text that is not empty, without outer spaces")
    return storable(name, value)


def storable(name: str, text: str) -> str:
    """The text, if every store can keep it as an id or a key."""
    if "\0" in text or not _is_unicode(text):
        raise ConfigError(f"{name}={text!r}: NUL and lone surrogates cannot be part of it")
    return text


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def as_priority(value: object) -> int:
    """The value, if it is a priority."""
    return as_int("priority", value, least=0, most=PRIORITY_MAX)


def as_tags(value: object) -> tuple[str, ...]:
    """Tags as a tuple; a single text is a mistake, since it would become its letters."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ConfigError(f"tags={value!r}: give a list of texts, as in tags=['nightly']")
    return tuple(as_name("tags", tag) for tag in cast("Iterable[object]", value))


def as_time_ms(name: str, value: object) -> int:
    """A datetime with a time zone as UTC epoch milliseconds, rounded up."""
    if not isinstance(value, datetime):
        raise ConfigError(f"{name}={value!r}: give a datetime with a time zone")
    if value.utcoffset() is None:
        raise ConfigError(
            f"{name}={value!r} has no time zone, so it could mean 24 different times; use "
            "datetime.now(UTC), datetime(..., tzinfo=ZoneInfo('Europe/Berlin')) or .astimezone()"
        )
    return -((_EPOCH - value) // _MILLISECOND)


def as_ref(value: object) -> JobRef:
    """A handle, a reference or an id as a reference."""
    if isinstance(value, JobRef):
        return value
    if isinstance(value, str) and value:
        return JobRef(value)
    ref = getattr(value, "ref", None)
    if isinstance(ref, JobRef):
        return ref
    raise ConfigError(f"{value!r} names no job: give a Handle, a JobRef or an id")


def _refs(name: str, value: object) -> tuple[JobRef, ...]:
    if isinstance(value, str | JobRef) or not isinstance(value, Iterable):
        raise ConfigError(f"{name}={value!r}: give a list of handles or ids")
    return tuple(as_ref(item) for item in cast("Iterable[object]", value))


def _texts(name: str, value: object) -> dict[str, str]:
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value).items()
        if all(isinstance(k, str) and isinstance(v, str) for k, v in items):
            return dict(cast("Mapping[str, str]", value))
    raise ConfigError(f"{name}={value!r}: give a mapping of text to text")


def _limit(name: str, value: Any) -> dict[str, Any]:
    """`expires` and `deadline`: a duration is counted by the broker, a datetime is absolute."""
    if isinstance(value, datetime):
        return {f"{name}_at_ms": as_time_ms(name, value), f"{name}_after_ms": None}
    return {f"{name}_after_ms": to_ms(value, name=name), f"{name}_at_ms": None}


# Each option of one job as fields of `Job`. Those with two forms set both, so that the later wins.
_JOB_FIELDS: Mapping[str, Callable[[Any], dict[str, Any]]] = {
    "delay": lambda v: {"delay_ms": to_ms(v, name="delay"), "scheduled_at_ms": None},
    "at": lambda v: {"scheduled_at_ms": as_time_ms("at", v), "delay_ms": 0},
    "priority": lambda v: {"priority": as_priority(v)},
    "queue": lambda v: {"queue": as_name("queue", v)},
    "id": lambda v: {"id": as_name("id", v)},
    "attempts": lambda v: {"attempt_max": as_int("attempts", v, least=1)},
    "timeout": lambda v: {"timeout_ms": to_ms(v, name="timeout", minimum_ms=1)},
    "expires": lambda v: _limit("expires", v),
    "deadline": lambda v: _limit("deadline", v),
    "retention": lambda v: {"retention_ms": to_ms(v, name="retention")},
    "crash_max": lambda v: {"crash_max": as_int("crash_max", v, least=0)},
    "ordering_key": lambda v: {"ordering_key": as_name("ordering_key", v)},
    "headers": lambda v: {"headers": _texts("headers", v)},
    "fair_key": lambda v: {"fair_key": as_name("fair_key", v)},
    "fair_weight": lambda v: {"fair_weight": as_weight("fair_weight", v)},
    "group_key": lambda v: {"group_key": as_name("group_key", v)},
    "parents": lambda v: {"parents": tuple(ref.id for ref in _refs("parents", v))},
    "unblocks": lambda v: {"unblocks": _refs("unblocks", v)},
    "on_parent_failed": lambda v: {
        "on_parent_failed": as_choice("on_parent_failed", v, PARENT_FAILED)
    },
}
