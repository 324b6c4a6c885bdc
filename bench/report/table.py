"""The tables: first one with a row for each rival and setting, then one for each scenario."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from rich.console import Console
from rich.table import Table as RichTable

Plain = dict[str, Any]
NONE: Final = "\N{EN DASH}"


@dataclass(frozen=True, kw_only=True)
class Table:
    """Words in rows and columns; the first columns are text, the others are numbers."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    texts: int = 2

    def markdown(self) -> str:
        """For a document."""
        numbers = range(self.texts, len(self.columns) - (self.columns[-1] == "remarks"))
        marks = ["---:" if at in numbers else "---" for at in range(len(self.columns))]
        lines = [_line(self.columns), _line(marks), *map(_line, self.rows)]
        return f"### {self.title}\n\n" + "\n".join(lines) + "\n"

    def show(self, console: Console) -> None:
        """For a terminal."""
        shown = RichTable(title=self.title, title_justify="left", box=None, pad_edge=False)
        for at, column in enumerate(self.columns):
            text = at < self.texts or column == "remarks"
            shown.add_column(column, justify="left" if text else "right")
        for row in self.rows:
            shown.add_row(*row)
        console.print(shown)
        console.print()


def _line(words: Iterable[str]) -> str:
    return "| " + " | ".join(words) + " |"


# A column: its head, and the figures whose values stand in it, divided by slashes.
_Column = tuple[str, str]

DETAILS: Final[dict[str, tuple[str, tuple[_Column, ...]]]] = {
    "enqueue": (
        "Enqueue, jobs/s",
        (
            ("one by one", "single_per_s±"),
            ("50 callers", "concurrent_per_s±"),
            ("1,000 a call", "bulk_per_s±"),
        ),
    ),
    "drain": (
        "Drain of no-op jobs",
        (
            ("jobs/s", "per_s±"),
            ("jobs", "jobs"),
            ("worker µs", "worker_us"),
            ("Redis µs", "redis_us"),
            ("its server µs", "server_us"),
            ("commands", "commands"),
            ("round trips", "round_trips"),
            ("net bytes", "net_bytes"),
            ("bytes waiting", "bytes_waiting"),
            ("RSS MB", "rss_mb"),
            ("missing / repeated", "missing/repeated"),
        ),
    ),
    "sleep1ms": (
        "Drain of jobs that wait for 1 ms",
        (("jobs/s", "per_s±"), ("jobs", "jobs"), ("worker µs", "worker_us"), ("RSS MB", "rss_mb")),
    ),
    "cpu": (
        "Drain of plain functions that hash 128 KiB",
        (("jobs/s", "per_s±"), ("jobs", "jobs"), ("worker µs", "worker_us"), ("RSS MB", "rss_mb")),
    ),
    "latency": (
        "Enqueue to start, ms",
        (
            ("200/s p50 / p99", "at_200_p50_ms/at_200_p99_ms"),
            ("reached", "at_200_reached_per_s"),
            ("2,000/s p50 / p99", "at_2000_p50_ms/at_2000_p99_ms"),
            ("reached", "at_2000_reached_per_s"),
        ),
    ),
    "ranked": (
        "Three priorities, mixed",
        (
            ("jobs/s", "per_s±"),
            ("jobs", "jobs"),
            ("high ones in the first third, %", "high_in_first_third_percent"),
        ),
    ),
    "delayed": (
        "Delayed by 2 s: started after that, ms",
        (
            ("earliest", "earliest_ms"),
            ("p50 / p99", "p50_ms/p99_ms"),
            ("ran within 20 s, %", "in_time_percent"),
        ),
    ),
    "classic": (
        "The public method: jobs one by one, then 10 workers, seconds",
        (
            ("jobs", "jobs"),
            ("enqueue", "enqueue_s"),
            ("process", "process_s"),
            ("jobs run", "jobs_run"),
        ),
    ),
    "crash": (
        "Five times kill -9, jobs of 20 ms; watched for {crash_cap_s:g} s after the last kill",
        (
            ("jobs", "jobs"),
            ("interrupted", "interrupted"),
            ("of these run again", "run_again"),
            ("after s, p50 / max", "again_p50_s/again_max_s"),
            ("missing at the cap", "missing"),
            ("ended twice", "repeated"),
        ),
    ),
}

SUMMARY: Final = (
    ("drain/s", "drain", "per_s±"),
    ("worker + Redis µs", "drain", "worker_us/redis_us"),
    ("RSS MB", "drain", "rss_mb"),
    ("bytes waiting", "drain", "bytes_waiting"),
    ("enqueue/s: one / 50 / bulk", "enqueue", "single_per_s/concurrent_per_s/bulk_per_s"),
    ("200/s p50 / p99 ms", "latency", "at_200_p50_ms/at_200_p99_ms"),
    ("2,000/s p50 / p99 ms", "latency", "at_2000_p50_ms/at_2000_p99_ms"),
    ("killed: missing, again after s", "crash", "missing/again_max_s"),
)


def tables(results: Plain) -> list[Table]:
    """All that there are results for."""
    rows: list[Plain] = results["rows"]
    measured = dict.fromkeys(row["scenario"] for row in rows)
    details = [_detail(name, results["run"], rows) for name in DETAILS if name in measured]
    return [_summary(results, list(measured)), *details]


def _summary(results: Plain, measured: list[str]) -> Table:
    run, rows = results["run"], results["rows"]
    shown = [column for column in SUMMARY if column[1] in measured]
    by_setting: dict[tuple[str, str, str], dict[str, Plain]] = {}
    for row in rows:
        key = (f"{row['rival']} {row['version']}", row["setting"], row["ack"])
        by_setting.setdefault(key, {})[row["scenario"]] = row
    order = list(dict.fromkeys(name for name, _, _ in by_setting))
    lines = [
        (*key, *(_cell(cells.get(scenario), figure) for _, scenario, figure in shown))
        for key, cells in sorted(by_setting.items(), key=lambda item: order.index(item[0][0]))
    ]
    title = f"Redis, appendonly with fsync {run['fsync']}, medians of {run['repeat']}"
    heads = ("rival", "setting", "ack", *(head for head, _, _ in shown))
    return Table(title=title, columns=heads, rows=lines, texts=3)


def _detail(name: str, run: Plain, rows: list[Plain]) -> Table:
    title, columns = DETAILS[name]
    title = title.format(**run["size"])
    lines = [
        (
            row["rival"],
            f"{row['setting']} @{row['concurrency']}" if row["concurrency"] else row["setting"],
            row["ack"],
            *(_cell(row, figure) for _, figure in columns),
            _remark(row),
        )
        for row in rows
        if row["scenario"] == name
    ]
    heads = ("rival", "setting", "ack", *(head for head, _ in columns), "remarks")
    return Table(title=title, columns=heads, rows=lines, texts=3)


def _cell(row: Plain | None, figure: str) -> str:
    if row is None:
        return ""
    if not row["figures"]:
        return "failed" if row["failed"] and figure.endswith("±") else NONE
    spread = figure.endswith("±")
    found = [row["figures"].get(name) for name in figure.removesuffix("±").split("/")]
    if not any(found):
        return NONE
    words = " / ".join(number(values[0]) if values else NONE for values in found)
    values = found[0]
    if spread and values and row["runs"] > 1:
        words += f" ({number(values[1])}{NONE}{number(values[2])})"
    return words


def _remark(row: Plain) -> str:
    failed = [f"failed ({len(row['failed'])}): {row['failed'][-1]}"] if row["failed"] else []
    said = [row["note"], row["unsupported"], *failed]
    return "; ".join(word.replace("|", "/") for word in said if word)


def number(value: float) -> str:
    """Short: three digits and no more."""
    if value == int(value) and abs(value) < 1_000:
        return str(int(value))
    if abs(value) >= 100:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.3g}"
