"""Uniqueness, time, order, pause and cancel."""

from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise
from typing import Final

from ropeway.verify.checks.finding import Check, Finding, check, shown
from ropeway.verify.checks.percentile import percentile
from ropeway.verify.history import Asked, History, Interval, Run
from ropeway.verify.ledger import Event
from ropeway.verify.load import LIMIT_SLOTS

Found = tuple[int, Iterable[Finding]]

CLOCK_S: Final = 0.005
"""A broker counts whole milliseconds by a clock that may be slewed."""
PAUSE_SEEN_S: Final = 1.0
CANCEL_SEEN_S: Final = 1.0
TIMEOUT_SEEN_S: Final = 1.0
WAKE_MAX_S: Final = 2.0


@check("U1", "unique")
def unique(history: History) -> Found:
    """While a job with a key is unfinished, no other one with that key is stored or runs."""
    by_key: dict[str, list[Asked]] = defaultdict(list)
    for asked in history.jobs("unique"):
        by_key[asked.first.key].append(asked)
    found: list[Finding] = []
    for key, rivals in by_key.items():
        created = [r for r in rivals if r.is_stored or r.first.job in history.runs]
        for held in created:
            if held.acked is None:
                continue
            until_s = history.first_end_s(held.first.job)
            for other in created:
                if other is held or other.acked is None:
                    continue
                if held.acked.at_s < other.first.at_s and other.acked.at_s < until_s:
                    lines = (held.acked, other.first, other.acked)
                    found.append(Finding(other.first.job, f"stored while {key} was held", lines))
    return sum(map(len, by_key.values())), found


@check("S3", "early starts")
def early(history: History) -> Found:
    """A delayed job does not start before its time, by either clock of this host."""
    delayed = [asked for asked in history.asked.values() if asked.first.delay_s]
    found: list[Finding] = []
    for asked in delayed:
        run = history.next_start(asked.first.job, 0)
        if run is None:
            continue
        passed_s = max(run.start_s - asked.first.at_s, run.began.wall_s - asked.first.wall_s)
        if passed_s < asked.first.delay_s - CLOCK_S:
            early_s = asked.first.delay_s - passed_s
            lines = (asked.first, run.began)
            found.append(Finding(asked.first.job, f"{early_s:.3f} s early", lines))
    return len(delayed), found


@check("P1", "starts after pause")
def paused(history: History) -> Found:
    """From one second after `pause` has returned until `resume` no job of the queue starts."""
    began: Event | None = None
    spans: list[tuple[Event, Interval]] = []
    for event in history.events:
        if event.what == "pause":
            began = event
        elif event.what == "resume" and began is not None:
            spans.append((began, Interval(began.at_s + PAUSE_SEEN_S, event.at_s)))
            began = None
    found: list[Finding] = []
    for asked in history.jobs("paused"):
        for run in history.runs.get(asked.first.job, ()):
            for event, span in spans:
                is_in = span.start_s < run.start_s < span.end_s
                if is_in and not history.was_paused(run.began.pid, event.at_s, run.start_s):
                    found.append(
                        Finding(asked.first.job, "started while paused", (event, run.began))
                    )
    return len(spans), found


@check("X1", "starts after cancel")
def cancelled(history: History) -> Found:
    """A job whose cancel was answered while it waited does not start any more."""
    done = [a for a in history.asked.values() if a.cancelled and a.cancelled.detail == "done"]
    found: list[Finding] = []
    for asked in done:
        assert asked.cancelled is not None, "chosen so"
        run = history.next_start(asked.first.job, asked.cancelled.at_s)
        if run is not None and not history.was_paused(run.began.pid, asked.first.at_s, run.start_s):
            lines = (asked.cancelled, run.began)
            found.append(Finding(asked.first.job, "started after its cancel", lines))
    return len(done), found


@check("X1", "cancel while running")
def cancelled_while_running(history: History) -> Found:
    """A running handler is stopped within a second of the answer to its cancel."""
    told = [a for a in history.jobs("stopped") if a.cancelled]
    found: list[Finding] = []
    for asked in told:
        assert asked.cancelled is not None, "chosen so"
        last = history.runs[asked.first.job][-1]
        if last.end_s - asked.cancelled.at_s > CANCEL_SEEN_S:
            lines = (last.began, asked.cancelled, *([last.ended] if last.ended else []))
            found.append(Finding(asked.first.job, "did not see its cancel in time", lines))
    return len(told), found


@check("T1", "timeouts")
def timeouts(history: History) -> Found:
    """A handler is stopped at most a second after its timeout."""
    timed = history.jobs("timed")
    found: list[Finding] = []
    for asked in timed:
        limit_s = asked.first.work_ms / 2000  # see the probe: half of the work it would do
        for run in history.runs.get(asked.first.job, ()):
            if run.end_s - run.start_s > limit_s + TIMEOUT_SEEN_S:
                lines = (run.began, *([run.ended] if run.ended else []))
                found.append(Finding(asked.first.job, "ran on after its timeout", lines))
    return len(timed), found


@check("O1", "order")
def in_order(history: History) -> Found:
    """Of one ordering key, a job starts only after the one before it has returned."""
    by_key: dict[str, list[str]] = defaultdict(list)
    for asked in sorted(history.jobs("ordered"), key=lambda a: a.first.at_s):
        if asked.first.job in history.runs:
            by_key[asked.first.key].append(asked.first.job)
    found: list[Finding] = []
    for jobs in by_key.values():
        for job, following in pairwise(jobs):
            begins = history.runs[following][0]
            if begins.start_s < history.first_end_s(job):
                lines = (*shown(history, job), begins.began)
                found.append(Finding(following, f"overtook {job}", lines))
    return sum(map(len, by_key.values())), found


@check("L1", "slots")
def slots(history: History) -> Found:
    """Of one key of a limit, no more jobs run at any moment than it has slots."""
    runs: dict[str, list[Run]] = defaultdict(list)
    for asked in history.jobs("limited"):
        runs[asked.first.key] += history.runs.get(asked.first.job, [])
    found: list[Finding] = []
    for key, held in runs.items():
        open_: list[Run] = []
        for run in sorted(held, key=lambda run: run.start_s):
            open_ = [other for other in open_ if _holds_until_s(history, other) > run.start_s]
            open_.append(run)
            if len(open_) > LIMIT_SLOTS:
                lines = tuple(other.began for other in open_)
                what = f"{len(open_)} of {key} ran at once, {LIMIT_SLOTS} may"
                found.append(Finding(run.began.job, what, lines))
    return sum(map(len, runs.values())), found


def _holds_until_s(history: History, run: Run) -> float:
    """When a run's slot may be another's: at its end, or from when its worker was struck."""
    struck = [pause.start_s for pause in history.pauses.get(run.began.pid, ())]
    struck += [pause.start_s for pause in history.away]
    later = [at_s for at_s in struck if at_s >= run.start_s - history.lease_s]
    return min(run.end_s, run.died_s, run.replaced_s, *later)


def woken(history: History) -> Check:
    """A job that is enqueued while workers are idle starts within two seconds."""
    waited: list[float] = []
    found: list[Finding] = []
    for asked in history.jobs("wake"):
        run = history.next_start(asked.first.job, 0)
        wait_s = float("inf") if run is None else run.start_s - asked.first.at_s
        waited.append(wait_s)
        if wait_s > WAKE_MAX_S:
            lines = (asked.first, *([run.began] if run else []))
            found.append(Finding(asked.first.job, f"waited {wait_s:.1f} s", lines))
    figures = {"wakeup_p99_s": percentile(sorted(waited), 0.99)} if waited else {}
    return Check("W1", "woken", len(waited), tuple(found), figures)
