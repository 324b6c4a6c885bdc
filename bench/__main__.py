"""The command behind `scripts/bench redis`."""

import argparse
import json
import shutil
import sys
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.arena import Conditions, Size
from bench.install import install
from bench.places import RESULTS
from bench.report.facts import machine
from bench.report.plot import plot
from bench.report.results import results
from bench.report.table import tables
from bench.roster import NAMES, RIVALS
from bench.rounds import Rounds, rows_of
from bench.scenarios import QUICK, SCENARIOS

QUICK_SIZE = Size(
    drain_s=1.0,
    enqueue_s=0.7,
    pace_s=1.5,
    crash_jobs=500,
    crash_cap_s=30.0,
    classic_jobs=2_000,
    patience_s=30.0,
)


def main() -> int:
    """Measure, show, write; 1 when Ropeway lost a job."""
    said = _arguments()
    console = Console(stderr=True, highlight=False)

    def tell(line: str) -> None:
        console.print(line, soft_wrap=True, markup=False)

    if said.show:
        found = json.loads(said.show.read_text(encoding="utf-8"))
        _show(found)
        return 0
    if not shutil.which("redis-server"):
        tell("error: there is no redis-server on PATH; install Redis 7 (Debian: redis-server)")
        return 2
    rivals = [rival for rival in RIVALS if not said.only or rival.name in said.only]
    refused = install(rivals, tell)
    facts = machine()
    rows = rows_of(rivals, said.scenarios)
    for row in rows:
        row.refused = refused.get(row.case.rival.name, "")
    began = datetime.now(UTC)
    size = _size(said)
    with tempfile.TemporaryDirectory(prefix="ropeway-bench-") as folder:
        conditions = Conditions(
            folder=Path(folder), fsync=said.fsync, size=size, ropeway_url=said.ropeway_url
        )
        try:
            Rounds(conditions, said.repeat, tell).fill(rows)
        except KeyboardInterrupt:
            tell("interrupted: what has been measured is written")
    run = {
        "fsync": said.fsync,
        "repeat": said.repeat,
        "scenarios": said.scenarios,
        "size": vars(size),
        "ropeway_url": said.ropeway_url or "as the others",
        "started": began.isoformat(timespec="seconds"),
        "minutes": round((datetime.now(UTC) - began).total_seconds() / 60, 1),
    }
    found = results(rows, run, facts)
    _write(found, said.out, _name(said))
    _show(found)
    return 1 if _lost(found) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench redis", description="Ropeway beside its rivals on one Redis."
    )
    add = parser.add_argument
    add("--only", type=_names(NAMES), default=[], help=f"of {','.join(NAMES)}")
    add("--scenarios", type=_names(tuple(SCENARIOS)), default=[], help=f"of {','.join(SCENARIOS)}")
    add("--jobs", type=int, default=0, help="jobs of each drain, instead of some seconds' worth")
    add("--repeat", type=int, default=0, help="runs of each measurement (3; --quick: 1)")
    add("--fsync", choices=["everysec", "always"], default="everysec", help="of Redis' file")
    add("--quick", action="store_true", help=f"less of {','.join(QUICK)}, in a few minutes")
    add(
        "--cap",
        type=float,
        default=0,
        help="seconds to wait after the last kill (120; --quick: 30)",
    )
    add("--ropeway-url", default="", help="another store for Ropeway; {place} is a new folder")
    add("--out", type=Path, default=RESULTS, help="folder of the results")
    add("--show", type=Path, metavar="JSON", help="show the tables of an earlier run, and end")
    said = parser.parse_args()
    said.partial = bool(said.only or said.scenarios or said.jobs or said.ropeway_url)
    said.scenarios = said.scenarios or list(QUICK if said.quick else SCENARIOS)
    said.repeat = said.repeat or (1 if said.quick else 3)
    return said


def _names(known: tuple[str, ...]) -> Any:
    def parse(text: str) -> list[str]:
        wanted = [word.strip() for word in text.split(",")]
        if unknown := set(wanted) - set(known):
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: say some of {','.join(known)}")
        return wanted

    return parse


def _size(said: argparse.Namespace) -> Size:
    size = QUICK_SIZE if said.quick else Size()
    return replace(size, jobs=said.jobs, crash_cap_s=said.cap or size.crash_cap_s)


def _name(said: argparse.Namespace) -> str:
    """A part of a run never takes the place of a whole one."""
    ending = "-part" if said.partial else "-quick" if said.quick else ""
    return f"redis-{said.fsync}{ending}"


def _write(found: dict[str, Any], folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    (folder / f"{name}.json").write_text(text, encoding="utf-8")
    shown = "\n".join(table.markdown() for table in tables(found))
    (folder / f"{name}.md").write_text(f"{_heading(found)}\n\n{shown}", encoding="utf-8")
    (folder / f"{name}.svg").write_text(plot(found), encoding="utf-8")


def _heading(found: dict[str, Any]) -> str:
    facts, run = found["machine"], found["run"]
    load = ", ".join(map(str, facts["load_before"]))
    return (
        f"{facts['cpu']}, {facts['cores']} cores, {facts['memory_gb']} GB; {facts['system']}; "
        f"Python {facts['python']}, Go {facts['go']}, Redis {facts['redis']}; "
        f"load before {load}; {run['started']}, {run['minutes']} minutes"
    )


def _show(found: dict[str, Any]) -> None:
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 240)
    console.print(_heading(found), soft_wrap=True)
    console.print()
    for table in tables(found):
        table.show(console)


def _lost(found: dict[str, Any]) -> bool:
    own = [row for row in found["rows"] if row["rival"] == "ropeway"]
    return any(row["figures"].get("missing", [0])[0] for row in own)


if __name__ == "__main__":
    sys.exit(main())
