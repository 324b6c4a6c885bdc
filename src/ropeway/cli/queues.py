"""`ropeway queues list|pause|resume|purge|peek|set|reset`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from ropeway.broker import Filter, JobStore, QueueInfo
from ropeway.cli.grouped import grouped
from ropeway.cli.jobs.act import confirm
from ropeway.cli.jobs.selection import states_known
from ropeway.cli.limits.of_queue import reset_queue, set_queue
from ropeway.cli.output.record import as_plain, job_rows
from ropeway.cli.output.spell import count_of, duration, now_ms
from ropeway.cli.output.stream import emit, emit_json, emit_text, note
from ropeway.cli.store import Store
from ropeway.job import JobRecord, State

app: typer.Typer = typer.Typer(no_args_is_help=True, help="Look at, pause, limit and empty queues.")

_NOT_RUNNING = frozenset(State) - {State.RUNNING}
_TITLES = {
    State.PENDING: "PEND",
    State.SCHEDULED: "SCHED",
    State.AVAILABLE: "AVAIL",
    State.RUNNING: "RUN",
    State.RETRYABLE: "RETRY",
    State.COMPLETED: "DONE",
    State.DEAD: "DEAD",
    State.CANCELLED: "CANC",
}

Names = Annotated[list[str], typer.Argument(metavar="QUEUE", help="Names of queues.")]


@app.command("list")
@grouped
def list_queues(store: Store) -> None:
    """List the queues with their counts and the age of the oldest job that could run."""

    async def read(broker: JobStore) -> list[QueueInfo]:
        return await broker.queues()

    queues = store.run(read)
    if store.json:
        emit_json({"queues": [_plain(queue) for queue in queues]})
    elif not queues:
        note("no queues")
    else:
        _show(queues)


def _plain(queue: QueueInfo) -> dict[str, Any]:
    return {
        "name": queue.name,
        "paused": queue.paused,
        "counts": {state.value: queue.counts.get(state, 0) for state in State},
        "oldest_due_at_ms": queue.oldest_due_ms,
    }


def _show(queues: Sequence[QueueInfo]) -> None:
    from ropeway.cli.output.table import Column, table

    now = now_ms()
    counts = [Column(title, right=True) for title in _TITLES.values()]
    columns = [
        Column("QUEUE", shrink=True),
        Column("STATUS"),
        *counts,
        Column("OLDEST", right=True),
    ]
    rows = [
        (
            queue.name,
            "paused" if queue.paused else "active",
            *(str(queue.counts.get(state, 0) or "-") for state in _TITLES),
            "-" if queue.oldest_due_ms is None else duration(max(0, now - queue.oldest_due_ms)),
        )
        for queue in queues
    ]
    emit_text(table(columns, rows))


@app.command()
@grouped
def pause(names: Names, store: Store) -> None:
    """Hand out no more jobs of the queues; running ones go on. Survives restarts."""
    _set_paused(names, store, paused=True)


@app.command()
@grouped
def resume(names: Names, store: Store) -> None:
    """Hand out jobs of the queues again."""
    _set_paused(names, store, paused=False)


def _set_paused(names: Sequence[str], store: Store, *, paused: bool) -> None:
    async def do(broker: JobStore) -> None:
        for name in names:
            await (broker.pause(name) if paused else broker.resume(name))

    store.run(do)
    if store.json:
        emit_json({"queues": [{"name": name, "paused": paused} for name in names]})
    else:
        for name in names:
            emit(f"{name}  {'paused' if paused else 'resumed'}")


@dataclass(frozen=True)
class Purge:
    """What to delete, and whether to ask."""

    queue: Annotated[str, typer.Argument(metavar="QUEUE", help="Name of the queue.")]
    state: Annotated[str | None, typer.Option(help="Only these states, e.g. completed,dead.")] = (
        None
    )
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say how many, delete nothing.")] = (
        False
    )
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False


@app.command()
@grouped
def purge(what: Purge, store: Store) -> None:
    """Delete the jobs of a queue that are not running, records and all."""
    states = _NOT_RUNNING
    if what.state is not None:
        states = states_known(what.state, allowed=_NOT_RUNNING)

    async def count(broker: JobStore) -> int:
        return await broker.count(Filter(queue=what.queue, states=states))

    async def do(broker: JobStore) -> int:
        return await broker.purge(what.queue, states=states)

    if what.dry_run or not what.yes:
        matching = store.run(count)
        if what.dry_run:
            if store.json:
                emit_json({"queue": what.queue, "dry_run": True, "matching": matching})
            else:
                emit(f"purge would delete {count_of(matching, 'job')} of {what.queue}")
            return
        if matching:
            confirm(f"delete {count_of(matching, 'job')} of queue {what.queue}?")
    deleted = store.run(do)
    if store.json:
        emit_json({"queue": what.queue, "deleted": deleted})
    else:
        emit(f"{count_of(deleted, 'job')} of {what.queue} deleted")


@dataclass(frozen=True)
class Window:
    """A part of a queue."""

    queue: Annotated[str, typer.Argument(metavar="QUEUE", help="Name of the queue.")]
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Jobs at most.")] = 10
    offset: Annotated[int, typer.Option(min=0, help="Skip so many.")] = 0


@app.command()
@grouped
def peek(window: Window, store: Store) -> None:
    """Show the available jobs of a queue in the order in which workers will get them."""

    async def read(broker: JobStore) -> list[JobRecord]:
        return await broker.peek(window.queue, limit=window.limit, offset=window.offset)

    records = store.run(read)
    if store.json:
        emit_json({"queue": window.queue, "jobs": [as_plain(record) for record in records]})
    elif not records:
        note(f"queue {window.queue} has no available jobs")
    else:
        emit_text(job_rows(records))


app.command("set")(set_queue)
app.command("reset")(reset_queue)
