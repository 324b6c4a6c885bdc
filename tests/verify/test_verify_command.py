"""`ropeway verify` says what it found: exit code, table, JSON."""

import json
from pathlib import Path
from typing import Any

import pytest
from forging import Forgery

from ropeway.cli.main import main
from ropeway.verify import run
from ropeway.verify.load import Plan
from ropeway.verify.report import report_of

FACTS = {"broker": "sqlite"}


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """What was asked of `verify`, which answers with a forged run."""
    plans: list[Plan] = []

    def forged(plan: Plan, **_how: Any) -> Any:
        plans.append(plan)
        forgery = Forgery().done(1, 2)
        if "broken" in plan.url:
            forgery.final()
        return report_of(forgery.history(), Plan(url=plan.url, faults={}), FACTS)

    monkeypatch.setattr(run, "verify", forged)
    return plans


def test_it_exits_with_0_when_all_held(
    shown: list[Plan], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", "sqlite:///x.db", "--kills", "50", "--lease", "3s"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == "held: nothing was lost or doubled"
    assert (shown[0].kills, shown[0].lease_s) == (50, 3)


def test_it_exits_with_1_and_names_job_and_ledger_lines_when_something_is_broken(
    shown: list[Plan], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", "sqlite:///broken.db"]) == 1
    said = capsys.readouterr()
    assert "job became final 2 times" in said.out
    assert '"what":"start"' in said.out
    assert said.out.splitlines()[-1] == "NOT HELD"
    assert said.err == "error: not held: F1 final twice: 1 of 1\n"
    assert shown[0].kills == 100


def test_json_is_one_document(shown: list[Plan], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "sqlite:///broken.db", "--json", "--minutes", "2"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["held"], told["final_twice"], told["broker"]) == (False, 1, "sqlite")
    assert shown[0].minutes == 2


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["memory://"], "sqlite:///x.db"),
        (["nosuch://x"], "unknown scheme"),
        (["x.db"], "unknown scheme"),
        (["sqlite:///x.db", "--ledger", "nowhere/ledger"], "No such file"),
        (["sqlite:///x.db", "--kills", "2"], "5 or more"),
        (["sqlite:///x.db", "--workers", "1"], "2 or more"),
    ],
)
def test_what_cannot_be_verified_is_wrong_usage(
    arguments: list[str],
    match: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["verify", *arguments]) == 2
    assert match in capsys.readouterr().err
