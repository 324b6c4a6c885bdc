"""Measure every file of a folder with several worker processes, one of which is killed half-way.

    python examples/source_report.py [FOLDER] [--workers 3] [--limit N] [--no-kill] [--db PATH]

One job a file, and one that merges their results when all of them have ended. Ends with the
report, what became of the jobs, and a check against the same numbers computed without any queue.
Exit code 0 only if no job was lost and the numbers agree. Without FOLDER it takes the sources of
Python's standard library; without --db it works in a temporary folder.
"""

import argparse
import asyncio
import contextlib
import os
import sysconfig
import tempfile
from collections.abc import Generator
from pathlib import Path

LIMIT = 1_000  # files; the whole standard library takes some 40 s on two slow cores
SKIPPED = {"__pycache__", "site-packages", "node_modules"}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n")[0],
        epilog=f"At most {LIMIT} files are measured unless --limit says otherwise.",
    )
    parser.add_argument(
        "folder", nargs="?", type=Path, default=Path(sysconfig.get_paths()["stdlib"])
    )
    parser.add_argument("--workers", type=int, default=3, help="worker processes (default 3)")
    parser.add_argument(
        "--limit",
        type=int,
        default=LIMIT,
        metavar="N",
        help=f"files, spread evenly over the folder; 0: all of them (default {LIMIT})",
    )
    parser.add_argument("--no-kill", dest="kill", action="store_false", help="kill no worker")
    parser.add_argument("--db", type=Path, metavar="PATH", help="database to use and keep")
    parser.add_argument(
        "--slow-ms", type=int, default=0, metavar="MS", help="wait so long in each job"
    )
    given = parser.parse_args()
    if given.workers < 1 or given.limit < 0 or given.slow_ms < 0:
        parser.error("--workers must be 1 or more, --limit and --slow-ms 0 or more")
    if not given.folder.is_dir():
        parser.error(f"{given.folder} is not a folder")
    return given


def files_of(folder: Path) -> list[str]:
    """Every file below the folder but caches, hidden ones and installed packages, sorted."""
    found: list[str] = []
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in SKIPPED and name[0] != "."]
        found += [f"{where}/{name}" for name in names if name[0] != "."]
    # Jobs travel as JSON, which cannot hold a name that is no UTF-8; those few are left out.
    return sorted(path for path in found if path.encode(errors="ignore").decode() == path)


def spread(paths: list[str], limit: int) -> list[str]:
    """At most `limit` of them, at equal distances; 0: all."""
    if not limit or len(paths) <= limit:
        return paths
    return [paths[place * len(paths) // limit] for place in range(limit)]


@contextlib.contextmanager
def workplace(database: Path | None) -> Generator[tuple[Path, Path]]:
    """A temporary folder, and the database: in it, unless another one was named."""
    with tempfile.TemporaryDirectory(prefix="source-report-") as made:
        yield Path(made), (database or Path(made) / "jobs.db").absolute()


def main() -> int:
    given = arguments()
    folder = given.folder.resolve()
    paths = files_of(folder)
    chosen = spread(paths, given.limit)
    if not chosen:
        print(f"{folder} has no files to measure")
        return 2
    print(f"Measuring {len(chosen):,} of {len(paths):,} files below {folder}")
    with workplace(given.db) as (place, database):
        os.environ["ROPEWAY_URL"] = f"sqlite:///{database}"
        os.environ["SOURCE_REPORT_LEDGER"] = str(place / "ledger")
        os.environ["SOURCE_REPORT_SLOW_MS"] = str(given.slow_ms)
        from source_report_run import run  # noqa: PLC0415 - the app reads ROPEWAY_URL when made

        work = run(str(folder), chosen, place=place, workers=given.workers, kill=given.kill)
        return asyncio.run(work)


if __name__ == "__main__":
    raise SystemExit(main())
