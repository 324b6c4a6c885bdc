"""Declaring tasks: the decorators of `Ropeway` and of `Tasks`, typed to keep every signature."""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from types import MappingProxyType
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    ParamSpec,
    TypeVar,
    Unpack,
    cast,
    overload,
)

from ropeway.context import BatchContext, Context
from ropeway.declare import define, takes_context
from ropeway.errors import ConfigError
from ropeway.options import BatchOptions, StubOptions, TaskOptions
from ropeway.runnable import AsyncTask, BatchTask, SyncTask
from ropeway.task import Site, Task

if TYPE_CHECKING:
    from typing_extensions import TypeVar as TypeVarWithDefault

    S = TypeVarWithDefault("S", default=Any)
else:
    S = TypeVar("S")

P = ParamSpec("P")
R = TypeVar("R")
A = TypeVar("A")

Answers = Sequence[R | Exception]
"""What a batch task returns: an entry for each item; an exception stands for one that failed."""

# A task's first parameter may be a Context[S]; then no caller passes it, so it leaves the
# signature. The overloads come in the order in which they apply.


class TaskDecorator(Generic[S]):
    """What `@app.task(...)` returns: it takes the function."""

    def __init__(self, declare: Callable[[Callable[..., Any]], Any]) -> None:
        self._declare = declare

    @overload
    def __call__(  # pyright: ignore[reportOverlappingOverload]
        self, func: Callable[Concatenate[Context[S], P], Coroutine[Any, Any, R]], /
    ) -> AsyncTask[P, R]: ...
    @overload
    def __call__(self, func: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def __call__(self, func: Callable[Concatenate[Context[S], P], R], /) -> SyncTask[P, R]: ...
    @overload
    def __call__(self, func: Callable[P, R], /) -> SyncTask[P, R]: ...
    def __call__(self, func: Callable[..., Any], /) -> Any:
        """Declare the function as a task."""
        return self._declare(func)


class StubDecorator:
    """What `@app.stub(...)` returns: it takes the function that stands for the real one."""

    def __init__(self, declare: Callable[[Callable[..., Any]], Any]) -> None:
        self._declare = declare

    @overload
    def __call__(self, func: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
    @overload
    def __call__(self, func: Callable[P, R], /) -> Task[P, R]: ...
    def __call__(self, func: Callable[..., Any], /) -> Any:
        """Declare the function's signature as that of a task elsewhere."""
        return self._declare(func)


class BatchDecorator(Generic[S]):
    """What `@app.batch_task(...)` returns: it takes the function.

    An exception in the returned list stands for an item that failed, so it is no result.
    """

    def __init__(self, declare: Callable[[Callable[..., Any]], Any]) -> None:
        self._declare = declare

    @overload
    def __call__(
        self, func: Callable[[BatchContext[S], list[A]], Coroutine[Any, Any, None]], /
    ) -> BatchTask[A, None, Coroutine[Any, Any, None]]: ...
    @overload
    def __call__(
        self, func: Callable[[list[A]], Coroutine[Any, Any, None]], /
    ) -> BatchTask[A, None, Coroutine[Any, Any, None]]: ...
    @overload
    def __call__(
        self,
        func: Callable[[BatchContext[S], list[A]], Coroutine[Any, Any, Answers[R]]],
        /,
    ) -> BatchTask[A, R, Coroutine[Any, Any, Answers[R]]]: ...
    @overload
    def __call__(
        self, func: Callable[[list[A]], Coroutine[Any, Any, Answers[R]]], /
    ) -> BatchTask[A, R, Coroutine[Any, Any, Answers[R]]]: ...
    @overload
    def __call__(
        self, func: Callable[[BatchContext[S], list[A]], None], /
    ) -> BatchTask[A, None, None]: ...
    @overload
    def __call__(self, func: Callable[[list[A]], None], /) -> BatchTask[A, None, None]: ...
    @overload
    def __call__(
        self, func: Callable[[BatchContext[S], list[A]], Answers[R]], /
    ) -> BatchTask[A, R, Answers[R]]: ...
    @overload
    def __call__(self, func: Callable[[list[A]], Answers[R]], /) -> BatchTask[A, R, Answers[R]]: ...
    def __call__(self, func: Callable[..., Any], /) -> Any:
        """Declare the function as a batch task."""
        return self._declare(func)


class Declared:
    """A task as it was declared, to be defined again with the defaults of the app it joins.

    `kind` is the TypedDict that its options are of.
    """

    __slots__ = ("func", "kind", "options", "site")

    def __init__(
        self, func: Callable[..., Any], options: Mapping[str, Any], kind: type, site: Site
    ) -> None:
        self.func: Callable[..., Any] = func
        self.options: Mapping[str, Any] = options
        self.kind: type = kind
        self.site: Site = site

    def change(self, options: Mapping[str, Any]) -> None:
        """Take these options besides those given before; checks them. Not yet told to an app."""
        options = {**self.options, **options}
        self.site.definition = define(self.func, options, kind=self.kind)
        self.options = options


class Tasks(Generic[S]):
    """Tasks of a module, for `app.include(tasks)`: the module need not know the app.

    Args:
        prefix: put before the names of all its tasks, as in `Tasks(prefix="mail.")`.

    `Tasks[State]()` checks that handlers take a `Context[State]`, and that only an app with that
    state includes them.
    """

    def __init__(self, *, prefix: str = "") -> None:
        self._prefix = prefix
        self._declared: dict[str, Declared] = {}
        self._joined: Callable[[Declared], None] | None = None

    @property
    def declared(self) -> Mapping[str, Declared]:
        """What was declared here, by task name; for the app that includes it."""
        return MappingProxyType(self._declared)

    def join(self, adopt: Callable[[Declared], None]) -> None:
        """Hand every task of this collection, those declared later too, to one app."""
        if self._joined is not None and self._joined != adopt:
            raise ConfigError("these tasks belong to another app already; make a Tasks() for each")
        if self._joined is None:
            for declared in self._declared.values():
                adopt(declared)
            self._joined = adopt

    @overload
    def task(  # pyright: ignore[reportOverlappingOverload]
        self, func: Callable[Concatenate[Context[S], P], Coroutine[Any, Any, R]], /
    ) -> AsyncTask[P, R]: ...
    @overload
    def task(self, func: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
    @overload
    def task(self, func: Callable[Concatenate[Context[S], P], R], /) -> SyncTask[P, R]: ...
    @overload
    def task(self, func: Callable[P, R], /) -> SyncTask[P, R]: ...
    @overload
    def task(self, **options: Unpack[TaskOptions]) -> TaskDecorator[S]: ...
    def task(self, func: Callable[..., Any] | None = None, **options: Any) -> Any:
        """Declare a function as a task; with or without options (see `TaskOptions`).

        The function stays callable as it was. A first parameter annotated `Context[...]` is
        supplied by the worker. An `async def` runs on the worker's event loop, a `def` in a
        thread, or with `process=True` in a process.

        Raises:
            ConfigError: the name is taken, or an option is unknown or cannot be meant.
        """
        if func is None:
            return TaskDecorator[S](lambda func: self._declare_task(func, options))
        return self._declare_task(func, options)

    def batch_task(self, **options: Unpack[BatchOptions]) -> BatchDecorator[S]:
        """Declare a function that takes many jobs in one call; see `BatchOptions`.

            @app.batch_task(size=100, within=2, key="tenant")
            async def index(items: list[Document]) -> None: ...

            await index.enqueue(document)

        Each item is a job of its own. Jobs of one queue and key gather, visibly, and become one
        call when there are `size` of them, when none has come for `grace`, or when the first has
        waited `within`. A batch takes one of the worker's slots.

        The function returns None (all are done), or a list with an entry for each item: its
        result, an exception, by which that item is retried or buried, or a verdict. What it
        raises is how every item has failed; each is retried by its own attempts. A first
        parameter annotated `BatchContext[...]` is supplied by the worker.

        Raises:
            ConfigError: the name is taken, or an option is unknown, cannot be meant, or
                contradicts a batch (unique, ordering, fair, limits, ack, process).
        """
        given = cast("Mapping[str, Any]", options)
        return BatchDecorator[S](lambda func: self._declare_batch(func, given))

    def stub(self, **options: Unpack[StubOptions]) -> StubDecorator:
        """Declare the signature of a task whose code is elsewhere: it can only be enqueued.

        The function's body is never run; `raise NotImplementedError` pleases every type checker.

        Raises:
            ConfigError: the name is taken, or an option is unknown or cannot be meant.
        """
        given = cast("Mapping[str, Any]", options)
        return StubDecorator(lambda func: self._declare_stub(func, given))

    def _declare_task(self, func: Callable[..., Any], options: Mapping[str, Any]) -> Any:
        site = self._add(func, options, TaskOptions)
        if site.definition.kind == "async":
            return AsyncTask[..., Any](site)
        return SyncTask[..., Any](site)

    def _declare_batch(self, func: Callable[..., Any], options: Mapping[str, Any]) -> Any:
        return BatchTask[Any, Any, Any](self._add(func, options, BatchOptions))

    def _declare_stub(self, func: Callable[..., Any], options: Mapping[str, Any]) -> Any:
        if takes_context(func):
            raise ConfigError(f"stub {func.__name__!r}: leave out the Context, no caller passes it")
        return Task[..., Any](self._add(func, options, StubOptions))

    def _named(self, func: Callable[..., Any], options: Mapping[str, Any]) -> Mapping[str, Any]:
        """The options with the name that the prefix makes."""
        if isinstance(func, Task):
            raise ConfigError(f"{func!r} is a task already; declare its function only once")
        name = options.get("name") or getattr(func, "__name__", "<lambda>")
        return options if not self._prefix else {**options, "name": f"{self._prefix}{name}"}

    def _add(self, func: Callable[..., Any], options: Mapping[str, Any], kind: type) -> Site:
        options = self._named(func, options)
        site = Site(define(func, options, kind=kind), stub=kind is StubOptions)
        name = site.definition.name
        refuse_taken(self._declared.get(name), func)
        declared = Declared(func, options, kind, site)
        if self._joined is not None:
            self._joined(declared)
        self._declared[name] = declared
        site.change = lambda options: self._change(declared, options)
        return site

    def _change(self, declared: Declared, options: Mapping[str, Any]) -> None:
        declared.change(options)
        if self._joined is not None:
            self._joined(declared)


def refuse_taken(taken: Declared | None, func: Callable[..., Any]) -> None:
    """Raise ConfigError when another function has the task's name already."""
    if taken is not None:
        raise ConfigError(
            f"two tasks are named {taken.site.definition.name!r}: {_place(taken.func)} and "
            f"{_place(func)}; give one of them name=, or its Tasks() a prefix"
        )


def _place(func: Callable[..., Any]) -> str:
    return f"{func.__module__}.{getattr(func, '__qualname__', repr(func))}"
