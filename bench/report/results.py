"""From the rows of a run to one plain object: medians with least and greatest, and reasons."""

import statistics
from collections.abc import Sequence
from typing import Any

from bench.arena import Figures
from bench.rounds import Row

SUMMED = {"missing", "repeated"}  # one lost job in one of three runs is one too many


def results(rows: Sequence[Row], run: dict[str, Any], machine: dict[str, Any]) -> dict[str, Any]:
    """All of it, for JSON, the tables and the plot."""
    return {"machine": machine, "run": run, "rows": [_plain(row, machine) for row in rows]}


def _plain(row: Row, machine: dict[str, Any]) -> dict[str, Any]:
    case = row.case
    return {
        "scenario": case.scenario,
        "rival": case.rival.name,
        "version": case.rival.version or machine["ropeway"],
        "setting": case.setting.name,
        "concurrency": case.concurrency,
        "ack": case.setting.ack,
        "note": case.setting.note,
        "runs": len(row.runs),
        "figures": _together(row.runs),
        "unsupported": row.unsupported,
        "failed": row.reasons or ([row.refused] if row.refused else []),
    }


def _together(runs: Sequence[Figures]) -> dict[str, list[float]]:
    """Median, least and greatest of each figure, or the sum thrice."""
    names = dict.fromkeys(name for run in runs for name in run)
    found: dict[str, list[float]] = {}
    for name in names:
        values = [run[name] for run in runs if name in run]
        middle = sum(values) if name in SUMMED else statistics.median(values)
        found[name] = [float(f"{value:.5g}") for value in (middle, min(values), max(values))]
    return found
