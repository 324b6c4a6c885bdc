"""What the program says about a task: the function and how its jobs are run.

`app.py` makes a `Definition` from each decorated function; the worker looks it up by name. It is
plain data, so the worker needs no app.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from ropeway.flow.options import Fair
from ropeway.flow.rules import GroupRule, LimitRule, Rule
from ropeway.retry import RetryPolicy
from ropeway.signature import Parameters
from ropeway.unique import Unique

Kind = Literal["async", "thread", "process"]
AckWhen = Literal["after", "before"]
CodecName = Literal["json", "msgpack"]


@dataclass(frozen=True, slots=True)
class Fallback:
    """What a worker calls when a job of the task has failed for good."""

    func: Callable[..., Any]
    wants_ctx: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Definition:
    """One task. Durations are milliseconds, sizes bytes."""

    name: str
    func: Callable[..., Any]
    parameters: Parameters
    kind: Kind  # where the function runs: on the loop, in a thread, in a process of its own
    wants_ctx: bool  # the first parameter is a Context, which no caller passes
    policy: RetryPolicy = field(default_factory=RetryPolicy)
    queue: str = "default"
    priority: int = 0
    timeout_ms: int | None = None  # of one run; the handler is stopped
    soft_timeout_ms: int | None = None  # before that: the handler is told
    expires_after_ms: int | None = None
    retention_ms: int | None = None
    crash_max: int = 3
    unique: Unique | None = None
    ordering: str | None = None  # the parameter whose value is the ordering key
    limits: tuple[tuple[LimitRule, str | None], ...] = ()  # each with the parameter of its key
    fair: Fair | None = None
    batch: GroupRule | None = None  # many jobs, one call
    group: Callable[[Any], object] | None = None  # item of a batch -> its key; None: all together
    fallback: Fallback | None = None  # called before a job that failed for good ends dead
    ack: AckWhen = "after"  # "before": at most once
    codec: CodecName = "json"
    payload_max_bytes: int = 1024 * 1024
    result_max_bytes: int = 1024 * 1024
    tags: tuple[str, ...] = ()
    on_parent_failed: Literal["cancel", "run", "wait"] = "cancel"


def rules_of(task: Definition) -> list[Rule]:
    """What a store has to enforce for the task."""
    rules: list[Rule] = [rule for rule, _ in task.limits]
    return rules if task.batch is None else [*rules, task.batch]
