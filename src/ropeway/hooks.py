"""Hooks: functions of the program that are told what happens to its jobs.

`enqueued` is told in the process that enqueues, before the call returns; every other event in the
worker process that it concerns, in their order and after the broker has answered, so what hooks
hear is so. There nothing waits for them, no outcome depends on them, and what they raise is
logged. A plain function is called on the event loop, so it must not block.
"""

import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable
from functools import cached_property
from typing import Final, Literal, TypeVar, get_args

import msgspec

from ropeway.errors import ConfigError
from ropeway.job import Job, JobRef

_log = logging.getLogger("ropeway.hooks")

EventKind = Literal[
    "enqueued",  # a producer stored a new job
    "started",  # a handler is about to be called
    "completed",
    "retried",  # it failed and runs again
    "dead",  # it failed for good
    "cancelled",
    "snoozed",
    "released",  # handed back unrun, or interrupted by the end of its worker
    "lost",  # the lease was lost; the job may run elsewhere
    "crashed",  # the process that ran it died
    "worker_started",
    "worker_stopped",
]
KINDS: Final[tuple[str, ...]] = get_args(EventKind)


class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What happened. `worker_started` and `worker_stopped` concern no job: `job` is None.

    Attributes:
        at_ms: UTC epoch milliseconds, by this host's clock.
        worker: the id of the worker; None for `enqueued`.
        attempt: which run of the job it was, from 1; 0 where there was none.
        duration: seconds from the start of the handler to its end; None where none was called.
        error: the type of the exception, where one decided; `message` is its text.
        reason: why the job is where it is, when that is not obvious, as in its record.

    """

    kind: EventKind
    at_ms: int
    worker: str | None = None
    job: JobRef | None = None
    task: str = ""
    queue: str = ""
    tags: tuple[str, ...] = ()
    attempt: int = 0
    duration: float | None = None
    error: str | None = None
    message: str = ""
    reason: str | None = None


Hook = Callable[[Event], object]
"""A function, which must not block, or an async one."""
H = TypeVar("H", bound=Hook)


class Hooks:
    """The hooks of a program, by the kind of event."""

    def __init__(self) -> None:
        self._by_kind: dict[str, list[Hook]] = {}

    def add(self, kinds: Iterable[str], hook: H) -> H:
        """Call `hook` at events of these kinds; returns it.

        Raises:
            ConfigError: no kind, or an unknown one; not a function of one event.
        """
        chosen = checked(kinds)
        try:
            inspect.signature(hook).bind(None)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"{hook!r}: give a function that takes one Event ({error})"
            ) from error
        for kind in dict.fromkeys(chosen):
            self._by_kind.setdefault(kind, []).append(hook)
        return hook

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self._by_kind)

    def want(self, kind: EventKind) -> bool:
        """Whether there is one for this kind of event."""
        return kind in self._by_kind

    async def call(self, event: Event) -> None:
        """Call the hooks of this event, one after the other; what they raise is logged."""
        for hook in self._by_kind.get(event.kind, ()):
            try:
                answer = hook(event)
                if isinstance(answer, Awaitable):
                    await answer
            except Exception:  # noqa: BLE001 - it must harm nothing
                _log.exception("a hook of %r failed: %r", event.kind, hook)


def checked(kinds: Iterable[str]) -> list[str]:
    """The kinds, if there is one at least and all of them are known; else ConfigError."""
    chosen = list(kinds)
    if not chosen:
        raise ConfigError(f"give at least one event: {', '.join(KINDS)}")
    for kind in chosen:
        if kind not in KINDS:
            raise ConfigError(f"unknown event {kind!r}: known are {', '.join(KINDS)}")
    return chosen


def of_job(kind: EventKind, job: Job, at_ms: int) -> Event:
    """An event of a job outside of any run."""
    return Event(kind=kind, at_ms=at_ms, job=job.ref, task=job.task, queue=job.queue, tags=job.tags)


class Hooked:
    """An app that has hooks."""

    @cached_property
    def hooks(self) -> Hooks:
        """What `on` has added; for the worker."""
        return Hooks()

    def on(self, *kinds: EventKind) -> Callable[[H], H]:
        """Call the function, plain or async, with an `Event` when such a thing has happened.

            @app.on("dead", "crashed")
            async def alert(event: Event) -> None: ...

        See `ropeway.hooks` for the events, and for where and when they are told.

        Raises:
            ConfigError: an unknown event, or not a function of one argument.
        """
        chosen = checked(kinds)  # now: `@app.on` without its kinds would quietly lose the function
        return lambda hook: self.hooks.add(chosen, hook)
