"""Tasks whose function is here: they can be enqueued, and called as the functions they are."""

import functools
import inspect
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast, overload

from ropeway.context import CURRENT, BatchContext, Context
from ropeway.errors import ConfigError
from ropeway.job import Job, Lease
from ropeway.options import as_name
from ropeway.runtime import new_id
from ropeway.task import Site, Task

P = ParamSpec("P")
A = TypeVar("A")
Q = TypeVar("Q")
R_co = TypeVar("R_co", covariant=True)
V_co = TypeVar("V_co", covariant=True)


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
        definition = self._site.definition
        if not definition.wants_ctx:
            return self.func(*args, **kwargs)
        alone = detached(self.name)
        context = alone if definition.batch is None else BatchContext((), alone.state)
        return self.func(context, *args, **kwargs)

    def _fall_back_to(self, func: Callable[..., Q]) -> Callable[..., Q]:
        if self._site.change is None:
            raise ConfigError(f"{self.name!r} was not declared by an app or a Tasks()")
        self._site.change({"fallback": func})
        return func


class _OneByOne(_Runnable[P, R_co]):
    """A task whose function is called for each job."""

    @overload
    def fallback(self, func: Callable[P, Q], /) -> Callable[P, Q]: ...
    @overload
    def fallback(
        self, func: Callable[Concatenate[Context[Any], P], Q], /
    ) -> Callable[Concatenate[Context[Any], P], Q]: ...
    def fallback(self, func: Callable[..., Q], /) -> Callable[..., Q]:
        """Declare what a worker calls, with the job's arguments, when one has failed for good.

            @fetch.fallback
            async def give_up(ctx: Context[Shop], url: str) -> None: ...

        For good: its attempts are spent, or its error or a `Bury` says so. `ctx.failure` tells
        how. The job is dead only when the call has ended, so a crash meanwhile repeats it; an
        error of its own is added to those of the job and changes nothing else.

        Raises:
            ConfigError: it cannot be called as the task's function is.
        """
        return self._fall_back_to(func)


class AsyncTask(_OneByOne[P, R_co]):
    """A task whose function is `async def`. Calling it runs the function here, with no job."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R_co]:
        """Call the function itself; a `ctx` is supplied that reports to nobody."""
        return self._call(args, kwargs)


class SyncTask(_OneByOne[P, R_co]):
    """A task whose function is a plain `def`. Calling it runs the function here, with no job."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Call the function itself; a `ctx` is supplied that reports to nobody."""
        return self._call(args, kwargs)


class BatchTask(_Runnable[[A], R_co], Generic[A, R_co, V_co]):
    """A task that is enqueued item by item, and whose function is called with a list of items.

    Calling it runs the function here, with no job.
    """

    def __call__(self, items: list[A], /) -> V_co:
        """Call the function itself; a `ctx` is supplied that reports to nobody."""
        return self._call((items,), {})

    @overload
    def fallback(self, func: Callable[[list[A]], Q], /) -> Callable[[list[A]], Q]: ...
    @overload
    def fallback(
        self, func: Callable[[BatchContext[Any], list[A]], Q], /
    ) -> Callable[[BatchContext[Any], list[A]], Q]: ...
    def fallback(self, func: Callable[..., Q], /) -> Callable[..., Q]:
        """Declare what a worker calls with those items of a batch that have failed for good.

        See `AsyncTask.fallback`; `ctx.failures` tells how each has failed.
        """
        return self._fall_back_to(func)


def detached(task: str) -> Context[Any]:
    """A context for a plain call: no job, no reports; the state of the job it is called in."""
    around = CURRENT.get(None)
    lease = Lease(
        job=Job(id=new_id(), task=as_name("task", task)), attempt=1, token=0, expires_at_ms=0
    )
    return Context(lease, state=around.state if around is not None else None)
