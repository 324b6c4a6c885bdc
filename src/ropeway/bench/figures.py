"""What is told besides the speed: settings and machine; and several runs put together."""

import asyncio
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final

from ropeway.capabilities import Capabilities
from ropeway.worker import WorkerOptions

Figures = dict[str, float]
"""Measured in one run, by name; the unit ends the name."""

SUMMED: Final = frozenset({"lost", "repeated"})
"""Over several runs these are added up: one lost job in one of ten runs is one too many."""


def settings(url: str, capabilities: Capabilities, *, concurrency: int | str) -> dict[str, Any]:
    """How the jobs are to be kept and run; asked for before the first run."""
    return {
        "scheme": url.partition(":")[0],
        "broker": capabilities.name,
        "durability": capabilities.durability,
        "ack": "after",
        "lease_ms": WorkerOptions().lease_ms,
        "concurrency": concurrency,
        "worker": "own process" if capabilities.shared else "same process as the producer",
        "event_loop": type(asyncio.get_running_loop()).__module__.partition(".")[0],
        "load_before": round(os.getloadavg()[0], 2),  # of other programs, on a shared machine
    }


def machine() -> dict[str, Any]:
    """Where it ran."""
    return {
        "ropeway": version("ropeway"),
        "python": platform.python_version(),
        "cores": cores(),
        "cpu": _cpu_model() or platform.processor() or platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
    }


def cores() -> int:
    """The processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123 - no file of ours
            lines = [line for line in file if line.startswith("model name")]
    except OSError:
        return ""
    return lines[0].partition(":")[2].strip() if lines else ""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a bench has found out: its settings, the figures, and where they were measured.

    Attributes:
        figures: medians over the runs; `lost` and `repeated` are added up.
        spread: the least and the greatest value of each figure, of several runs.

    """

    bench: str
    settings: Mapping[str, Any]
    runs: int
    figures: Figures
    spread: Mapping[str, tuple[float, float]]

    @classmethod
    def of(cls, bench: str, settings: Mapping[str, Any], runs: Sequence[Figures]) -> "Answer":
        """Put the figures of all runs together."""
        values = {name: [run[name] for run in runs] for name in runs[0]}
        figures = {
            name: _significant(sum(many) if name in SUMMED else statistics.median(many))
            for name, many in values.items()
        }
        spread = {
            name: (_significant(min(many)), _significant(max(many)))
            for name, many in values.items()
            if len(runs) > 1
        }
        return cls(bench=bench, settings=settings, runs=len(runs), figures=figures, spread=spread)

    def facts(self) -> dict[str, Any]:
        """Everything but the figures."""
        return {"bench": self.bench, **self.settings, "runs": self.runs, **machine()}

    def plain(self) -> dict[str, Any]:
        """All of it in one flat object, for JSON; `spread` is there for several runs."""
        spread = {"spread": self.spread} if self.spread else {}
        return {**self.facts(), **self.figures, **spread}


def _significant(value: float) -> float:
    """To six digits: more would be noise."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


def percentile(ordered: Sequence[float], fraction: float) -> float:
    """The smallest value that at least this fraction of them does not exceed (nearest rank)."""
    rank = -int(-fraction * len(ordered) // 1)  # rounded up
    return ordered[max(0, rank - 1)]
