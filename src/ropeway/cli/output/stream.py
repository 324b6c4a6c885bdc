"""Writing to stdout and stderr. Rich is imported only by what a person will read."""

import io
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ropeway.cli.exits import Exit, Failure

if TYPE_CHECKING:
    from rich.text import Text


def emit(text: str, *, end: str = "\n") -> None:
    """Write to stdout at once. A reader that went away ends the command quietly."""
    try:
        sys.stdout.write(text + end)
        sys.stdout.flush()
    except BrokenPipeError:
        # What is still buffered would fail again when the interpreter flushes it at its end.
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        raise Failure("", Exit.READER_GONE) from None


def note(text: str) -> None:
    """A line for the person at the terminal, on stderr."""
    print(text, file=sys.stderr, flush=True)


def emit_json(value: Any) -> None:
    """One JSON document: indented for a person's eyes, on one line for a pipe."""
    data = msgspec.json.encode(value)
    if sys.stdout.isatty():
        data = msgspec.json.format(data)
    emit(data.decode())


def emit_json_line(value: Any) -> None:
    """One JSON document on one line: an item of a stream."""
    emit(msgspec.json.encode(value).decode())


def emit_text(text: "Text") -> None:
    """A Rich text, in colours if stdout is a terminal that wants them."""
    from rich.console import Console

    written = io.StringIO()
    # Lines that must fit were cut before: Rich may not wrap what goes to a pipe.
    styled = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    console = Console(file=written, force_terminal=styled, highlight=False)
    console.print(text, soft_wrap=True)
    emit(written.getvalue(), end="")


def width() -> int | None:
    """Columns of the terminal; None when stdout is not one: nothing is cut in a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def one_cell(text: str) -> str:
    """The text on one line, control characters made visible: a job's words are not trusted."""
    return printable(" ".join(text.split()))


def printable(text: str) -> str:
    """The text without control characters that would steer the terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)
