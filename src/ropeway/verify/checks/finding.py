"""The answer of one check."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ropeway.verify.history import History
from ropeway.verify.ledger import Event


@dataclass(frozen=True, slots=True)
class Finding:
    """One violation: which job, what is wrong, and the ledger's lines that show it."""

    job: str
    what: str
    lines: tuple[Event, ...] = ()


@dataclass(frozen=True, slots=True)
class Check:
    """What one check looked at, and what it found.

    Attributes:
        id: the invariant, as docs/verify.md names it.
        name: in a word or two.
        examined: how many jobs, runs or faults it is about; 0: nothing was there to be checked.
        figures: what it measured besides.

    """

    id: str
    name: str
    examined: int
    findings: tuple[Finding, ...] = ()
    figures: dict[str, float] = field(default_factory=dict[str, float])


def check(
    id_: str, name: str
) -> Callable[[Callable[[History], tuple[int, Iterable[Finding]]]], Callable[[History], Check]]:
    """Make a check of a function that says how many it examined, and what it found."""

    def of(
        function: Callable[[History], tuple[int, Iterable[Finding]]],
    ) -> Callable[[History], Check]:
        def run(history: History) -> Check:
            examined, findings = function(history)
            return Check(id_, name, examined, tuple(findings))

        run.__name__, run.__doc__ = function.__name__, function.__doc__
        return run

    return of


def shown(history: History, job: str, most: int = 8) -> tuple[Event, ...]:
    """The ledger's first lines about a job."""
    return tuple(history.lines.get(job, ())[:most])
