"""Durations, sizes and times as they are read and written; options in groups."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.main import get_command

from ropeway.cli.exits import Failure
from ropeway.cli.grouped import grouped
from ropeway.cli.input.quantity import moment_ms, seconds, size_bytes
from ropeway.cli.output.spell import ago, count_of, duration, size
from ropeway.cli.output.stream import one_cell
from ropeway.cli.output.table import Column, table


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", 0), ("90", 90), ("1.5s", 1.5), ("500ms", 0.5), ("5m", 300), ("2h", 7200), ("1d", 86400)],
)
def test_durations_are_read_with_units(text: str, expected: float) -> None:
    assert seconds(text, name="delay") == expected


@pytest.mark.parametrize("text", ["", "-1", "5 minutes", "1e3", "5M", "nan", "inf", "1.", "5m3s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(Failure, match="is not a duration"):
        seconds(text, name="delay")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1000", 1000), ("512MB", 512 * 10**6), ("512MiB", 512 * 2**20), ("2g", 2 * 2**30)],
)
def test_sizes_are_read_with_units(text: str, expected: int) -> None:
    assert size_bytes(text, name="max-memory") == expected


def test_a_bound_in_time_is_an_age_or_a_time() -> None:
    assert moment_ms("2h", name="since", now_ms=10_000_000) == 2_800_000
    assert moment_ms("1970-01-01T00:00:01Z", name="since", now_ms=0) == 1000


@pytest.mark.parametrize(
    ("span_ms", "expected"),
    [
        (0, "0ms"),
        (950, "950ms"),
        (1_000, "1s"),
        (59_999, "59s"),
        (299_000, "4m59s"),
        (300_000, "5m"),
        (3_599_000, "59m"),
        (7_260_000, "2h1m"),
        (12 * 86_400_000, "12d"),
    ],
)
def test_durations_are_written_short(span_ms: int, expected: str) -> None:
    assert duration(span_ms) == expected


def test_times_are_written_relative_to_now() -> None:
    assert [ago(at, now=10_000) for at in (None, 10_500, 7_000, 15_000)] == [
        "-",
        "now",
        "3s ago",
        "in 5s",
    ]
    assert [count_of(1, "job"), count_of(1200, "job")] == ["1 job", "1,200 jobs"]
    assert [size(900), size(12_345)] == ["900 B", "12 kB"]


def test_wide_characters_stay_aligned() -> None:
    lines = table([Column("A"), Column("B")], [["日本", "x"], ["ab", "y"]]).plain.splitlines()
    assert lines == ["A     B", "日本  x", "ab    y"]


def test_a_cell_is_one_line_without_control_characters() -> None:
    assert one_cell("a\nb\tc\x1b[0m") == "a b c\\x1b[0m"


@dataclass(frozen=True)
class Paging:
    limit: Annotated[int, typer.Option(help="At most.")] = 20
    after: Annotated[str | None, typer.Option(help="Cursor.")] = None


def test_a_group_of_options_arrives_as_one_value() -> None:
    seen: list[object] = []
    app = typer.Typer()

    @app.command()
    @grouped
    def show(name: Annotated[str, typer.Argument()], paging: Paging, loud: bool = False) -> None:
        """Show it."""
        seen.append((name, paging, loud))

    command = get_command(app)
    command.main(["x", "--limit", "3", "--loud"], standalone_mode=False)
    command.main(["y"], standalone_mode=False)
    assert seen == [("x", Paging(3, None), True), ("y", Paging(20, None), False)]
    with pytest.raises(typer.BadParameter):
        command.main(["x", "--limit", "many"], standalone_mode=False)


def test_two_groups_may_not_share_an_option() -> None:
    def command(one: Paging, limit: int) -> None: ...

    group: Callable[..., None] = command
    with pytest.raises(AssertionError, match="an option occurs twice"):
        grouped(group)
