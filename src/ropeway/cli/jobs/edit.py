"""`ropeway jobs edit`: other words for a job that waits."""

from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import typer

from ropeway.action import Acted, Answer
from ropeway.broker import JobStore
from ropeway.cli.exits import Failure, missing, usage
from ropeway.cli.grouped import grouped
from ropeway.cli.input.arguments import job_options, read_object
from ropeway.cli.input.quantity import DURATION_HELP
from ropeway.cli.jobs.look import One, record_of
from ropeway.cli.output.stream import emit, emit_json
from ropeway.cli.store import Store
from ropeway.edit import edit_job
from ropeway.job import Job


@dataclass(frozen=True)
class Edits:
    """What may be changed; what is not given stays."""

    args: Annotated[
        str | None,
        typer.Option(metavar="JSON", help="Arguments to change: an object name -> value."),
    ] = None
    priority: Annotated[int | None, typer.Option(help="0 to 10, higher first.")] = None
    delay: Annotated[
        str | None, typer.Option(metavar="TIME", help=f"Start so long from now: {DURATION_HELP}.")
    ] = None
    at: Annotated[str | None, typer.Option(metavar="TIME", help="Start at (ISO 8601).")] = None
    attempts: Annotated[int | None, typer.Option(help="Runs, the first included.")] = None
    timeout: Annotated[
        str | None, typer.Option(metavar="TIME", help=f"Of one run: {DURATION_HELP}.")
    ] = None
    expires: Annotated[
        str | None, typer.Option(metavar="TIME", help="Do not start later than that from now.")
    ] = None

    def options(self) -> dict[str, Any]:
        """The given ones as job options."""
        names = ("priority", "delay", "at", "attempts", "timeout", "expires")
        return job_options(self, names)


@grouped
def edit(
    which: One,
    edits: Edits,
    store: Store,
    if_revision: Annotated[
        int | None, typer.Option(help="Only if the job still has this revision.")
    ] = None,
) -> None:
    """Change a job that waits to run. Refused if somebody else changes it at the same time."""
    options = edits.options()
    arguments = {} if edits.args is None else read_object(edits.args)
    if not options and not arguments:
        raise usage("nothing to change: give --args, --priority, --delay or another option")

    async def do(broker: JobStore) -> tuple[Job, Acted]:
        job = (await record_of(broker, which.ref)).job
        action = edit_job(job, arguments, options, definition=None)
        if if_revision is not None:
            action = msgspec.structs.replace(action, if_revision=if_revision)
        [acted] = await broker.act([action])
        return job, acted

    job, acted = store.run(do)
    if acted.answer is Answer.NOT_FOUND:
        raise missing(f"there is no job {which.id!r}; it ended and went meanwhile")
    if acted.answer is Answer.REFUSED:
        raise Failure(
            f"job {which.id}: edit refused: "
            + (acted.detail or f"it is {acted.state}, or its revision is another one")
        )
    if store.json:
        emit_json({"id": job.id, "answer": acted.answer, "state": acted.state})
    else:
        emit(f"{job.id}  edited ({acted.state})")
