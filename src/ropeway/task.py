"""`Task`: a function that can be enqueued. It stays an ordinary callable."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, TypeVar, Unpack, cast

from msgspec.structs import replace

from ropeway import codec
from ropeway.batches import ALL_TOGETHER
from ropeway.broker import EnqueueAnswer, Enqueued, JobStore
from ropeway.definition import Definition
from ropeway.errors import ConfigError
from ropeway.handle import Handle, Link, any_type
from ropeway.hooks import of_job
from ropeway.job import Job, JobRef, LimitKey, UniqueKey
from ropeway.options import Changes, JobOptions, as_ref, job_changes, storable
from ropeway.runtime import SYSTEM, new_id
from ropeway.signature import ITEM
from ropeway.submit import submit
from ropeway.unique import Unique

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
A = TypeVar("A")
A_contra = TypeVar("A_contra", contravariant=True)


@dataclass(slots=True, eq=False)
class Site:
    """Where a declared task is: its definition, and the app it belongs to (none yet: None).

    `change` declares the task again, with these options besides its own.
    """

    definition: Definition
    link: Link | None = None
    stub: bool = False
    change: Callable[[Mapping[str, Any]], None] | None = None
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
                group_key=None if d.batch is None else ALL_TOGETHER,
            )
        return self._model

    @property
    def keyed(self) -> bool:
        """Whether a job of this task takes keys from its arguments."""
        d = self.definition
        if d.ordering is not None or d.fair is not None or d.group is not None:
            return True
        return any(name for _, name in d.limits)

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
    if changes.fields:
        _refuse_foreign(site, changes.fields)
    unique = changes.unique if changes.unique_given else task.unique
    if unique is not None or changes.limit_keys or site.keyed:
        given |= _keys(task, changes, given, _Arguments(task, args, kwargs, form))
    if changes.tags:
        given["tags"] = tuple(dict.fromkeys((*task.tags, *changes.tags)))
    if "id" not in given:
        given["id"] = new_id()
    return replace(site.model(), **given)


def _refuse_foreign(site: Site, fields: Mapping[str, Any]) -> None:
    """Refuse options that mean something for a batch task only, or for any other only."""
    task = site.definition
    if task.batch is None:
        if "group_key" in fields and not site.stub:
            raise ConfigError(
                f"group_key: {task.name!r} is no batch task, so its jobs never gather"
            )
    elif found := fields.keys() & _OF_ONE_RUN:
        raise ConfigError(
            f"{', '.join(sorted(found))}: the items of {task.name!r} share one run; give the task "
            "itself a timeout"
        )


_OF_ONE_RUN = {"timeout_ms", "deadline_at_ms", "deadline_after_ms"}


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
        if isinstance(given, str) and "\0" not in given:
            return given
        return key_text(name, self.values)


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
    if task.group is not None and "group_key" not in given:
        keys["group_key"] = _group_key(task, task.group(arguments.values[ITEM]))
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


def _group_key(task: Definition, value: object) -> str:
    key = as_key(value, what="key")
    if not key:
        raise ConfigError(f"{task.name}: the key of an item is an empty text; give it a name")
    return key


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
    return as_key(values[name], what=name)


def as_key(value: object, *, what: str) -> str:
    """A text as it is, anything else as canonical JSON."""
    if isinstance(value, str):
        return storable(what, value)
    return codec.canonical(value, what=what).decode()


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
    if link.untold:
        await link.tell_rules(store)
    if link.offload is not None:
        jobs = await link.offload.keep_payloads(jobs)
    answers = await submit(store, jobs, still_open=lambda: link.store, patience_ms=link.patience_ms)
    if link.hooks.want("enqueued"):
        for job, answer in zip(jobs, answers, strict=True):
            if answer.answer is EnqueueAnswer.OK:
                await link.hooks.call(of_job("enqueued", job, SYSTEM.clock.wall_ms()))
    return answers


def _refuse_shared_ids(ids: Sequence[str | None]) -> None:
    """One id for several jobs would quietly make all but the first of them vanish."""
    given = Counter(ids)
    del given[None]
    if given and (most := given.most_common(1)[0])[1] > 1:
        raise ConfigError(
            f"id={most[0]!r} was given to {most[1]} jobs of one call; ids are for one"
        )
