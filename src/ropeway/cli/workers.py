"""`ropeway workers list|quiet|stop|tune`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
import typer

from ropeway.broker import JobStore, Signal, WorkerInfo
from ropeway.cli.exits import missing, usage
from ropeway.cli.grouped import grouped
from ropeway.cli.output.spell import ago, count_of, now_ms
from ropeway.cli.output.stream import emit, emit_json, emit_text, note
from ropeway.cli.store import Store

app: typer.Typer = typer.Typer(
    no_args_is_help=True, help="Look at workers and steer them while they run."
)

_ID_SHOWN = 8  # characters of a worker's random id that a person needs


@app.command("list")
@grouped
def list_workers(store: Store) -> None:
    """List the workers heard of in the last minute."""
    workers = store.run(_workers)
    if store.json:
        emit_json({"workers": [_plain(worker) for worker in workers]})
    elif not workers:
        note("no workers were heard of in the last minute")
    else:
        _show(workers)


async def _workers(broker: JobStore) -> list[WorkerInfo]:
    return sorted(await broker.workers(), key=lambda w: (w.host, w.started_at_ms, w.id))


def _plain(worker: WorkerInfo) -> dict[str, object]:
    return {name: getattr(worker, name) for name in worker.__struct_fields__}


def _show(workers: Sequence[WorkerInfo]) -> None:
    from ropeway.cli.output.table import Column, table

    now = now_ms()
    columns = (
        Column("WORKER"),
        Column("HOST", shrink=True),
        Column("PID", right=True),
        Column("STATE"),
        Column("BUSY", right=True),
        Column("DONE", right=True),
        Column("FAILED", right=True),
        Column("UP", right=True),
        Column("SEEN", right=True),
        Column("QUEUES", shrink=True),
    )
    rows = [
        (
            _short(worker, workers),
            worker.host,
            str(worker.pid),
            worker.state,
            f"{len(worker.running)}/{worker.concurrency}",
            str(worker.processed),
            str(worker.failed),
            ago(worker.started_at_ms, now=now).removesuffix(" ago"),
            ago(worker.seen_at_ms, now=now).removesuffix(" ago"),
            _queues(worker),
        )
        for worker in workers
    ]
    emit_text(table(columns, rows))


def _short(worker: WorkerInfo, among: Sequence[WorkerInfo]) -> str:
    """The beginning of the id, as much as tells it from the others."""
    length = _ID_SHOWN
    while sum(other.id.startswith(worker.id[:length]) for other in among) > 1:
        if length >= len(worker.id):
            break
        length += 1
    return worker.id[:length]


def _queues(worker: WorkerInfo) -> str:
    if worker.strict:
        return ">".join(worker.queues)
    return ",".join(f"{name}={weight}" for name, weight in worker.queues.items())


@dataclass(frozen=True)
class Which:
    """The workers meant."""

    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="ID", help="Ids, or beginnings of ids, of workers."),
    ] = None
    all: Annotated[bool, typer.Option("--all", help="Every worker.")] = False


@app.command()
@grouped
def quiet(which: Which, store: Store) -> None:
    """Let workers start no more jobs; those that run go on."""
    _send("quiet", which, store)


@app.command()
@grouped
def stop(which: Which, store: Store) -> None:
    """Let workers finish what runs, within their grace period, and end."""
    _send("stop", which, store)


@dataclass(frozen=True)
class Tuning:
    """New settings of a running worker; what is not given stays."""

    concurrency: Annotated[
        str | None,
        typer.Option(metavar="N", help="Jobs that run at the same time; auto: each worker's own."),
    ] = None
    queues: Annotated[str | None, typer.Option(help="a,b in this order, or shares: a=3,b=1.")] = (
        None
    )


@app.command()
@grouped
def tune(which: Which, tuning: Tuning, store: Store) -> None:
    """Change the concurrency or the queues of workers while they run."""
    if tuning.concurrency is None and tuning.queues is None:
        raise usage("nothing to change: give --concurrency or --queues")
    _send("tune", which, store, tuning)


def _send(
    kind: Literal["quiet", "stop", "tune"], which: Which, store: Store, tuning: Tuning | None = None
) -> None:
    if bool(which.ids) == which.all:
        raise usage("name workers by id (see `ropeway workers list`), or give --all")
    signal = Signal(kind=kind) if tuning is None else _tune(tuning)

    async def do(broker: JobStore) -> list[str]:
        workers = await _workers(broker)
        if which.ids:
            ids = [_one(workers, id).id for id in which.ids]
        elif workers:
            ids = [worker.id for worker in workers]
        else:
            raise missing("no workers were heard of in the last minute")
        for id in ids:
            await broker.send(msgspec.structs.replace(signal, worker=id))
        return ids

    told = store.run(do)
    if store.json:
        emit_json({"signal": kind, "workers": told})
    else:
        emit(f"told {count_of(len(told), 'worker')} to {kind}")


def _tune(tuning: Tuning) -> Signal:
    from ropeway.worker.options import parse_queues

    words = None
    if tuning.queues is not None:
        words = tuple(word.strip() for word in tuning.queues.split(","))
        parse_queues(words)  # refuses here what every worker would refuse
    return Signal(kind="tune", concurrency=_concurrency(tuning.concurrency), queues=words)


def _concurrency(text: str | None) -> int | None:
    """The number to send; 0 says that workers shall find it themselves."""
    if text is None:
        return None
    if text == "auto":
        return 0
    if not text.isdecimal() or int(text) < 1:
        raise usage(f"--concurrency {text}: give a whole number, 1 or more, or auto")
    return int(text)


def _one(workers: Sequence[WorkerInfo], id: str) -> WorkerInfo:
    found = [worker for worker in workers if worker.id.startswith(id)]
    if not found:
        raise missing(f"there is no worker {id!r}; see `ropeway workers list`")
    if len(found) > 1:
        raise usage(f"worker {id!r} could be {len(found)} of them; give more of the id")
    return found[0]
