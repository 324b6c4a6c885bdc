"""What must hold, as functions from a history to the findings that break it."""

from collections.abc import Callable, Sequence

from ropeway.verify.checks import endings, recovery, repeats, rules
from ropeway.verify.checks.finding import Check, Finding
from ropeway.verify.history import History

__all__ = ["CHECKS", "Check", "Finding", "run_checks"]

CHECKS: Sequence[Callable[[History], Check]] = (
    endings.lost,
    endings.unexpected,
    endings.one_record,
    endings.never_ran,
    endings.final_twice,
    endings.final_left,
    endings.counts,
    repeats.unexplained_repeats,
    repeats.tokens,
    repeats.duplicates,
    repeats.overlaps,
    recovery.recovered,
    recovery.in_time,
    recovery.of_children,
    recovery.after_terminate,
    recovery.crash_budget,
    recovery.attempts,
    recovery.stuck_loop,
    recovery.store_away,
    rules.unique,
    rules.early,
    rules.paused,
    rules.cancelled,
    rules.cancelled_while_running,
    rules.timeouts,
    rules.in_order,
    rules.slots,
    rules.woken,
)


def run_checks(history: History) -> list[Check]:
    """All checks, in the order of the documentation."""
    return [check(history) for check in CHECKS]
