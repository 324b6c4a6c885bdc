"""The command line in this process, in a directory of its own."""

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from terminal import APP, Cli, Said, Store

from ropeway.broker import JobStore
from ropeway.cli.main import main


@pytest.fixture
def cli(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Cli]:
    """Run a command line: `cli("jobs", "list")`. The database is ropeway.db, made by `store`."""
    monkeypatch.chdir(tmp_path)
    for name in ("ROPEWAY_URL", "ROPEWAY_DEBUG", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    path = list(sys.path)

    def run(*argv: str, stdin: str = "") -> Said:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        capsys.readouterr()
        code = main(argv)
        captured = capsys.readouterr()
        return Said(code, captured.out, captured.err)

    yield run
    sys.path[:] = path
    sys.modules.pop("jobs_app", None)


@pytest.fixture
def app_file(tmp_path: Path) -> Path:
    path = tmp_path / "jobs_app.py"
    path.write_text(APP, encoding="utf-8")
    return path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "ropeway.db")
    store.run(_nothing)
    return store


async def _nothing(_broker: JobStore) -> None: ...
