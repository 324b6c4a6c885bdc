"""`ropeway version`."""

import platform
from importlib.metadata import version as version_of
from typing import Annotated

import typer

from ropeway.cli.output.stream import emit, emit_json


def version(
    json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Say which version this is."""
    facts = {
        "ropeway": version_of("ropeway"),
        "python": platform.python_version(),
        "apsw": version_of("apsw"),  # SQLite's own version and a number after it
        "platform": platform.platform(),
    }
    if json:
        emit_json(facts)
    else:
        emit(f"ropeway {facts['ropeway']} (Python {facts['python']}, apsw {facts['apsw']})")
