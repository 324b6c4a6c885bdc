"""Time, chance, ids and threads come through one seam, or a simulation would not be one."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import ropeway

SRC = Path(ropeway.__file__).parent
ASKED_OF_THE_HOST = (
    "time.",
    "random.",
    "secrets.",
    "uuid.",
    "os.urandom",
    "datetime.datetime.now",
    "threading.Thread",
    "threading.Timer",
    "asyncio.to_thread",
    "subprocess.",
    "multiprocessing.",
    "asyncio.create_subprocess",
)
ASKS_NOTHING = {  # types, and how a given time is written
    "random.Random",
    "multiprocessing.connection.Connection",
    "time.gmtime",
    "time.localtime",
    "time.strftime",
}

# Each has to do with a process or a thread of the host itself.
REAL = {
    "brokers/sqlite/connection.py": {"time.sleep"},  # while another process migrates
    "worker/autopilot/pilot.py": {"time.process_time"},  # the CPU of this process
    "worker/beater.py": {"asyncio.to_thread"},  # waits for the thread that the seam has started
    "worker/process/supervisor.py": {"time.monotonic", "asyncio.create_subprocess_exec"},
    "worker/process/watchdog.py": {"time.monotonic", "time.process_time"},
    "worker/handlers/child.py": {"threading.Thread", "time.monotonic", "time.sleep"},
    "worker/handlers/processes.py": {"multiprocessing.get_context"},
}


def imported(tree: ast.Module) -> dict[str, str]:
    """What each name of a module stands for: `monotonic` -> `time.monotonic`."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.partition(".")[0]
                names[alias.asname or first] = alias.name if alias.asname else first
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    return names


def asked(source: str) -> Iterator[str]:
    """The host's functions that a module names."""
    tree = ast.parse(source)
    names = imported(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            full = f"{names.get(node.value.id, '')}.{node.attr}"
        elif isinstance(node, ast.Name):
            full = names.get(node.id, "")
        else:
            continue
        if full.startswith(ASKED_OF_THE_HOST) and full not in ASKS_NOTHING:
            yield full


def modules() -> list[Path]:
    found = [path for part in ("brokers", "worker") for path in (SRC / part).rglob("*.py")]
    return sorted([*found, SRC / "submit.py", SRC / "job.py", SRC / "app.py", SRC / "task.py"])


@pytest.mark.parametrize("path", modules(), ids=lambda path: path.relative_to(SRC).as_posix())
def test_brokers_and_workers_ask_nothing_of_the_host_but_through_the_seam(path: Path) -> None:
    allowed = REAL.get(path.relative_to(SRC).as_posix(), set[str]())
    found = set(asked(path.read_text(encoding="utf-8")))
    assert found <= allowed, f"take {sorted(found - allowed)} from `ropeway.runtime`"


def test_no_exception_is_left_over() -> None:
    for name, allowed in REAL.items():
        assert set(asked((SRC / name).read_text(encoding="utf-8"))) == allowed


@pytest.mark.parametrize(
    "source",
    [
        "import time\ntime.monotonic()",
        "from time import monotonic as m\nm()",
        "import random as r\nr.uniform(0, 1)",
        "from threading import Thread\nThread()",
        "import os\nos.urandom(8)",
    ],
)
def test_the_rule_sees_through_imports(source: str) -> None:
    assert list(asked(source))
