"""`ropeway bench throughput|latency|flow|concurrency`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from ropeway.cli.exits import Failure
from ropeway.cli.grouped import grouped
from ropeway.cli.output.stream import emit_json, emit_text, note

if TYPE_CHECKING:
    from rich.text import Text

    from ropeway.bench.figures import Answer

app: typer.Typer = typer.Typer(
    no_args_is_help=True,
    help="Measure a broker on this machine, in a queue of its own that is purged afterwards.",
)

Url = Annotated[
    str,
    typer.Argument(
        metavar="URL", help="memory://, sqlite:///bench.db, sqlite:///bench.db?durability=fast"
    ),
]

_UNITS: Final = {"per_s": "/s", "ms": "ms", "mb": "MB", "us_per_job": "us/job"}


@dataclass(frozen=True)
class Work:
    """What is run how often, and how the answer is told."""

    task: Annotated[
        Literal["noop", "sleep1ms", "sync"],
        typer.Option(help="What each job does; sync runs in a thread."),
    ] = "noop"
    concurrency: Annotated[int, typer.Option(help="Jobs at a time in the one worker.")] = 50
    repeat: Annotated[int, typer.Option(metavar="K", help="Runs; told are medians.")] = 1
    json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False


@dataclass(frozen=True)
class Size:
    """How many jobs are enqueued, and how."""

    jobs: Annotated[int, typer.Option(metavar="N", help="Jobs in all.")] = 100_000
    callers: Annotated[int, typer.Option(help="Callers at the same time, in their phase.")] = 50
    batch: Annotated[int, typer.Option(help="Jobs a call when enqueueing in bulk.")] = 1_000


@app.command()
@grouped
def throughput(url: Url, size: Size, work: Work) -> None:
    """Enqueue one by one, by concurrent callers and in bulk; then drain with one worker.

    Rates are jobs per second: a tenth of the jobs one by one and three tenths by callers (5 s at
    most each), the rest in bulk; the drain counts from the first start until all are settled.
    CPU and memory are those of the worker's process.
    """
    from ropeway.bench.serving import run_bench
    from ropeway.bench.throughput import Load, throughput

    load = Load(
        url=url,
        jobs=size.jobs,
        callers=size.callers,
        batch=size.batch,
        concurrency=work.concurrency,
        task=work.task,
        repeat=work.repeat,
    )
    _tell(run_bench(throughput(load)), as_json=work.json)


@dataclass(frozen=True)
class Rate:
    """How fast jobs are sent, and how long."""

    rate: Annotated[float, typer.Option(metavar="R", help="Jobs a second.")] = 200.0
    seconds: Annotated[float, typer.Option(metavar="S", help="For so long.")] = 10.0


@app.command()
@grouped
def latency(url: Url, rate: Rate, work: Work) -> None:
    """Measure the time from the call of `enqueue` to the start of the handler."""
    from ropeway.bench.latency import Pace, latency
    from ropeway.bench.serving import run_bench

    pace = Pace(
        url=url,
        rate=rate.rate,
        seconds=rate.seconds,
        concurrency=work.concurrency,
        task=work.task,
        repeat=work.repeat,
    )
    _tell(run_bench(latency(pace)), as_json=work.json)


@dataclass(frozen=True)
class Rounds:
    """How many jobs of each kind, how often."""

    jobs: Annotated[int, typer.Option(metavar="N", help="Jobs of each kind and round.")] = 20_000
    rounds: Annotated[int, typer.Option(metavar="K", help="Rounds of every kind.")] = 3
    concurrency: Annotated[int, typer.Option(help="Jobs at a time in the one worker.")] = 200
    json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False


@app.command()
@grouped
def flow(url: Url, size: Rounds) -> None:
    """Measure what flow control costs: the same jobs plain, limited and in fair turns.

    Each round enqueues and drains jobs of 1,000 keys plain, under a rate far above the load, under
    a concurrency limit a key, and as 1,000 tenants. A ratio is a kind's rate to that of the plain
    jobs of its round, the median over the rounds.
    """
    from ropeway.bench.flow import FlowLoad, flow
    from ropeway.bench.serving import run_bench

    load = FlowLoad(url=url, jobs=size.jobs, rounds=size.rounds, concurrency=size.concurrency)
    _tell(run_bench(flow(load)), as_json=size.json)


@dataclass(frozen=True)
class Comparison:
    """How long each setting works, how often."""

    seconds: Annotated[
        float, typer.Option(metavar="S", help="Of work for each kind, setting and round, about.")
    ] = 2.0
    rounds: Annotated[int, typer.Option(metavar="K", help="Rounds of every setting.")] = 3
    json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False


@app.command()
@grouped
def concurrency(url: Url, size: Comparison) -> None:
    """Measure `--concurrency auto` beside fixed settings.

    Four kinds of work (jobs that do nothing, wait 10 ms, compute for half a millisecond in a
    thread, and a third of each) with 1, 4, 16, 64, 256 and 1,024 jobs at a time and with auto, in
    turns. A ratio is a setting's rate to that of the best fixed one in its round, the median of the
    rounds.
    """
    from ropeway.bench.concurrency import ConcurrencyLoad, concurrency
    from ropeway.bench.serving import run_bench

    load = ConcurrencyLoad(url=url, seconds=size.seconds, rounds=size.rounds)
    answer = run_bench(concurrency(load))
    _tell(answer, as_json=size.json, shown=_compared(answer))


def _tell(answer: "Answer", *, as_json: bool, shown: "Text | None" = None) -> None:
    """Print the answer, as `shown` or in a table of all figures; a lost job makes this fail."""
    if as_json:
        emit_json(answer.plain())
    else:
        emit_text(shown or _shown(answer))
        note("the jobs were in a queue of their own, which is purged")
    if lost := answer.figures["lost"]:
        raise Failure(f"{lost:g} jobs were lost: their handlers never began")


def _shown(answer: "Answer") -> "Text":
    """Settings first, then figures with their unit and, of several runs, their range."""
    from rich.text import Text

    from ropeway.cli.output.table import Column, pairs, table

    told = pairs((name, str(value)) for name, value in answer.facts().items())
    columns = [Column("FIGURE"), Column("VALUE", right=True), Column("UNIT")]
    if answer.spread:
        columns += [Column("LEAST", right=True), Column("GREATEST", right=True)]
    rows: list[list[str]] = []
    for name, value in answer.figures.items():
        title, unit = _unit_of(name)
        ends = [_number(end) for end in answer.spread.get(name, ())]
        rows.append([title, _number(value), unit, *ends])
    return Text("\n\n").join((told, table(columns, rows)))


def _compared(answer: "Answer") -> "Text":
    """A row for each setting: rate and ratio of each kind of work, and the mean of the ratios."""
    from rich.text import Text

    from ropeway.bench.concurrency import SETTINGS
    from ropeway.bench.tasks import WORK_KINDS
    from ropeway.cli.output.table import Column, pairs, table

    figures = answer.figures
    told = pairs((name, str(value)) for name, value in answer.facts().items())
    columns = [Column("CONCURRENCY")]
    for kind in WORK_KINDS:
        columns += [Column(f"{kind.upper()} /s", right=True), Column("RATIO", right=True)]
    rows: list[list[str]] = []
    for at in SETTINGS:
        row = [str(at)]
        for kind in WORK_KINDS:
            rate, ratio = figures[f"{kind}_{at}_per_s"], figures[f"ratio_{kind}_{at}"]
            row += [f"{rate:,.0f}", f"{ratio:.2f}"]
        rows.append([*row, f"{figures[f'geomean_{at}']:.3f}"])
    return Text("\n\n").join((told, table([*columns, Column("MEAN", right=True)], rows)))


def _unit_of(name: str) -> tuple[str, str]:
    """A figure's name without its unit, in words, and the unit."""
    for ending, unit in _UNITS.items():
        if name.endswith(f"_{ending}"):
            return name.removesuffix(f"_{ending}").replace("_", " "), unit
    return name.replace("_", " "), ""


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:,.2f}"
