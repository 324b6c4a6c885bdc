"""docs/verify.md states every invariant once, and names checks that exist."""

import re
from pathlib import Path

from forging import Forgery

from ropeway.testing import contract
from ropeway.verify.checks import run_checks

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "verify.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| ([A-Z]\d) \| (.*) \|$", PAGE, re.MULTILINE))
IDS = [
    "E1",
    "E2",
    "E3",
    "E4",
    "A1",
    "A2",
    "A3",
    "A4",
    "F1",
    "F2",
    "R1",
    "R2",
    "R3",
    "R4",
    "U1",
    "W1",
    "S3",
    "P1",
    "X1",
    "T1",
    "O1",
    "L1",
    "B1",
    "Q1",
    "D1",
    "N1",
]


def test_every_invariant_is_stated_once() -> None:
    assert list(ROWS) == IDS


def test_every_check_stands_beside_its_invariant() -> None:
    for check in run_checks(Forgery().history()):
        assert f"*{check.name}*" in ROWS[check.id]


def test_every_place_that_is_named_exists() -> None:
    named = re.findall(r"`([\w/.]+)`", "".join(row.split("|")[-1] for row in ROWS.values()))
    themes = {
        base.__name__ for base in contract.JobStoreContract.__mro__ if "Contract" in base.__name__
    }
    missing = [n for n in named if not (n in themes or (ROOT / n).exists())]
    assert missing == []
    assert len(named) > 15
