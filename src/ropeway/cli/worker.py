"""`ropeway worker MODULE:APP`: run the jobs of an app."""

import logging
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ropeway.app import Ropeway
from ropeway.broker import JobStore, Queues
from ropeway.brokers.registry import broker_from_url
from ropeway.cli.exits import usage
from ropeway.cli.grouped import grouped
from ropeway.cli.input.apps import APP_HELP, load_app
from ropeway.cli.input.quantity import DURATION_HELP, seconds, size_bytes
from ropeway.cli.output.spell import count_of
from ropeway.duration import to_ms
from ropeway.errors import ConfigError

_LEVELS = ("debug", "info", "warning", "error")
_log = logging.getLogger("ropeway.worker")


@dataclass(frozen=True)
class Work:
    """Which jobs, and how many at a time."""

    app: Annotated[str, typer.Argument(metavar="MODULE:APP", help=APP_HELP)]
    queues: Annotated[
        str | None,
        typer.Option(
            "--queues",
            "-q",
            help="a,b: b only while a is empty. a=3,b=1: shares. Default: all of the app's tasks.",
        ),
    ] = None
    concurrency: Annotated[
        str,
        typer.Option(
            "--concurrency",
            "-c",
            metavar="N|auto[:MAX]",
            help="Jobs at a time in each process; auto finds the best number up to MAX (1,024).",
        ),
    ] = "50"
    processes: Annotated[
        int, typer.Option("--processes", "-p", min=1, help="Processes, restarted when they die.")
    ] = 1
    burst: Annotated[bool, typer.Option("--burst", help="End when no job is left to run.")] = False


@dataclass(frozen=True)
class Limits:
    """When a process ends, and how."""

    max_jobs: Annotated[
        int, typer.Option(min=0, help="Replace a process after so many jobs; 0: never.")
    ] = 0
    max_memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Replace a larger process, e.g. 512MB.")
    ] = None
    grace: Annotated[
        str, typer.Option(metavar="TIME", help=f"For running jobs at the end: {DURATION_HELP}.")
    ] = "30s"
    lease: Annotated[
        str,
        typer.Option(metavar="TIME", help="A killed process's jobs run elsewhere after so long."),
    ] = "10s"


@dataclass(frozen=True)
class Watching:
    """How to see what a worker does."""

    log_format: Annotated[str, typer.Option(help="human or json.")] = "human"
    log_level: Annotated[str, typer.Option(help=", ".join(_LEVELS) + ".")] = "info"
    health_file: Annotated[
        Path | None, typer.Option(help="Touched every few seconds while all is well.")
    ] = None
    health_port: Annotated[
        int | None, typer.Option(min=0, max=65_535, help="Serve GET /health on 127.0.0.1.")
    ] = None


@grouped
def work(ctx: typer.Context, what: Work, limits: Limits, watching: Watching) -> None:
    """Run jobs until SIGTERM or Ctrl-C.

    The first signal stops gracefully: no new jobs, running ones get their grace, what is left is
    handed back uncounted. The second one stops at once.
    """
    from ropeway.worker import WorkerOptions
    from ropeway.worker.options import parse_concurrency
    from ropeway.worker.process.exits import PARENT_VARIABLE
    from ropeway.worker.process.main import run_worker

    app = load_app(what.app)
    if what.processes > 1 and app.url is None:
        raise usage("--processes needs an app made from the URL of a broker that processes share")
    if what.processes > 1 and watching.health_port is not None:
        raise usage("--health-port is for one process; with --processes use --health-file")
    if not app.definitions:
        raise usage(f"{what.app}: the app has no tasks; import or include their modules there")
    try:
        concurrency, concurrency_max = parse_concurrency(what.concurrency)
    except ConfigError as error:
        raise usage(f"--{error}") from None
    options = WorkerOptions(
        queues=_queues(what.queues, app),
        concurrency=concurrency,
        concurrency_max=concurrency_max,
        lease_ms=to_ms(seconds(limits.lease, name="lease"), name="lease"),
        grace_ms=to_ms(seconds(limits.grace, name="grace"), name="grace"),
        max_jobs=limits.max_jobs,
        max_memory_bytes=_size(limits.max_memory),
        health_file=watching.health_file,
        health_port=watching.health_port,
        burst=what.burst,
        offload=app.offload,
        hooks=app.hooks,
    )
    _log_to_stderr(watching)
    program = _program(app)
    if PARENT_VARIABLE not in os.environ:  # once for all processes
        _log.info(
            "worker of %s on %s: %s, %d x %s at a time, queues %s",
            what.app,
            program.broker.capabilities.name,
            count_of(len(app.definitions), "task"),
            what.processes,
            what.concurrency,
            _shown(options.queues),
        )
    command = [sys.executable, "-m", "ropeway", *ctx.obj]
    code = run_worker(lambda: program, options, processes=what.processes, command=command)
    raise typer.Exit(code)


def _queues(text: str | None, app: Ropeway[Any]) -> Queues:
    """As told; else every queue that a task of the app goes to, with equal shares."""
    from ropeway.worker.options import parse_queues

    if text is not None:
        return parse_queues([word.strip() for word in text.split(",")])
    names = sorted({definition.queue for definition in app.definitions.values()})
    return names if len(names) == 1 else dict.fromkeys(names, 1)


def _shown(queues: Queues) -> str:
    if isinstance(queues, dict):
        return ", ".join(f"{name}={weight}" for name, weight in queues.items())
    return " > ".join(queues)


def _size(text: str | None) -> int:
    return 0 if text is None else size_bytes(text, name="max-memory")


def _program(app: Ropeway[Any]) -> Any:
    from ropeway.worker.process.main import Program

    url = app.url

    def another() -> JobStore:
        assert url is not None, "asked for only where there is a URL"
        return broker_from_url(url)

    @asynccontextmanager
    async def lifespan() -> AsyncGenerator[Any]:
        # The app is open while its jobs run, so that handlers can enqueue.
        async with app:
            if app.lifespan is None:
                yield None
            else:
                async with app.lifespan() as state:
                    yield state

    return Program(
        broker=app.new_store(),
        tasks=app.definitions,
        lifespan=lifespan,
        broker_factory=None if url is None else another,
        rules=app.rules,
    )


def _log_to_stderr(watching: Watching) -> None:
    """Set logging up, unless the app's own module has done so."""
    from ropeway.worker.process.logs import HumanFormatter, JsonFormatter

    formats = {"human": HumanFormatter, "json": JsonFormatter}
    if watching.log_format not in formats:
        raise usage(f"--log-format {watching.log_format!r}: choose human or json")
    if watching.log_level not in _LEVELS:
        raise usage(f"--log-level {watching.log_level!r}: choose {', '.join(_LEVELS)}")
    if logging.getLogger().handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(formats[watching.log_format]())
    logging.basicConfig(handlers=[handler], level=watching.log_level.upper())
