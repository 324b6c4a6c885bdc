"""The guide's examples are programs: they pass a type checker, and its commands exist."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "guide.md").read_text()

BEFORE = """\
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from decimal import Decimal

from ropeway import Backoff, BatchContext, CircuitBreaker, Concurrency, Context, Event, Fair
from ropeway import QueueFull, RateLimit, Ropeway, Rule, Tasks, Unique


@dataclass
class Document:
    tenant: str
    text: str


class Shop: ...
class Throttled(Exception): ...


app = Ropeway[Shop]("memory://", lifespan=lambda: NotImplemented)
texts = ["one", "two"]


async def pages(site: str, *, start: int) -> AsyncGenerator[int]:
    yield start


@app.task
async def merge(ids: list[str]) -> int: ...
"""
"""What the guide takes for granted."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)


def as_module(block: str, number: int) -> str:
    """The block as it is, or inside of a function where it awaits."""
    if not re.search(r"^(\w+ = )?await ", block, re.MULTILINE):
        return block
    lines = "\n".join("    " + line for line in block.splitlines())
    return f"async def example_{number}() -> None:\n{lines}\n"


def test_the_examples_pass_a_strict_type_checker(tmp_path: Path) -> None:
    examples = [as_module(block, number) for number, block in enumerate(blocks("python"))]
    assert len(examples) > 5
    program = tmp_path / "guide.py"
    program.write_text("\n\n".join((BEFORE, *examples)))
    checked = subprocess.run(
        [
            Path(sys.executable).parent / "mypy",
            "--strict",
            "--disable-error-code=empty-body",  # the guide writes `...`
            "--cache-dir",
            tmp_path / "cache",
            program,
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


COMMANDS = re.findall(r"^ropeway .+$", "\n".join(blocks("sh")), re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_understood(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = shlex.split(command, comments=True)[1:]
    ran = subprocess.run(
        [sys.executable, "-m", "ropeway", *words], capture_output=True, text=True, check=False
    )
    assert "See `ropeway" not in ran.stderr, "wrong usage"
    # It gets as far as looking for what this empty folder does not have.
    assert re.search(r"there is no (module 'shop'|database)", ran.stderr), ran.stderr
