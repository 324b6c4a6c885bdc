"""Where and with what it was measured."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    """Processor, kernel and versions of the things that all rivals share."""
    return {
        "cpu": _cpu_model() or platform.machine(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "go": _said("go", "env", "GOVERSION").removeprefix("go"),
        "redis": _redis_version(),
        "ropeway": version("ropeway"),
        "commit": _said("git", "rev-parse", "--short", "HEAD"),
        "load_before": [round(load, 2) for load in os.getloadavg()],
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if "model name" in line), "")


def _redis_version() -> str:
    words = _said("redis-server", "--version").split()
    return next((word[2:] for word in words if word.startswith("v=")), "none")


def _said(*command: str) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=10, check=False, cwd=Path(__file__).parent
        )
    except OSError:
        return "none"
    return done.stdout.decode().strip()
