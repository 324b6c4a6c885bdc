"""`ropeway enqueue`: one job from the command line, or one for each line of stdin."""

import asyncio
import difflib
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any, cast, get_args

import msgspec
import typer

from ropeway import codec
from ropeway.app import Ropeway
from ropeway.broker import EnqueueAnswer, Enqueued, JobStore
from ropeway.cli.exits import Failure, failure_of, missing, usage
from ropeway.cli.grouped import grouped
from ropeway.cli.input.apps import APP_HELP, load_app
from ropeway.cli.input.arguments import as_call, job_options, read_json
from ropeway.cli.input.quantity import DURATION_HELP
from ropeway.cli.output.spell import count_of
from ropeway.cli.output.stream import emit, emit_json, emit_json_line, note
from ropeway.cli.store import Store, open_store
from ropeway.errors import RopewayError
from ropeway.job import Job, LimitKey, OnConflict
from ropeway.options import Changes, job_changes
from ropeway.runtime import new_id
from ropeway.submit import submit
from ropeway.task import Site, make_job, named_key

BATCH = 1_000
_BAD_LINES_SHOWN = 20

MakeJob = Callable[[Any, str], Job]
"""Makes the job of one set of arguments; the text names them in errors."""

Opened = AbstractAsyncContextManager[JobStore]


@dataclass(frozen=True)
class Options:
    """The options of a job, as texts."""

    queue: Annotated[str | None, typer.Option(help="Default: the task's own.")] = None
    delay: Annotated[
        str | None, typer.Option(metavar="TIME", help=f"Start not before: {DURATION_HELP}.")
    ] = None
    at: Annotated[
        str | None, typer.Option(metavar="TIME", help="Start not before, in ISO 8601.")
    ] = None
    priority: Annotated[int | None, typer.Option(help="0 to 10, higher first.")] = None
    id: Annotated[str | None, typer.Option(help="The job's id; makes a repeat harmless.")] = None
    attempts: Annotated[int | None, typer.Option(help="Runs, the first included.")] = None
    timeout: Annotated[
        str | None, typer.Option(metavar="TIME", help=f"Of one run: {DURATION_HELP}.")
    ] = None
    expires: Annotated[
        str | None, typer.Option(metavar="TIME", help="Not started within: it ends dead.")
    ] = None
    tag: Annotated[list[str] | None, typer.Option(help="May be given several times.")] = None
    ordering_key: Annotated[
        str | None, typer.Option(help="Jobs of one key run one at a time, in order.")
    ] = None
    fair_key: Annotated[
        str | None, typer.Option(help="The tenant; tenants of a queue take turns.")
    ] = None
    limit_key: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LIMIT=KEY",
            help="Counts under this key of a limit; may be given several times.",
        ),
    ] = None
    unique_key: Annotated[
        str | None, typer.Option(help="At most one unfinished job of the queue has it.")
    ] = None
    on_conflict: Annotated[
        str | None, typer.Option(help="With a unique key: return, reject or replace.")
    ] = None

    def given(self) -> dict[str, Any]:
        """The options that were given, as the job options of `Task.opts`."""
        names = ("queue", "priority", "id", "attempts", "ordering_key", "fair_key")
        options = job_options(self, (*names, "delay", "at", "timeout", "expires"))
        if self.tag:
            options["tags"] = self.tag
        if self.limit_key:
            options["limit_keys"] = dict(map(_name_and_key, self.limit_key))
        if self.unique_key is not None:
            options["unique"] = self.unique_key
        return options


def _name_and_key(text: str) -> tuple[str, str]:
    name, equals, key = text.partition("=")
    if not name or not equals:
        raise usage(f"--limit-key {text!r}: give LIMIT=KEY, as in fetch.rate=a.example")
    return name, key


@dataclass(frozen=True)
class What:
    """The task and its arguments."""

    task: Annotated[str, typer.Argument(metavar="TASK", help="Name of the task.")]
    args: Annotated[
        str | None,
        typer.Argument(
            metavar="ARGS",
            help='JSON: {"name": value}, or [value, ...] with --app. Default: {}.',
        ),
    ] = None
    app: Annotated[str | None, typer.Option(metavar="MODULE:APP", help=APP_HELP)] = None
    stdin: Annotated[
        bool, typer.Option("--stdin", help="One job for each line of stdin: its ARGS.")
    ] = False


@grouped
def enqueue(what: What, options: Options, store: Store) -> None:
    """Enqueue a job, or many from stdin, and print the ids.

    With --app the task's own options and types apply, and wrong arguments are refused here.
    Without it anything is stored under the task's name, for workers that have its code.

    From stdin, 1,000 lines at a time are one atomic step; if any of them is bad, none of that
    batch is stored and the command ends with the line numbers. With --json, each job is printed
    as one document a line.
    """
    if what.stdin and (what.args is not None or options.id is not None):
        raise usage("with --stdin the arguments come from stdin, and each job has its own id")
    make, opened = _target(what, options, store)
    if what.stdin:
        asyncio.run(_bulk(opened, make, json=store.json))
        return
    job = make({} if what.args is None else read_json(what.args, what="ARGS"), "ARGS")
    answer = asyncio.run(_one(opened, job))
    if store.json:
        emit_json(_plain(answer))
    else:
        if answer.answer is not EnqueueAnswer.DROPPED:
            emit(answer.id)
        if answer.answer in _SAID:
            note(f"note: {_SAID[answer.answer]}")


_SAID = {
    EnqueueAnswer.DUPLICATE_ID: "this job was there already; nothing was stored",
    EnqueueAnswer.DUPLICATE_KEY: "this job holds the unique key already; nothing was stored",
    EnqueueAnswer.REPLACED: "this job held the unique key and has got the new arguments",
    EnqueueAnswer.DROPPED: "the queue is full and drops new jobs; nothing was stored",
}


def _plain(answer: Enqueued) -> dict[str, Any]:
    return {"id": answer.id, "queue": answer.queue, "answer": answer.answer}


async def _one(opened: Opened, job: Job) -> Enqueued:
    async with opened as broker:
        return (await submit(broker, [job]))[0]


# ----------------------------------------------------------------------------- making jobs


def _target(what: What, options: Options, store: Store) -> tuple[MakeJob, Opened]:
    """How jobs are made, and the broker that they go to."""
    given = job_changes(options.given())
    if what.app is None:
        make = _foreign(what.task, given)
        opened = open_store(store.broker(create=True))
    else:
        if store.url is not None:
            raise usage("--app has its own broker: leave out --url")
        app = load_app(what.app)
        make = _declared(app, what.task, given)
        opened = _open_app(app)
    return _with_conflict(make, options.on_conflict), opened


def _foreign(task: str, given: Changes) -> MakeJob:
    """Jobs of a task of which only the name is known: the arguments are stored as they are."""
    if not task:
        raise usage("TASK must not be empty")
    fields: dict[str, Any] = {"tags": given.tags, **given.fields}
    if given.limit_keys:
        fields["limits"] = tuple(LimitKey(*limit) for limit in given.limit_keys.items())
    if isinstance(given.unique, str):
        fields["unique"] = named_key(given.unique, None)

    def make(arguments: Any, what: str) -> Job:
        if not isinstance(arguments, dict):
            raise usage(
                f"{what} must be a JSON object, parameter name -> value; an array needs --app, "
                "which knows the parameters' names"
            )
        encoded = codec.encode(cast("object", arguments), what=f"payload of {task}")
        named: dict[str, Any] = {"id": new_id(), **fields}
        return Job(task=task, payload=encoded.data, codec=encoded.codec, **named)

    return make


def _declared(app: Ropeway[Any], task: str, given: Changes) -> MakeJob:
    """Jobs of one of the app's tasks, checked against its types and with its options."""
    definition = app.definitions.get(task)
    if definition is None:
        near = difflib.get_close_matches(task, app.definitions, n=1)
        known = near[0] if near else ", ".join(app.definitions) or "none"
        raise missing(
            f"the app has no task {task!r}; {'did you mean' if near else 'it has'} {known}"
        )
    site = Site(definition)

    def make(arguments: Any, what: str) -> Job:
        args, kwargs = as_call(arguments, what=what)
        try:
            return make_job(site, given, args, kwargs)
        except TypeError as error:  # worded as a call of the function would be
            raise usage(str(error)) from None

    return make


def _with_conflict(make: MakeJob, on_conflict: str | None) -> MakeJob:
    if on_conflict is None:
        return make
    if on_conflict not in get_args(OnConflict):
        raise usage(f"--on-conflict {on_conflict!r}: choose return, reject or replace")

    def with_conflict(arguments: Any, what: str) -> Job:
        job = make(arguments, what)
        if job.unique is None:
            raise usage("--on-conflict needs a --unique-key, or a task that is unique")
        unique = msgspec.structs.replace(job.unique, on_conflict=cast(OnConflict, on_conflict))
        return msgspec.structs.replace(job, unique=unique)

    return with_conflict


@asynccontextmanager
async def _open_app(app: Ropeway[Any]) -> AsyncGenerator[JobStore]:
    async with app:
        if not app.store.capabilities.shared:
            raise usage("the app's broker lives inside one process, so the job would end with it")
        yield app.store


# ----------------------------------------------------------------------------- many


async def _bulk(opened: Opened, make: MakeJob, *, json: bool) -> None:
    """One job for each line of stdin, `BATCH` lines in one atomic step."""
    lines = _numbered(sys.stdin.buffer)
    tally: Counter[EnqueueAnswer] = Counter()
    async with opened as broker:
        with _progress(quiet=json and sys.stdout.isatty()) as advance:
            while batch := list(islice(lines, BATCH)):
                jobs = _jobs_of(batch, make, stored=tally.total())
                answers = await submit(broker, jobs)
                tally.update(answer.answer for answer in answers)
                advance(len(batch))
                for answer in answers if json else ():
                    emit_json_line(_plain(answer))
    if not json:
        _say(tally)


def _numbered(stream: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers."""
    return ((number, line) for number, line in enumerate(stream, start=1) if line.strip())


def _jobs_of(batch: Sequence[tuple[int, bytes]], make: MakeJob, *, stored: int) -> list[Job]:
    """The jobs of a batch. If any line is bad, all bad lines are named and none is enqueued."""
    jobs: list[Job] = []
    bad: list[str] = []
    for number, line in batch:
        try:
            jobs.append(make(read_json(line, what="the line"), "the line"))
        except (RopewayError, Failure) as error:
            bad.append(f"error: line {number}: {failure_of(error)}")
    if not bad:
        return jobs
    for complaint in bad[:_BAD_LINES_SHOWN]:
        note(complaint)
    more = f" ({_BAD_LINES_SHOWN} shown)" if len(bad) > _BAD_LINES_SHOWN else ""
    raise Failure(
        f"{count_of(len(bad), 'bad line')}{more}; nothing stored from line {batch[0][0]} on, "
        f"{count_of(stored, 'job')} stored before it"
    )


def _say(tally: Counter[EnqueueAnswer]) -> None:
    there = tally[EnqueueAnswer.DUPLICATE_ID] + tally[EnqueueAnswer.DUPLICATE_KEY]
    replaced, dropped = tally[EnqueueAnswer.REPLACED], tally[EnqueueAnswer.DROPPED]
    emit(
        f"{count_of(tally[EnqueueAnswer.OK], 'job')} enqueued"
        + (f", {there:,} there already" if there else "")
        + (f", {replaced:,} replaced" if replaced else "")
        + (f", {dropped:,} dropped since the queue is full" if dropped else "")
    )


@contextmanager
def _progress(*, quiet: bool) -> Generator[Callable[[int], object]]:
    """A count and the time on stderr, on a terminal only."""
    if quiet or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.completed:,} jobs"), TimeElapsedColumn())
    progress = Progress(
        *columns,
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,  # else what is printed meanwhile goes to stderr as well
        redirect_stderr=False,
    )
    with progress:
        bar = progress.add_task("", total=None)
        yield lambda done: progress.advance(bar, done)
