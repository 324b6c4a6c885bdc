"""What a run has shown: figures, checks, faults, and the verdict."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ropeway.verify.checks import Check, run_checks
from ropeway.verify.history import History
from ropeway.verify.ledger import Event
from ropeway.verify.load import KILLS, Plan

EXAMPLES: Final = 3
PRODUCER_AT_WORK_S: Final = 1.0
# Figures that programs may count on, also where nothing was there to be measured.
_FIGURES: Final = ("recovery_p50_s", "recovery_p99_s", "recovery_max_s")


@dataclass(frozen=True, slots=True)
class Strikes:
    """How often a kind of fault struck, and how often it hit what it was meant for.

    Attributes:
        strikes: faults; one that kills all workers counts once.
        hits: those that hit a held lease, or a producer at work.
        leases: held leases that were hit, in all.
        hits_min: as many hits are asked for.

    """

    strikes: int = 0
    hits: int = 0
    leases: int = 0
    hits_min: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """The answer of `verify`."""

    facts: Mapping[str, Any]
    checks: Sequence[Check]
    faults: Mapping[str, Strikes]
    unfinished: Sequence[str]

    @property
    def complaints(self) -> list[str]:
        """Why the run fails, a line each; empty when all held."""
        said = [
            f"{check.id} {check.name}: {len(check.findings)} of {check.examined}"
            for check in self.checks
            if check.findings
        ]
        said += [
            f"faults: {kind} hit {counted.hits} times, {counted.hits_min} were asked for"
            for kind, counted in self.faults.items()
            if counted.hits < counted.hits_min
        ]
        return [*said, *self.unfinished]

    @property
    def held(self) -> bool:
        """Whether everything held, and every fault was tried often enough to say so."""
        return not self.complaints

    def figures(self) -> dict[str, float | None]:
        """The words of the report, as numbers."""
        count = {check.name: len(check.findings) for check in self.checks}
        measured = {name: value for check in self.checks for name, value in check.figures.items()}
        return {
            "kills": sum(self.faults[kind].strikes for kind in KILLS if kind in self.faults),
            "lost": count["lost"],
            "unexpected": count["unexpected"],
            "final_twice": count["final twice"],
            "unexplained_repeats": count["unexplained repeats"],
            **dict.fromkeys(_FIGURES),
            **measured,
        }

    def plain(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {
            "held": self.held,
            **self.facts,
            **self.figures(),
            "faults": {
                kind: {
                    "strikes": counted.strikes,
                    "hits": counted.hits,
                    "leases": counted.leases,
                    "hits_min": counted.hits_min,
                }
                for kind, counted in self.faults.items()
            },
            "checks": [
                {
                    "id": check.id,
                    "name": check.name,
                    "held": not check.findings,
                    "examined": check.examined,
                    "violations": len(check.findings),
                    "examples": [
                        {
                            "job": finding.job,
                            "what": finding.what,
                            "ledger": [event.line() for event in finding.lines],
                        }
                        for finding in check.findings[:EXAMPLES]
                    ],
                }
                for check in self.checks
            ],
            "complaints": self.complaints,
        }


def report_of(
    history: History, plan: Plan, facts: Mapping[str, Any], *, unfinished: Sequence[str] = ()
) -> Report:
    """Check the history and count the faults.

    Args:
        history: of the whole run.
        plan: what was asked for.
        facts: settings and sizes, told as they are.
        unfinished: what the run itself has to complain about.

    """
    counted = faults_in(history)
    faults = {
        kind: Strikes(
            strikes=counted[kind].strikes,
            hits=counted[kind].hits,
            leases=counted[kind].leases,
            # A run that was ended by its minutes is held to what it had time for.
            hits_min=0 if plan.minutes is not None else plan.hits_min[kind],
        )
        for kind in plan.faults
    }
    return Report(facts, run_checks(history), faults, unfinished)


def faults_in(history: History) -> Mapping[str, Strikes]:
    """Strikes and hits by kind, all of it from the ledger."""
    strikes: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for fault in history.faults:
        strikes[fault.kind][fault.key] += _hit_by(history, fault)
    counted: dict[str, Strikes] = defaultdict(Strikes)
    for kind, hits in strikes.items():
        held = hits.values()
        leases = 0 if kind == "kill_producer" else sum(held)
        counted[kind] = Strikes(len(hits), sum(map(bool, held)), leases)
    return counted


def _hit_by(history: History, fault: Event) -> int:
    """How many leases the process held; of a producer, whether it had just asked for something."""
    if fault.kind != "kill_producer":
        return len(history.struck_runs(fault))
    return any(
        0 <= fault.at_s - asked_s < PRODUCER_AT_WORK_S
        for asked_s in history.asks_s.get(fault.pid, ())
    )
