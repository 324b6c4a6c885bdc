"""Which jobs a command means: by id, or by the options of a filter."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated

import typer

from ropeway.broker import Filter, JobStore
from ropeway.cli.exits import usage
from ropeway.cli.input.quantity import moment_ms
from ropeway.cli.output.spell import now_ms
from ropeway.job import JobRecord, State

_PAGE = 500

_PANEL = "Which jobs"
_TIME = "a time, or an age such as 2h"


def states_known(text: str, *, allowed: frozenset[State] = frozenset(State)) -> frozenset[State]:
    """States from "dead" or "dead,cancelled". Raises a usage failure that lists them."""
    names = [name.strip() for name in text.split(",")]
    known = [state.value for state in State if state in allowed]
    for name in names:
        if name not in known:
            raise usage(f"--state {name!r}: known states are {', '.join(known)}")
    return frozenset(State(name) for name in names)


@dataclass(frozen=True)
class Selection:
    """A filter: every given option must match."""

    state: Annotated[
        str | None,
        typer.Option(help="One or more states: dead,cancelled.", rich_help_panel=_PANEL),
    ] = None
    queue: Annotated[str | None, typer.Option(help="The queue.", rich_help_panel=_PANEL)] = None
    task: Annotated[str | None, typer.Option(help="The task.", rich_help_panel=_PANEL)] = None
    tag: Annotated[str | None, typer.Option(help="One of its tags.", rich_help_panel=_PANEL)] = None
    error: Annotated[
        str | None,
        typer.Option(help="Part of the last error or the reason.", rich_help_panel=_PANEL),
    ] = None
    unique_key: Annotated[
        str | None, typer.Option(help="The unique key.", rich_help_panel=_PANEL)
    ] = None
    worker: Annotated[
        str | None, typer.Option(help="Id of its worker.", rich_help_panel=_PANEL)
    ] = None
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help=f"Enqueued since: {_TIME}.", rich_help_panel=_PANEL),
    ] = None
    until: Annotated[
        str | None,
        typer.Option(metavar="TIME", help=f"Enqueued before: {_TIME}.", rich_help_panel=_PANEL),
    ] = None

    @property
    def narrows(self) -> bool:
        """Whether any option was given."""
        return self != Selection()

    def filter(self, *, states: frozenset[State] | None = None) -> Filter:
        """The contract's filter; `states` are those meant when --state was not given."""
        now = now_ms()
        return Filter(
            states=states if self.state is None else states_known(self.state),
            queue=self.queue,
            task=self.task,
            tag=self.tag,
            error=self.error,
            unique_key=self.unique_key,
            worker=self.worker,
            created_from_ms=_bound(self.since, "since", now),
            created_before_ms=_bound(self.until, "until", now),
        )


def _bound(text: str | None, name: str, now: int) -> int | None:
    return None if text is None else moment_ms(text, name=name, now_ms=now)


async def found(
    store: JobStore, where: Filter, *, after: str | None = None
) -> AsyncIterator[tuple[list[JobRecord], str | None]]:
    """Every page of matching records with the cursor behind it; pages may be empty."""
    while True:
        page = await store.find(where, after=after, limit=_PAGE)
        yield page.records, page.cursor
        if page.cursor is None:
            return
        after = page.cursor
