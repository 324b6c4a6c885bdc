"""`ropeway verify URL`: does this broker lose or double anything when processes die?"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ropeway.cli.exits import Exit, Failure, one_line
from ropeway.cli.grouped import grouped
from ropeway.cli.input.quantity import seconds
from ropeway.cli.output.stream import emit_json, emit_text, note

if TYPE_CHECKING:
    from rich.text import Text

    from ropeway.verify.checks import Check
    from ropeway.verify.report import Report

KILLS_A_MINUTE = 150
"""More than a machine does; so `--minutes` alone is what ends the storm."""


@dataclass(frozen=True)
class Storm:
    """What is done to the broker's processes."""

    kills: Annotated[
        int | None, typer.Option(metavar="N", help="SIGKILLs; default 100, 20 hits of each kind.")
    ] = None
    minutes: Annotated[
        float | None, typer.Option(metavar="M", help="Storm so long at most instead.")
    ] = None
    lease: Annotated[
        str, typer.Option(metavar="TIME", help="Of the workers; all times are measured by it.")
    ] = "2s"
    workers: Annotated[int, typer.Option(metavar="N", help="Worker processes in the storm.")] = 5
    seed: Annotated[
        int | None, typer.Option(help="Order and victims of the faults; default: by chance.")
    ] = None


@dataclass(frozen=True)
class Telling:
    """What is told, and where."""

    json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False
    ledger: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep the ledger of all events here.")
    ] = None


@grouped
def verify(
    url: Annotated[
        str,
        typer.Argument(metavar="URL", help="sqlite:///x.db, redis://127.0.0.1:6379/0"),
    ],
    storm: Storm,
    telling: Telling,
) -> None:
    """Kill, freeze and restart workers and producers, and check that nothing was lost or doubled.

    It starts processes of its own, in queues of its own, which are purged before and afterwards.
    A ledger beside the broker and a witness inside the store say what happened. Fails when an
    invariant is broken, or when a kind of fault hit too seldom to say so.
    """
    from random import randrange

    from ropeway.verify.load import Plan, faults_of
    from ropeway.verify.run import verify

    minutes, kills = storm.minutes, storm.kills
    if kills is None:
        kills = 100 if minutes is None else max(5, round(minutes * KILLS_A_MINUTE))
    plan = Plan(
        url=url,
        faults=faults_of(kills, url=url),
        minutes=minutes,
        lease_s=seconds(storm.lease, name="lease"),
        workers=storm.workers,
        seed=randrange(1_000_000) if storm.seed is None else storm.seed,  # noqa: S311
    )
    try:
        report = verify(plan, tell=note, keep=telling.ledger)
    except KeyboardInterrupt:
        raise Failure(
            "interrupted: its processes and jobs are gone, and nothing was checked",
            Exit.INTERRUPTED,
        ) from None
    if telling.json:
        emit_json(report.plain())
    else:
        emit_text(_shown(report))
    if not report.held:
        raise Failure(f"not held: {one_line('; '.join(report.complaints))}")


def _shown(report: "Report") -> "Text":
    """Settings, figures, checks and faults as tables; the verdict is the last line."""
    from rich.text import Text

    from ropeway.cli.output.table import Column, pairs, table

    figures = {
        name: f"{value:.3f}" if name.endswith("_s") else f"{value:g}"
        for name, value in report.figures().items()
        if value is not None
    }
    facts = pairs((name, str(value)) for name, value in report.facts.items())
    checks = table(
        [Column("INVARIANT"), Column("CHECK"), Column("EXAMINED", right=True), Column("BROKEN")],
        [
            (check.id, check.name, str(check.examined), str(len(check.findings) or "-"))
            for check in report.checks
        ],
        notes=[_example(check) for check in report.checks],
    )
    faults = table(
        [
            *(Column("FAULT"), Column("STRIKES", right=True), Column("HITS", right=True)),
            *(Column("ASKED FOR", right=True), Column("LEASES HIT", right=True)),
        ],
        [
            (kind, str(c.strikes), str(c.hits), str(c.hits_min), str(c.leases))
            for kind, c in report.faults.items()
        ],
    )
    verdict = Text("held: nothing was lost or doubled", style="green")
    if not report.held:
        verdict = Text("NOT HELD", style="bold red")
    return Text("\n\n").join((facts, faults, checks, pairs(figures.items()), verdict))


def _example(check: "Check") -> str:
    """The first finding of a check, with its lines of the ledger."""
    if not check.findings:
        return ""
    first = check.findings[0]
    lines = " ".join(event.line() for event in first.lines)
    return f"{first.job} {first.what}: {lines}"
