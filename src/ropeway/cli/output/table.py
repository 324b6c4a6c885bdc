"""Aligned columns that fit the terminal, each row with room for a line of explanation."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.text import Text

from ropeway.cli.output.stream import one_cell, width

STYLES = {
    "pending": "dim",
    "scheduled": "cyan",
    "available": "blue",
    "running": "yellow",
    "retryable": "magenta",
    "completed": "green",
    "dead": "red",
    "cancelled": "dim",
    "paused": "yellow",
    "quiet": "yellow",
    "stopping": "yellow",
}
_SHRINK_MIN = 6  # no column is made narrower than this


@dataclass(frozen=True)
class Column:
    """A column of a table; one that may `shrink` ends in an ellipsis on a narrow terminal."""

    title: str
    right: bool = False
    shrink: bool = False


def table(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], *, notes: Sequence[str] = ()
) -> Text:
    """Columns two spaces apart; a note that is not empty goes on a line of its own below its row.

    A cell that names a state is coloured as one. On a terminal every line is made to fit.
    """
    clean = [[one_cell(cell) for cell in row] for row in rows]
    widths = [
        max([cell_len(column.title), *(cell_len(row[i]) for row in clean)])
        for i, column in enumerate(columns)
    ]
    limit = width()
    if limit is not None:
        _shrink(columns, widths, limit)
    out = [_line(columns, widths, [column.title for column in columns], title=True)]
    for number, row in enumerate(clean):
        out.append(_line(columns, widths, row))
        if number < len(notes) and notes[number]:
            line = Text(f"  └ {one_cell(notes[number])}", style="dim")
            if limit is not None:
                line.truncate(limit, overflow="ellipsis")
            out.append(line)
    return Text("\n").join(out)


def _shrink(columns: Sequence[Column], widths: list[int], limit: int) -> None:
    """Take cells from the widest column that may shrink, one by one, until the table fits."""
    while sum(widths) + 2 * (len(widths) - 1) > limit:
        able = [i for i, c in enumerate(columns) if c.shrink and widths[i] > _SHRINK_MIN]
        if not able:
            return
        widths[max(able, key=widths.__getitem__)] -= 1


def _line(
    columns: Sequence[Column], widths: Sequence[int], cells: Sequence[str], *, title: bool = False
) -> Text:
    out = Text()
    for column, space, cell in zip(columns, widths, cells, strict=True):
        text = Text(cell, style="bold" if title else STYLES.get(cell, ""))
        text.truncate(space, overflow="ellipsis")
        gap = " " * (space - text.cell_len)
        out.append("  " if len(out) else "")
        out.append_text(Text(gap) + text if column.right else text + Text(gap))
    out.rstrip()
    return out


def pairs(given: Iterable[tuple[str, str]]) -> Text:
    """Names and values, aligned; those with an empty value are left out."""
    shown = [(name, one_cell(value)) for name, value in given if value]
    indent = max((len(name) for name, _ in shown), default=0)
    return Text("\n").join(
        Text.assemble((f"{name:<{indent}}  ", "dim"), (value, STYLES.get(value, "")))
        for name, value in shown
    )
