"""`python -m ropeway.testing.simulation`: many seeds, or one of them again with its history."""

import argparse
import sys
from dataclasses import replace

from ropeway.testing.simulation import BROKERS, History, Result, simulate


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line asks for; 0 when nothing was violated."""
    parser = argparse.ArgumentParser(
        prog="python -m ropeway.testing.simulation", description=__doc__
    )
    parser.add_argument("--broker", choices=sorted(BROKERS), help="only this one (default: all)")
    parser.add_argument("--seed", type=int, help="this seed alone, with its history")
    parser.add_argument("--seeds", type=int, default=60, help="so many seeds (default: 60)")
    parser.add_argument("--first", type=int, default=0, help="the first of them (default: 0)")
    parser.add_argument("--job", help="with --seed: only the events of this job, and the faults")
    given = parser.parse_args(arguments)
    brokers = [given.broker] if given.broker else sorted(BROKERS)
    if given.seed is not None:
        results = [simulate(given.seed, broker=broker) for broker in brokers]
        for result in results:
            sys.stdout.write(
                result.history.about(given.job) + "\n" if given.job else result.history.text()
            )
    else:
        seeds = range(given.first, given.first + given.seeds)
        results = [_tell(simulate(seed, broker=broker)) for broker in brokers for seed in seeds]
    for result in results:
        for said in result.violations:
            sys.stdout.write(f"VIOLATED (seed {result.seed}, {result.broker}): {said}\n")
    _sum_up(results)
    return 1 if any(result.violations for result in results) else 0


def _tell(result: Result) -> Result:
    """Say at once what is wrong; the history goes, since thousands of them fill the memory."""
    if result.violations:
        sys.stderr.write(f"seed {result.seed}: {result.violations[0]}\n  again: {result.replay}\n")
    return replace(result, history=History())


def _sum_up(results: list[Result]) -> None:
    cpu_s = sum(result.cpu_s for result in results)
    simulated_s = sum(result.simulated_s for result in results)
    bad = sum(1 for result in results if result.violations)
    digests = results[0].history.digest() if len(results) == 1 else ""
    sys.stdout.write(
        f"{len(results)} seeds, {bad} violated; {simulated_s:.0f} simulated s in {cpu_s:.1f} CPU s "
        f"({simulated_s / cpu_s:.0f}x, {len(results) / cpu_s:.1f} seeds/CPU s) {digests}".rstrip()
        + "\n"
    )


if __name__ == "__main__":
    sys.exit(main())
