"""`ropeway queues set` and `reset`."""

from dataclasses import dataclass
from typing import Annotated, Any, Final

import typer

from ropeway import limits
from ropeway.broker import JobStore
from ropeway.cli.exits import usage
from ropeway.cli.grouped import grouped
from ropeway.cli.limits.change import told, told_reset
from ropeway.cli.limits.numbers import Force, Numbers
from ropeway.cli.store import Store
from ropeway.flow.rules import RuleInfo

_ON_FULL: Final = {"refuse": "raise", "drop-oldest": "drop_oldest", "drop-new": "drop_new"}
_PARTS: Final = {
    "max-length": "max_length",
    "slots": "concurrency",
    "rate": "rate",
    "failures": "breaker",
}

Queue = Annotated[str, typer.Argument(metavar="QUEUE", help="Name of the queue.")]


@dataclass(frozen=True)
class Bound:
    """How long a queue may grow, and what shall hold no more."""

    max_length: Annotated[
        int | None, typer.Option(help="Pending, scheduled and available jobs together.")
    ] = None
    on_full: Annotated[
        str | None,
        typer.Option(help=f"What becomes of a job beyond: {', '.join(_ON_FULL)}."),
    ] = None
    lift: Annotated[
        str | None,
        typer.Option(metavar="PARTS", help=f"Take away, e.g. {','.join(_PARTS)}."),
    ] = None

    def given(self) -> dict[str, Any]:
        """The settings that were given."""
        found: dict[str, Any] = {}
        if self.max_length is not None:
            found["max_length"] = self.max_length
        if self.on_full is not None:
            if self.on_full not in _ON_FULL:
                raise usage(f"--on-full {self.on_full!r}: choose one of {', '.join(_ON_FULL)}")
            found["on_full"] = _ON_FULL[self.on_full]
        return found

    def lifted(self) -> dict[str, Any]:
        """The settings that were taken away."""
        parts = [] if self.lift is None else [part.strip() for part in self.lift.split(",")]
        for part in parts:
            if part not in _PARTS:
                raise usage(f"--lift {part!r}: known parts are {', '.join(_PARTS)}")
        return {_PARTS[part]: None for part in parts}


@grouped
def set_queue(
    queue: Queue, bound: Bound, numbers: Numbers, store: Store, force: Force = False
) -> None:
    """Bound and limit a queue, at once for all producers and workers, until `queues reset`.

    What is not given stays as it is in force.
    """
    given, lifted = {**bound.given(), **numbers.given()}, bound.lifted()
    if twice := given.keys() & lifted.keys():
        raise usage(f"{', '.join(sorted(twice))}: set it or lift it, not both")
    if not given and not lifted:
        raise usage("nothing to change: give --max-length, --slots, --rate or another setting")

    async def do(broker: JobStore) -> RuleInfo:
        return await limits.set_queue(broker, queue, {**given, **lifted}, force=force)

    told(store.run(do), store)


@grouped
def reset_queue(queue: Queue, store: Store) -> None:
    """Let what the code says of a queue's bound and limits count again."""

    async def do(broker: JobStore) -> bool:
        return await limits.reset_queue(broker, queue)

    told_reset(queue, store, was_set=store.run(do))
