"""Mutation run: change one thing in a module, run the tests that touch it, list what survives."""

import argparse
import ast
import os
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from changes import Mutant, mutants
from running import KILLED_BY_TIME, Trace, run_changed, trace

ROOT = Path(__file__).resolve().parents[2]
NO_TESTS = 5  # pytest's exit code when nothing was chosen
TESTS = [
    "tests/kernel",
    "tests/brokers",
    # It looks for lines of the source, which a change removes.
    "--ignore=tests/brokers/test_planted_faults.py",
    # Real workers in real time: on a busy machine they would fail, and count as having noticed.
    "--ignore=tests/brokers/test_with_workers.py",
]


def main() -> None:
    """Print the survivors of each module and how many were killed."""
    options = _options()
    os.chdir(ROOT)
    modules = [path.resolve() for path in options.modules]
    print("tracing the tests on the unchanged code", flush=True)
    traced = trace(options.tests or TESTS, modules)
    total = killed = 0
    for path in modules:
        chosen = _sample(mutants(path.read_text(encoding="utf-8")), options)
        survivors = _run(path, chosen, traced)
        total += len(chosen)
        killed += len(chosen) - survivors
    print(f"all: {killed} of {total} killed ({killed / max(total, 1):.1%}), seed {options.seed}")


def _run(path: Path, chosen: Sequence[Mutant], traced: Trace) -> int:
    """Run every mutant of one module; how many survived."""
    name = path.relative_to(ROOT)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    whole = traced.touching(path)
    if run_changed(path, lambda: compile(tree, str(path), "exec"), whole, traced, quiet=False) != 0:
        sys.exit(f"{name}: its tests fail in a fork although nothing is changed")
    survivors = late = 0
    began = time.monotonic()
    for mutant in chosen:
        tests = _tests(mutant, tree, path, traced)
        # Bound to this mutant: the fork calls it before the loop goes on.
        code = run_changed(path, lambda m=mutant: m.code(str(path)), tests, traced)
        late += code == KILLED_BY_TIME
        if code in (0, NO_TESTS):
            survivors += 1
            print(f"  survived: {name}:{mutant.line}: {mutant.change}", flush=True)
    killed = len(chosen) - survivors
    seconds = time.monotonic() - began
    print(
        f"{name}: {len(chosen)} changed, {killed} killed ({late} by time),"
        f" {survivors} survived, {seconds:.0f} s",
        flush=True,
    )
    return survivors


def _tests(mutant: Mutant, tree: ast.Module, path: Path, traced: Trace) -> list[str]:
    """The tests that can notice: those that run the changed lines, or what uses their names."""
    spans = [mutant.span]
    if mutant.names:
        functions = (
            n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))
        )
        users = [f for f in functions if mutant.names & _read(f)]
        spans = [(f.body[0].lineno, f.end_lineno or f.lineno) for f in users]
    lines = [line for first, last in spans for line in range(first, last + 1)]
    return traced.touching(path, lines) or traced.touching(path)


def _read(function: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}


def _sample(found: list[Mutant], options: argparse.Namespace) -> list[Mutant]:
    """A random part of the mutants, the same for the same seed, in the order of the text."""
    if options.lines:
        first, _, last = options.lines.partition("-")
        found = [m for m in found if int(first) <= m.line <= int(last or first)]
    if options.sample and options.sample < len(found):
        picked = random.Random(options.seed).sample(range(len(found)), options.sample)  # noqa: S311
        return [found[n] for n in sorted(picked)]
    return found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/mutate", description=__doc__)
    parser.add_argument("modules", nargs="+", type=Path, help="files below src/ropeway")
    parser.add_argument("--sample", type=int, default=0, help="so many of each module (0: all)")
    parser.add_argument("--seed", type=int, default=1, help="which ones")
    parser.add_argument(
        "--tests", nargs="+", help="files or folders, instead of kernel and brokers"
    )
    parser.add_argument("--lines", default="", help="only in these lines: 120 or 100-140")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
