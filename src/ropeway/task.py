"""`Task`: a function that can be enqueued. It stays an ordinary callable."""

import dataclasses
import functools
import inspect
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, TypeVar, Unpack, cast

from msgspec.structs import replace

from ropeway import codec
from ropeway.broker import EnqueueAnswer, Enqueued, JobStore
from ropeway.context import CURRENT, Context
from ropeway.definition import Definition
from ropeway.errors import ConfigError
from ropeway.handle import Handle, Link, any_type
from ropeway.job import Job, JobRef, Lease, LimitKey, UniqueKey
from ropeway.options import Changes, JobOptions, as_name, as_ref, job_changes
from ropeway.runtime import new_id
from ropeway.submit import submit
from ropeway.unique import Unique

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
A = TypeVar("A")
A_contra = TypeVar("A_contra", contravariant=True)


@dataclass(slots=True, eq=False)
class Site:
    """Where a declared task is: its definition, and the app it belongs to (none yet: None)."""

    definition: Definition
    link: Link | None = None
    stub: bool = False
    _model: Job | None = None

    def bind(self, definition: Definition, link: Link) -> None:
        """Take the app's word: its defaults and routes, and the way to its broker."""
        self.definition, self.link, self._model = definition, link, None

    def linked(self) -> Link:
        """The way to the broker. Raises ConfigError for a task of a `Tasks()` not yet included."""
        if self.link is None:
            raise ConfigError(
                f"task {self.definition.name!r} belongs to no app yet: app.include(tasks) adds the "
                "`Tasks()` it was declared in"
            )
        return self.link

    def model(self) -> Job:
        """What every job of this task has, with an id yet to be given."""
        if self._model is None:
            d = self.definition
            self._model = Job(
                id="",
                task=d.name,
                queue=d.queue,
                priority=d.priority,
                expires_after_ms=d.expires_after_ms,
                retention_ms=d.retention_ms,
                crash_max=d.crash_max,
                on_parent_failed=d.on_parent_failed,
                tags=tuple(dict.fromkeys(d.tags)),
                limits=tuple(LimitKey(rule.name) for rule, _ in d.limits),
            )
        return self._model

    @property
    def keyed(self) -> bool:
        """Whether a job of this task takes keys from its arguments."""
        d = self.definition
        return d.ordering is not None or d.fair is not None or any(name for _, name in d.limits)

    def return_type(self) -> Any:
        """The result type, resolved when it is needed."""
        return self.definition.parameters.return_type


def make_job(
    site: Site, changes: Changes, args: Sequence[object], kwargs: Mapping[str, object]
) -> Job:
    """The job that a call with these arguments means. Encodes the arguments once.

    Raises:
        TypeError: missing, unknown or surplus arguments, as a call would raise.
        CodecError: an argument does not fit its annotation or cannot be encoded.
        PayloadTooLarge: over the task's `payload_max_bytes`.
    """
    task = site.definition
    form = changes.codec or task.codec
    encoded = task.parameters.encode(args, kwargs, codec=form, limit_bytes=task.payload_max_bytes)
    given = {"payload": encoded.data, "codec": encoded.codec, **changes.fields}
    unique = changes.unique if changes.unique_given else task.unique
    if unique is not None or changes.limit_keys or site.keyed:
        given |= _keys(task, changes, given, _Arguments(task, args, kwargs, form))
    if changes.tags:
        given["tags"] = tuple(dict.fromkeys((*task.tags, *changes.tags)))
    if "id" not in given:
        given["id"] = new_id()
    return replace(site.model(), **given)


class _Arguments:
    """The arguments of one call, for the keys that are taken from them."""

    __slots__ = ("_args", "_form", "_kwargs", "_parameters", "_values")

    def __init__(
        self,
        task: Definition,
        args: Sequence[object],
        kwargs: Mapping[str, object],
        form: codec.Format,
    ) -> None:
        self._parameters = task.parameters
        self._args = args
        self._kwargs = kwargs
        self._form: codec.Format = form
        self._values: Mapping[str, object] | None = None

    @property
    def values(self) -> Mapping[str, object]:
        """All of them by name, with defaults, as the function will see them."""
        if self._values is None:
            self._values = self._parameters.values(self._args, self._kwargs, codec=self._form)
        return self._values

    def key(self, name: str) -> str:
        """One of them as a key: a text as it is, anything else as canonical JSON."""
        given = self._parameters.given(name, self._args, self._kwargs)
        return given if isinstance(given, str) else key_text(name, self.values)


def _keys(
    task: Definition, changes: Changes, given: Mapping[str, object], arguments: _Arguments
) -> dict[str, object]:
    """The keys that the task takes from its arguments or the caller gave."""
    keys: dict[str, object] = {}
    if task.ordering is not None and "ordering_key" not in given:
        keys["ordering_key"] = f"{task.ordering}:{arguments.key(task.ordering)}"
    if task.fair is not None and "fair_key" not in given:
        keys["fair_key"] = tenant = arguments.key(task.fair.key)
        if "fair_weight" not in given:
            keys["fair_weight"] = task.fair.weight_of(tenant)
    if task.limits:
        limits = [
            LimitKey(rule.name, "" if name is None else arguments.key(name))
            for rule, name in task.limits
        ]
        keys["limits"] = _with_keys(task, limits, changes.limit_keys)
    elif changes.limit_keys:
        _with_keys(task, (), changes.limit_keys)  # says that there are none
    unique = changes.unique if changes.unique_given else task.unique
    if isinstance(unique, Unique):
        keys["unique"] = unique.key_of(task.name, arguments.values)
    elif unique is not None:
        keys["unique"] = named_key(unique, task.unique)
    return keys


def _with_keys(
    task: Definition, limits: Sequence[LimitKey], keys: Mapping[str, str]
) -> tuple[LimitKey, ...]:
    """The job's limits with the keys that the caller gave."""
    if not keys:
        return tuple(limits)
    for name in keys:
        if all(limit.name != name for limit in limits):
            known = ", ".join(repr(limit.name) for limit in limits) or "none"
            raise ConfigError(f"limit_keys: {task.name!r} has no limit {name!r}; its are: {known}")
    return tuple(LimitKey(limit.name, keys.get(limit.name, limit.key)) for limit in limits)


def ordering_key(task: Definition, values: Mapping[str, object]) -> str:
    """`"parameter:value"`: tasks of a queue that name the same parameter share their order."""
    name = cast(str, task.ordering)
    return f"{name}:{key_text(name, values)}"


def key_text(name: str, values: Mapping[str, object]) -> str:
    """The value of an argument as a key: a text as it is, anything else as canonical JSON."""
    value = values[name]
    return value if isinstance(value, str) else codec.canonical(value, what=name).decode()


def named_key(key: str, like: Unique | None) -> UniqueKey:
    """A key given by the caller, held by the rules of the task's own `Unique`, if it has one."""
    rules = dataclasses.replace(like or Unique(), by=()).key_of("", {})
    return replace(rules, key=key)


class Call(Generic[R_co]):
    """A task with its arguments, not yet enqueued: `task.s(...)` for `app.enqueue_many`."""

    __slots__ = ("args", "changes", "kwargs", "site")

    def __init__(
        self, site: Site, changes: Changes, args: Sequence[object], kwargs: Mapping[str, object]
    ) -> None:
        self.site: Site = site
        self.changes: Changes = changes
        self.args: tuple[object, ...] = tuple(args)
        self.kwargs: dict[str, object] = dict(kwargs)

    def job(self) -> Job:
        """A new job of this call. Raises as `Task.enqueue` does."""
        return make_job(self.site, self.changes, self.args, self.kwargs)

    def handle(self, enqueued: Enqueued) -> Handle[R_co]:
        """The handle of the job that answers this call."""
        return handle_of(self.site, self.site.linked(), enqueued)

    def __repr__(self) -> str:
        given = [*map(repr, self.args), *(f"{k}={v!r}" for k, v in self.kwargs.items())]
        return f"{self.site.definition.name}.s({', '.join(given)})"


def handle_of(site: Site | None, link: Link, enqueued: Enqueued) -> Handle[Any]:
    """The handle of an enqueued job, with the task's result type where it is known."""
    return Handle(
        JobRef(enqueued.id, enqueued.queue),
        link,
        returns=any_type if site is None else site.return_type,
        created=enqueued.answer is EnqueueAnswer.OK,
        dropped=enqueued.answer is EnqueueAnswer.DROPPED,
    )


class _TakesOne(Protocol[A_contra, R_co]):
    """A task that can be called with one positional argument."""

    def s(self, item: A_contra, /) -> Call[R_co]: ...


class Task(Generic[P, R_co]):
    """A task that can be enqueued: a declared function, a stub, or one of them with options.

    Made by `@app.task`, `@app.stub` and `opts`. Immutable, apart from the app it belongs to.
    """

    def __init__(self, site: Site, changes: Changes | None = None) -> None:
        self._site = site
        self._changes = changes or Changes()

    @property
    def name(self) -> str:
        """The task's name, under which workers find it."""
        return self._site.definition.name

    @property
    def definition(self) -> Definition:
        """What was declared, with the defaults and routes of the app once it is included."""
        return self._site.definition

    @property
    def site(self) -> Site:
        """Where the task is declared; for apps that include it."""
        return self._site

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    def opts(self, **options: Unpack[JobOptions]) -> "Task[P, R_co]":
        """The same task with options for the jobs it enqueues; see `JobOptions` for all of them.

        Options given earlier stay unless named again; tags add up.

        Raises:
            ConfigError: an unknown option, or a value that cannot be meant.
        """
        changes = job_changes(cast("Mapping[str, Any]", options))
        return Task(self._site, changes.over(self._changes))

    def s(self, *args: P.args, **kwargs: P.kwargs) -> Call[R_co]:
        """The task with its arguments, to be enqueued later with others."""
        return Call(self._site, self._changes, args, kwargs)

    def handle(self, job: str | JobRef) -> Handle[R_co]:
        """The handle of a job of this task that was enqueued elsewhere. Reads nothing."""
        return Handle(
            as_ref(job), self._site.linked(), returns=self._site.return_type, created=False
        )

    async def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R_co]:
        """Store a job that calls the task with these arguments; when it returns, it is durable.

        Returns:
            The job's handle; that of the existing job (`created` is False) when the id or the
            unique key was there already.

        Raises:
            ConfigError: the app is not open, or an option is wrong.
            TypeError: missing, unknown or surplus arguments, as a call would raise.
            CodecError: an argument does not fit its annotation or cannot be encoded.
            PayloadTooLarge: over the task's limit.
            Duplicate: the unique key is held and the policy is "reject".
            QueueFull: the queue has reached its bound; see `Ropeway.queue`.
            IdConflict: the id belongs to a job with another task or payload.
            Unsupported: the broker cannot do what the options ask for.
            EnqueueUnknown: the broker was lost for a minute; see there.
            BrokerError: the broker failed; nothing was stored. `OffloadFailed`: the store of
                big payloads did.
        """
        link = self._site.linked()
        store = link.store  # an app that is not open says so before anything else
        job = make_job(self._site, self._changes, args, kwargs)
        answers = await submit_by(link, store, (job,))
        return handle_of(self._site, link, answers[0])

    def enqueue_sync(self, *args: P.args, **kwargs: P.kwargs) -> Handle[R_co]:
        """`enqueue` for code without an event loop. Raises ConfigError where one runs."""
        work = self.enqueue(*args, **kwargs)
        return _run_sync(self._site, work, f"{self.name}.enqueue_sync()")

    async def enqueue_many(self: _TakesOne[A, R], items: Iterable[A]) -> list[Handle[R]]:
        """One job for each item, which is its first and only argument; one round trip.

        Each batch of as many jobs as the broker takes (10,000) is one atomic step. For more
        arguments: `app.enqueue_many(task.s(a, b) for a, b in pairs)`.

        Returns:
            The handles, in the order of the items.

        Raises:
            As `enqueue`. No job is stored unless all of them can be encoded.
        """
        task = cast("Task[..., R]", self)
        return await task._enqueue_all([(item,) for item in items])  # noqa: SLF001 - its own

    async def _enqueue_all(self, calls: Sequence[tuple[object, ...]]) -> list[Handle[R_co]]:
        """One job for each tuple of arguments."""
        site, changes, link = self._site, self._changes, self._site.linked()
        _refuse_shared_ids([changes.fields.get("id")] * len(calls))
        jobs = [make_job(site, changes, args, {}) for args in calls]
        return [handle_of(site, link, answer) for answer in await submit_by(link, link.store, jobs)]

    def enqueue_many_sync(self: _TakesOne[A, R], items: Iterable[A]) -> list[Handle[R]]:
        """`enqueue_many` for code without an event loop. Raises ConfigError where one runs."""
        task = cast("Task[..., R]", self)
        work = task.enqueue_many(items)
        return _run_sync(task.site, work, f"{task.name}.enqueue_many_sync()")

    if not TYPE_CHECKING:  # to the type checker it is not callable, to the reader it says why

        def __call__(self, *_args: object, **_kwargs: object) -> None:
            """Refuse: there is nothing here to run."""
            kind = "a stub: its code is elsewhere" if self._site.stub else "a task with options"
            raise ConfigError(f"{self.name!r} is {kind} and cannot be called here; enqueue it")


def _run_sync(site: Site, work: Coroutine[Any, Any, R], what: str) -> R:
    try:
        link = site.linked()
    except ConfigError:
        work.close()
        raise
    return link.run_sync(work, what=what)


async def enqueue_calls(link: Link, calls: Sequence[Call[R]]) -> list[Handle[R]]:
    """Enqueue calls of any tasks of one app in one round trip; handles by position."""
    for call in calls:
        if call.site.linked() is not link:
            raise ConfigError(f"{call!r} belongs to another app; enqueue it there")
    _refuse_shared_ids([call.changes.fields.get("id") for call in calls])
    answers = await submit_by(link, link.store, [call.job() for call in calls])
    return [call.handle(answer) for call, answer in zip(calls, answers, strict=True)]


async def submit_by(link: Link, store: JobStore, jobs: Sequence[Job]) -> list[Enqueued]:
    """Enqueue jobs into an app's open store, their big payloads offloaded; see `submit`."""
    if not jobs:
        return []
    if link.offload is not None:
        jobs = await link.offload.keep_payloads(jobs)
    return await submit(store, jobs, still_open=lambda: link.store, patience_ms=link.patience_ms)


def _refuse_shared_ids(ids: Sequence[str | None]) -> None:
    """One id for several jobs would quietly make all but the first of them vanish."""
    given = Counter(ids)
    del given[None]
    if given and (most := given.most_common(1)[0])[1] > 1:
        raise ConfigError(
            f"id={most[0]!r} was given to {most[1]} jobs of one call; ids are for one"
        )


class _Runnable(Task[P, R_co]):
    """A task whose function is here."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        functools.update_wrapper(cast(Any, self), site.definition.func)
        if site.definition.wants_ctx:
            signature = inspect.signature(site.definition.func)
            shown = list(signature.parameters.values())[1:]
            self.__signature__: inspect.Signature = signature.replace(parameters=shown)

    @property
    def func(self) -> Callable[..., Any]:
        """The function as it was written, with its `ctx` if it takes one."""
        return self._site.definition.func

    def _call(self, args: Sequence[object], kwargs: Mapping[str, object]) -> Any:
        if self._site.definition.wants_ctx:
            return self.func(detached(self.name), *args, **kwargs)
        return self.func(*args, **kwargs)


class AsyncTask(_Runnable[P, R_co]):
    """A task whose function is `async def`. Calling it runs the function here, with no job."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R_co]:
        """Call the function itself; a `ctx` is supplied that reports to nobody."""
        return self._call(args, kwargs)


class SyncTask(_Runnable[P, R_co]):
    """A task whose function is a plain `def`. Calling it runs the function here, with no job."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Call the function itself; a `ctx` is supplied that reports to nobody."""
        return self._call(args, kwargs)


def detached(task: str) -> Context[Any]:
    """A context for a plain call: no job, no reports; the state of the job it is called in."""
    around = CURRENT.get(None)
    lease = Lease(
        job=Job(id=new_id(), task=as_name("task", task)), attempt=1, token=0, expires_at_ms=0
    )
    return Context(lease, state=around.state if around is not None else None)
