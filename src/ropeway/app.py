"""`Ropeway`: one app, its tasks and its broker. One object, no globals."""

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from fnmatch import fnmatchcase
from types import MappingProxyType, TracebackType
from typing import Any, Self, TypeVar, Unpack, cast, overload

from ropeway import codec
from ropeway.broker import JobStore
from ropeway.connection import Connection
from ropeway.declare import define
from ropeway.definition import Definition, rules_of
from ropeway.errors import ConfigError
from ropeway.flow.rules import Rule
from ropeway.handle import Handle
from ropeway.hooks import Hooked
from ropeway.job import Job, JobRef, LimitKey
from ropeway.limits import Limits, Rules, add_rules
from ropeway.offload import Offload
from ropeway.operate import Jobs, Queues
from ropeway.options import (
    Changes,
    JobOptions,
    QueueOptions,
    QueuePolicy,
    TaskDefaults,
    as_name,
    as_ref,
    job_changes,
    known,
    option_names,
    queue_policy,
)
from ropeway.runtime import new_id
from ropeway.task import Call, enqueue_calls, handle_of, make_job, named_key, submit_by
from ropeway.tasks import Declared, S, Tasks, refuse_taken
from ropeway.unique import Unique

T = TypeVar("T")
R = TypeVar("R")

Lifespan = Callable[[], AbstractAsyncContextManager[S]]
"""Called once per worker process; what its context manager yields is every job's `ctx.state`."""


class Ropeway(Tasks[S], Hooked):
    """An app: tasks, and the broker that keeps their jobs.

        app = Ropeway("sqlite:///jobs.db")

        @app.task
        async def fetch(url: str) -> int: ...

        async with app:
            job = await fetch.enqueue("https://a.example")
            print(await job)

    `async with app:` opens the broker for enqueueing and looking; it runs no jobs. Code without
    an event loop needs no opening: `fetch.enqueue_sync(...)`.

    Args:
        broker: a URL (`sqlite:///path`, `memory://`) or a broker. None: the URL in the
            environment variable ROPEWAY_URL, else `sqlite:///ropeway.db`.
        lifespan: makes the async context manager whose value is `ctx.state` in every job of a
            worker process, e.g. a function under `@asynccontextmanager`.
        routes: task name pattern (as in a shell: `mail.*`) → queue, the first match counts; for
            tasks that name no queue themselves.
        defaults: options for every task that does not give its own; see `TaskDefaults`.
        offload: keeps payloads and results above a size outside of their records.

    Raises:
        ConfigError: an unknown URL scheme or option, or a missing extra.
    """

    @overload
    def __init__(
        self: "Ropeway[None]",
        broker: str | JobStore | None = None,
        *,
        lifespan: None = None,
        routes: Mapping[str, str] | None = None,
        defaults: TaskDefaults | None = None,
        offload: Offload | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self,
        broker: str | JobStore | None = None,
        *,
        lifespan: Lifespan[S],
        routes: Mapping[str, str] | None = None,
        defaults: TaskDefaults | None = None,
        offload: Offload | None = None,
    ) -> None: ...
    def __init__(
        self,
        broker: str | JobStore | None = None,
        *,
        lifespan: Lifespan[Any] | None = None,
        routes: Mapping[str, str] | None = None,
        defaults: TaskDefaults | None = None,
        offload: Offload | None = None,
    ) -> None:
        super().__init__()
        self._queues: dict[str, QueuePolicy] = {}
        self._connection = Connection(
            broker,
            rules=self._rules,
            patience_ms=self._patience_ms,
            offload=offload,
            hooks=self.hooks,
        )
        self._lifespan = lifespan
        self._routes = {
            as_name("routes", k): as_name("routes", v) for k, v in (routes or {}).items()
        }
        self._defaults = _checked_defaults(defaults or {})
        self._all: dict[str, Declared] = {}
        self._definitions: dict[str, Definition] = {}
        self._of_tasks: Rules = {}
        self.join(self._adopt)

    @property
    def lifespan(self) -> Lifespan[S] | None:
        """What the app was given; the worker enters it once per process."""
        return self._lifespan

    @property
    def definitions(self) -> Mapping[str, Definition]:
        """The tasks that can be run here, by name, with the app's defaults and routes: no stubs."""
        return MappingProxyType(self._definitions)

    @property
    def store(self) -> JobStore:
        """The open broker, for use on the running event loop. Raises ConfigError when not open."""
        return self._connection.store

    @property
    def jobs(self) -> Jobs:
        """Look at jobs and act on them, one by one or by filter."""
        return Jobs(self._connection, self._definitions)

    @property
    def queues(self) -> Queues:
        """Look at queues, pause, resume and purge them, change their bounds and limits."""
        return Queues(self._connection)

    @property
    def limits(self) -> Limits:
        """Look at the limits of tasks, who holds them, and change them while workers run."""
        return Limits(self._connection)

    @property
    def offload(self) -> Offload | None:
        """What the app was given; its workers need it too (`WorkerOptions.offload`)."""
        return self._connection.offload

    @property
    def url(self) -> str | None:
        """The broker's URL; None for `memory://` and for a broker given as an object."""
        return self._connection.url

    def new_store(self) -> JobStore:
        """A broker for a worker of this app, not open yet: a new one where there is a URL.

        Without a URL it is the app's only one.
        """
        return self._connection.new_store()

    # -- opening ---------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Open the broker on the running loop. May be nested.

        Raises:
            ConfigError: the app is open on another thread's event loop.
            BrokerError: the broker cannot be opened.
        """
        await self._connection.enter()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._connection.leave()

    def run_sync(self, work: Coroutine[Any, Any, T]) -> T:
        """Run any of this app's coroutines from code without an event loop.

            app.run_sync(app.jobs.count(Filter(queue="mail")))

        Raises:
            ConfigError: an event loop runs in this thread.
        """
        return self._connection.run_sync(work, what="app.run_sync()")

    def close_sync(self) -> None:
        """Close what `*_sync` calls opened; done by itself when the process ends. Idempotent."""
        self._connection.close_sync()

    # -- tasks -----------------------------------------------------------------------------

    def include(self, tasks: Tasks[S]) -> None:
        """Add the tasks of a `Tasks()`, with this app's defaults and routes. May be repeated.

        Raises:
            ConfigError: a name is taken, or the tasks belong to another app.
        """
        if isinstance(tasks, Ropeway):
            raise ConfigError("an app cannot include an app; collect the tasks in a Tasks()")
        for name, declared in tasks.declared.items():
            if self._all.get(name) is not declared:
                refuse_taken(self._all.get(name), declared.func)
        tasks.join(self._adopt)

    def _adopt(self, declared: Declared) -> None:
        name = declared.site.definition.name
        kind = declared.kind
        if self._all.get(name) is not declared:
            refuse_taken(self._all.get(name), declared.func)
        defaults = {k: v for k, v in self._defaults.items() if k in option_names(kind)}
        if (queue := self._route(name)) is not None:
            defaults["queue"] = queue
        definition = define(declared.func, {**defaults, **declared.options}, kind=kind)
        add_rules(self._of_tasks, rules_of(definition), task=name)
        self._connection.rules_changed()
        declared.site.bind(definition, self._connection)
        self._all[name] = declared
        if not declared.site.stub:
            self._definitions[name] = definition

    def _route(self, name: str) -> str | None:
        found = (queue for pattern, queue in self._routes.items() if fnmatchcase(name, pattern))
        return next(found, None)

    # -- flow control ----------------------------------------------------------------------

    def queue(self, name: str, **options: Unpack[QueueOptions]) -> None:
        """Say how long a queue may grow and how fast it may be worked off; see `QueueOptions`.

        It holds for all producers and workers of the queue, and is stored when the app or one of
        its workers opens the broker. `ropeway queues set` changes it at run time.

        Raises:
            ConfigError: an unknown option or a value that cannot be meant, or the queue was
                described already.
        """
        if as_name("queue", name) in self._queues:
            raise ConfigError(f"queue {name!r} was described already; say everything in one call")
        policy = queue_policy(name, options)
        if self.offload is not None and policy.patience_ms > self.offload.grace_ms // 2:
            raise ConfigError(
                f"queue {name!r}: wait={options.get('wait')!r} is too long for the blobs of "
                "waiting calls; give half of the offload's grace at most, "
                f"{self.offload.grace_ms / 2000:g} s"
            )
        self._queues[name] = policy
        self._connection.rules_changed()

    @property
    def rules(self) -> Sequence[Rule]:
        """What this app wants its store to enforce: limits, bounds of queues, sizes of batches."""
        return self._rules()

    def _rules(self) -> list[Rule]:
        return [*self._of_tasks.values(), *(policy.rule for policy in self._queues.values())]

    def _patience_ms(self, queue: str) -> int:
        policy = self._queues.get(queue)
        return 0 if policy is None else policy.patience_ms

    # -- enqueueing ------------------------------------------------------------------------

    async def enqueue_many(self, calls: Iterable[Call[R]]) -> list[Handle[R]]:
        """Enqueue calls of any of this app's tasks, made by `task.s(...)`, in one round trip.

        Each batch of as many jobs as the broker takes (10,000) is one atomic step.

        Returns:
            The handles, in the order of the calls.

        Raises:
            As `Task.enqueue`. No job is stored unless all of them can be encoded.
        """
        return await enqueue_calls(self._connection, list(calls))

    def enqueue_many_sync(self, calls: Iterable[Call[R]]) -> list[Handle[R]]:
        """`enqueue_many` for code without an event loop. Raises ConfigError where one runs."""
        return self._connection.run_sync(self.enqueue_many(calls), what="app.enqueue_many_sync()")

    async def send(
        self,
        task: str,
        arguments: Mapping[str, object] | None = None,
        /,
        **options: Unpack[JobOptions],
    ) -> Handle[Any]:
        """Enqueue a job by the name of its task, whose code may be elsewhere.

        Args:
            task: the task's name. If it is declared here, its types and options apply.
            arguments: the task's arguments by name.
            options: as for `Task.opts`.

        Raises:
            As `Task.enqueue`.
        """
        link = self._connection
        store = link.store
        job = self._job_by_name(task, arguments or {}, cast("Mapping[str, Any]", options))
        answers = await submit_by(link, store, (job,))
        declared = self._all.get(task)
        return handle_of(declared and declared.site, link, answers[0])

    def send_sync(
        self,
        task: str,
        arguments: Mapping[str, object] | None = None,
        /,
        **options: Unpack[JobOptions],
    ) -> Handle[Any]:
        """`send` for code without an event loop. Raises ConfigError where one runs."""
        work = self.send(task, arguments, **options)
        return self._connection.run_sync(work, what="app.send_sync()")

    def handle(self, job: str | JobRef) -> Handle[Any]:
        """The handle of any job by its id. Reads nothing; results come as plain JSON types."""
        return Handle(as_ref(job), self._connection, created=False)

    def _job_by_name(
        self, task: str, arguments: Mapping[str, object], options: Mapping[str, Any]
    ) -> Job:
        changes = job_changes(options)
        declared = self._all.get(task)
        if declared is not None:
            return make_job(declared.site, changes, (), arguments)
        return _foreign_job(as_name("task", task), self._route(task), changes, arguments)


def _foreign_job(
    task: str, queue: str | None, changes: Changes, arguments: Mapping[str, object]
) -> Job:
    """A job of a task of which only the name is known."""
    data = codec.encode(arguments, codec=changes.codec or "json", what=f"payload of {task}")
    given: dict[str, Any] = {"id": new_id(), "tags": changes.tags}
    if changes.limit_keys:
        given["limits"] = tuple(LimitKey(*limit) for limit in changes.limit_keys.items())
    if queue is not None:
        given["queue"] = queue
    if isinstance(changes.unique, Unique):
        given["unique"] = changes.unique.key_of(task, arguments)
    elif changes.unique is not None:
        given["unique"] = named_key(changes.unique, None)
    return Job(task=task, payload=data.data, codec=data.codec, **{**given, **changes.fields})


def _checked_defaults(defaults: TaskDefaults) -> dict[str, Any]:
    """The app's defaults, refused where they were written rather than at the first task."""

    def any_task() -> None: ...

    given = cast("dict[str, Any]", dict(defaults))
    known(given, TaskDefaults, what="default")
    define(any_task, {**given, "name": "(defaults of the app)"})
    return given
