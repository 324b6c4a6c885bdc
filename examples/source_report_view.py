"""What the source report shows: a progress bar on a terminal, lines elsewhere, then the report."""

import contextlib
import sys
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from source_stats import Report

LINE_EVERY_S = 2.0

Advance = Callable[[int, int, int], None]
"""Takes the jobs that have ended, those of them that are dead, and those that run."""


@dataclass(frozen=True)
class Facts:
    """How the run went."""

    jobs: int
    workers: int
    enqueued_s: float
    took_s: float
    plain_s: float
    killed: str
    lost: int
    repeated: int
    agrees: bool


@contextlib.contextmanager
def progress(total: int) -> Generator[Advance]:
    """Where to tell how far the work is."""
    if sys.stdout.isatty():
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
        with Progress(*columns, TimeElapsedColumn(), console=Console()) as bar:
            task = bar.add_task("", total=total)

            def draw(ended: int, dead: int, running: int) -> None:
                bar.update(task, completed=ended, description=_state(dead, running))

            yield draw
        return
    next_at = time.monotonic()

    def line(ended: int, dead: int, running: int) -> None:
        nonlocal next_at
        if ended == total or time.monotonic() >= next_at:
            next_at = time.monotonic() + LINE_EVERY_S
            print(f"  {ended:>6,}/{total:,} jobs ended, {_state(dead, running)}", flush=True)

    yield line


def _state(dead: int, running: int) -> str:
    return f"{running} running, {dead} dead"


def show(folder: str, report: Report, facts: Facts) -> None:
    totals = report.totals
    print(f"\nMost tokens{'':<37}{'lines':>10}{'tokens':>12}")
    for stats in report.largest:
        name = str(Path(stats.path).relative_to(folder))
        print(f"  {_cut(name):<46}{stats.lines:>10,}{stats.tokens:>12,}")
    print(f"\nLargest folders{'':<24}{'files':>9}{'lines':>10}{'tokens':>12}")
    for package in report.packages:
        counts = f"{package.files:>9,}{package.lines:>10,}{package.tokens:>12,}"
        print(f"  {_cut(package.name, 37):<37}{counts}")
    print("\nNot measured: dead after one attempt, with the reason")
    for kind, count in totals.failed.items():
        example = str(Path(report.examples[kind]).relative_to(folder))
        print(f"  {count:>5,}  {kind}, e.g. {_cut(example)}")
    if not totals.failed:
        print("  none")
    print(
        f"\nTotal: {totals.files:,} files, {totals.size_bytes:,} bytes, {totals.lines:,} lines, "
        f"{totals.tokens:,} tokens, digest {totals.digest[:16]}"
    )
    pace = f"{(facts.jobs - 1) / facts.took_s:,.0f} files/s"
    agreement = "equal to those of the plain process" if facts.agrees else "DIFFERENT"
    for name, value in (
        ("enqueued", f"{facts.jobs:,} jobs in {facts.enqueued_s:.2f} s, workers started meanwhile"),
        ("killed", facts.killed),
        ("took", f"{facts.took_s:.1f} s with {facts.workers} worker processes: {pace}"),
        ("plain", f"{facts.plain_s:.1f} s in one process without a queue"),
        ("lost", f"{facts.lost} jobs"),
        ("repeated", f"{facts.repeated} jobs ran more than once"),
        ("totals", agreement),
    ):
        print(f"  {name:<9} {value}")


def _cut(name: str, width: int = 45) -> str:
    return name if len(name) <= width else f"…{name[1 - width :]}"
