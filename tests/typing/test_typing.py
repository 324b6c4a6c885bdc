"""The types that users see: correct uses pass, and each misuse is an error on its own line."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BIN = Path(sys.executable).parent
FILES = ("correct.py", "misuses.py")

Errors = dict[str, dict[int, str]]  # by file, then by line


def expected(name: str) -> dict[int, str]:
    lines = (HERE / name).read_text().splitlines()
    found = {at: re.search(r"# E: (.+)$", line) for at, line in enumerate(lines, 1)}
    return {at: match[1] for at, match in found.items() if match}


def by_basedpyright(tmp_path: Path) -> Errors:
    # The settings of the project are for its own sources; a user's strict mode is the test here.
    settings = {
        "include": [str(HERE / name) for name in FILES],
        "typeCheckingMode": "strict",
        "pythonVersion": "3.11",
        "reportUnusedCoroutine": "none",
        "reportUnusedCallResult": "none",
    }
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    ran = subprocess.run(
        [
            BIN / "basedpyright",
            "--outputjson",
            "--project",
            tmp_path,
            "--pythonpath",
            sys.executable,
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    errors: Errors = {name: {} for name in FILES}
    for item in json.loads(ran.stdout)["generalDiagnostics"]:
        if item["severity"] == "error":
            line = item["range"]["start"]["line"] + 1
            errors[Path(item["file"]).name][line] = item["message"]
    return errors


def by_mypy(tmp_path: Path) -> Errors:
    ran = subprocess.run(
        [
            BIN / "mypy",
            "--cache-dir",
            tmp_path / "cache",
            "--no-error-summary",
            "--no-pretty",
            *(HERE / name for name in FILES),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert not ran.stderr, ran.stderr
    errors: Errors = {name: {} for name in FILES}
    for line in ran.stdout.splitlines():
        if match := re.match(r"(.+?):(\d+): error: (.*)", line):
            errors.setdefault(Path(match[1]).name, {})[int(match[2])] = match[3]
    return errors


@pytest.fixture(scope="module", params=[by_basedpyright, by_mypy], ids=["basedpyright", "mypy"])
def errors(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Errors:
    return request.param(tmp_path_factory.mktemp("checker"))


def test_correct_uses_are_accepted(errors: Errors) -> None:
    assert errors["correct.py"] == {}


def test_each_misuse_is_rejected_on_its_line_and_no_other_line_is(errors: Errors) -> None:
    marked, found = expected("misuses.py"), errors["misuses.py"]
    accepted = {at: what for at, what in marked.items() if at not in found}
    unmarked = {at: what for at, what in found.items() if at not in marked}
    assert (accepted, unmarked) == ({}, {})


def test_the_checker_saw_the_package_and_found_nothing_elsewhere(errors: Errors) -> None:
    assert set(errors) == set(FILES)


def test_there_is_a_fair_number_of_misuses() -> None:
    assert len(expected("misuses.py")) >= 14
