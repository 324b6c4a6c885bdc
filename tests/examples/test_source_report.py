"""The source report over a small folder with troublesome files, one worker killed half-way."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
GOOD = 26


def source_report(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / "source_report.py"), str(folder), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def value_of(name: str, output: str) -> str:
    found = re.search(rf"^  {name} +(.*)$", output, re.MULTILINE)
    assert found is not None, output
    return found[1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """26 sound files in two packages, one of them empty, and four that cannot be measured."""
    root = tmp_path / "sources"
    for place in range(GOOD - 2):
        package = root / f"package{place % 2}"
        package.mkdir(parents=True, exist_ok=True)
        (package / f"module{place}.py").write_text("x = 1\n" * (place + 1), "utf-8")
    (root / "empty.py").touch()
    (root / "notes ü.txt").write_text("no line break at the end", "utf-8")
    (root / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    (root / "latin.txt").write_bytes("Grüße".encode("latin-1"))
    (root / "broken.py").write_text("text = '''never closed\n", "utf-8")
    (root / "gone.py").symlink_to(root / "nowhere.py")
    (root / "__pycache__").mkdir()
    (root / "__pycache__" / "module0.pyc").write_bytes(b"\0")
    return root


def test_with_a_worker_killed_no_job_is_lost_and_the_totals_agree(folder: Path) -> None:
    done = source_report(folder, "--slow-ms", "100")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.match(r"process \d+ by SIGKILL after \d+ files", value_of("killed", done.stdout))
    assert value_of("lost", done.stdout) == "0 jobs"
    assert int(value_of("repeated", done.stdout).split()[0]) >= 1
    assert value_of("totals", done.stdout) == "equal to those of the plain process"
    assert f"Total: {GOOD} files, " in done.stdout
    assert "301 lines" in done.stdout  # 1 + 2 + … + 24, and the one of the notes


def test_files_that_cannot_be_measured_end_dead_with_a_reason_each(folder: Path) -> None:
    done = source_report(folder, "--no-kill", "--workers", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    for line in (
        "1  binary, e.g. picture.png",
        "1  not UTF-8, e.g. latin.txt",
        "1  not Python, e.g. broken.py",
        "1  FileNotFoundError, e.g. gone.py",
    ):
        assert line in done.stdout
    assert value_of("killed", done.stdout) == "no worker was killed"
    assert value_of("repeated", done.stdout).startswith("0 jobs")


def test_a_database_that_was_named_is_kept_and_can_be_used_again(
    folder: Path, tmp_path: Path
) -> None:
    database = tmp_path / "kept.db"
    for _ in range(2):
        options = ("--no-kill", "--workers", "1", "--limit", "4", "--db", str(database))
        done = source_report(folder, *options)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Measuring 4 of 30 files" in done.stdout
    assert database.is_file()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(["nowhere"], "nowhere is not a folder"), ([".", "--workers", "0"], "--workers")],
)
def test_bad_input_is_named(arguments: list[str], named: str) -> None:
    done = source_report(Path(arguments[0]), *arguments[1:])
    assert done.returncode == 2
    assert named in done.stderr


def test_an_empty_folder_is_said_to_be_empty(tmp_path: Path) -> None:
    done = source_report(tmp_path)
    assert done.returncode == 2
    assert "has no files to measure" in done.stdout


def test_the_short_example_runs_with_a_worker_beside_it(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES)}
    command = [sys.executable, "-m", "ropeway", "worker", "hello:app"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment) as worker:
        try:
            done = subprocess.run(
                [sys.executable, str(EXAMPLES / "hello.py")],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
        finally:
            worker.terminate()
    assert done.stdout == "Hello, Ada!\n[3, 3, 5]\n", done.stderr
