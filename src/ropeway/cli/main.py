"""The `ropeway` command: its groups, and what every command does when it ends badly."""

import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.main import get_command

from ropeway.cli import (
    bench,
    enqueue,
    jobs,
    limits,
    migrate,
    queues,
    verify,
    version,
    worker,
    workers,
)
from ropeway.cli.exits import EXIT_CODES, Exit, debugging, failure_of, one_line
from ropeway.cli.output.stream import note

app: typer.Typer = typer.Typer(
    name="ropeway",
    no_args_is_help=True,
    epilog=EXIT_CODES,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # paragraphs flow, and [brackets] in a help text are not markup
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _tell_version(asked: bool) -> None:
    if asked:
        version.version()
        raise typer.Exit


@app.callback()
def root(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_tell_version, is_eager=True, help="Say the version."),
    ] = False,
) -> None:
    """A durable job queue: run workers, enqueue, look and act."""


app.command("worker")(worker.work)
app.command("enqueue")(enqueue.enqueue)
app.add_typer(jobs.app, name="jobs")
app.add_typer(queues.app, name="queues")
app.add_typer(limits.app, name="limits")
app.add_typer(workers.app, name="workers")
app.add_typer(bench.app, name="bench")
app.command("verify")(verify.verify)
app.command("migrate")(migrate.migrate)
app.command("version")(version.version)

# Typer's own base of wrong usage; public only as the base of what it exports.
_UsageError: Any = typer.BadParameter.__mro__[1]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line (default: that of the process) and return its exit code.

    Errors are one line on stderr; with ROPEWAY_DEBUG=1 their traceback as well.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = get_command(app).main(
            arguments, prog_name="ropeway", standalone_mode=False, obj=tuple(arguments)
        )
    except _UsageError as error:
        return _wrong_usage(error)
    except typer.Abort:  # end of input or Ctrl-C at a question
        return Exit.INTERRUPTED
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told in one line
        if debugging():
            traceback.print_exc()
        failure = failure_of(error)
        if str(failure):
            note(f"error: {failure}")
        return failure.code
    return code if isinstance(code, int) else Exit.OK


def _wrong_usage(error: Any) -> int:
    context = error.ctx
    message = one_line(error.format_message())
    if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help
        print(error.format_message())
        return Exit.USAGE
    path = context.command_path if context is not None else "ropeway"
    end = "" if message.endswith("?") else "."
    note(f"error: {message.rstrip('.')}{end} See `{path} --help`")
    return Exit.USAGE
