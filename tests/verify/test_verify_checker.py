"""The checker finds what it is for: one forged history for each way to break a promise."""

from collections.abc import Callable

import pytest
from forging import ALICE, BOB, LEASE_S, Forgery

from ropeway.job import State
from ropeway.verify.checks import CHECKS, run_checks
from ropeway.verify.load import Plan
from ropeway.verify.report import report_of

PLAN = Plan(url="sqlite:///x.db", faults={})


def broken(forgery: Forgery) -> dict[str, int]:
    """The checks that found something, and how much."""
    return {c.name: len(c.findings) for c in run_checks(forgery.history()) if c.findings}


def good() -> Forgery:
    """One job of each kind, as it should be, with a fault of each kind, each with its excuse."""
    return (
        Forgery()
        .done(1.2, 1.3)
        .ask("failed", "retried")
        .run(2.0, 2.1, "failed", what="fail")
        .run(2.3, 2.4, "failed", token=2)
        .final("failed")
        .ask("killed", "quiet", 3.0)
        .run(3.1, None, "killed", pid=BOB)
        .add("fault", 3.5, pid=BOB, kind="kill_quiet", key="1")
        .run(5.4, 5.5, "killed", token=2)
        .final("killed")
        .ask("frozen", at_s=6.0)
        .add("fault", 6.2, kind="freeze", until_s=9.2, key="2")
        .run(6.1, 9.3, "frozen")
        .run(8.3, 8.4, "frozen", pid=300, token=2)
        .final("frozen")
        .done(12.0, 12.1, "late", "delayed", at_s=11.0, delay_s=1.0)
        .done(13.0, 13.1, "first", "ordered", key="k", at_s=12.9)
        .done(13.2, 13.3, "second", "ordered", key="k", at_s=12.95)
        .done(14.0, 14.1, "one", "unique", key="u", at_s=13.9)
        .done(14.3, 14.4, "two", "unique", key="u", at_s=14.2)
        .done(14.5, 14.6, "slot", "limited", key="l", at_s=14.4)
        .ask("gone", "cancelled", 15.0)
        .add("cancel", 15.1, job="gone", detail="done")
        .final("gone", State.CANCELLED)
    )


def lost() -> Forgery:
    forgery = good().ask("missing")
    forgery.ask("stuck").records["stuck"] = good().records["job"].__class__(State.AVAILABLE)
    return forgery


def final_twice() -> Forgery:
    return good().final()


def duplicated_beyond_the_faults() -> Forgery:
    return Forgery().done(1.0, 1.1).run(1.2, 1.3, token=2)


FORGED: dict[str, tuple[Callable[[], Forgery], str, int]] = {
    "an acknowledged job is gone, another never ends": (lost, "lost", 2),
    "a job ends dead that should complete": (
        lambda: good().ask("x").run(20, 21, "x").final("x", State.DEAD),
        "lost",
        1,
    ),
    "a job starts that nobody asked for": (lambda: good().run(20, 21, "ghost"), "unexpected", 1),
    "a record is there that nobody asked for": (lambda: good().final("ghost"), "unexpected", 1),
    "an answer names another job without a unique key": (
        lambda: (
            good()
            .add("ask", 20, job="x", kind="plain")
            .add("ack", 20.1, job="x", kind="plain", detail="job")
        ),
        "answers name a job that exists",
        1,
    ),
    "a duplicate of a key is stored all the same": (
        lambda: (
            good()
            .add("ask", 20, job="x", kind="unique", key="u")
            .add("ack", 20.1, job="x", kind="unique", key="u", detail="one")
            .final("x")
        ),
        "answers name a job that exists",
        1,
    ),
    "a job is completed that never ran": (
        lambda: good().ask("x").final("x"),
        "completed without a run",
        1,
    ),
    "a job is completed whose only run failed": (
        lambda: good().ask("x").run(20, 21, "x", what="fail").final("x"),
        "completed without a run",
        1,
    ),
    "a job becomes final twice": (final_twice, "final twice", 1),
    "a final job that no witness saw": (
        lambda: remove_final(good(), "job"),
        "final twice",
        1,
    ),
    "a final job comes back": (lambda: with_revived(good()), "left a final state", 1),
    "the store counts one job too many": (lambda: with_sizes(good(), 1), "counts", 1),
    "a job starts again without a cause": (
        lambda: good().ask("x").run(20, 21, "x").run(22, 23, "x", token=2).final("x"),
        "unexplained repeats",
        1,
    ),
    "a job starts again long after its end, when its worker is killed": (
        lambda: (
            good()
            .ask("x")
            .run(20, 21, "x")
            .add("fault", 21 + LEASE_S + 1, kind="kill_one", key="9")
            .run(30, 31, "x", pid=BOB, token=2)
            .final("x")
        ),
        "unexplained repeats",
        1,
    ),
    "another worker's death explains nothing": (
        lambda: (
            good()
            .ask("x")
            .run(20, 21, "x")
            .add("fault", 20.5, pid=BOB, kind="kill_one", key="9")
            .run(22, 23, "x", token=2)
            .final("x")
        ),
        "unexplained repeats",
        1,
    ),
    "a token is used twice": (
        lambda: (
            good().ask("x").run(20, 20.5, "x", what="fail").run(21, 22, "x", pid=BOB).final("x")
        ),
        "one token, one start",
        1,
    ),
    "more jobs are doubled than leases were hit": (duplicated_beyond_the_faults, "duplicated", 1),
    "two runs of a job overlap": (
        lambda: good().ask("x").run(20, 25, "x").run(21, 22, "x", pid=BOB, token=2).final("x"),
        "overlaps",
        1,
    ),
    "an interrupted job never starts again": (
        lambda: good().ask("x").run(20, None, "x").add("fault", 20.5, kind="kill_one", key="9"),
        "recovered",
        1,
    ),
    "an interrupted job on an idle queue starts too late": (
        lambda: (
            good()
            .ask("x", "quiet", 19)
            .run(20, None, "x")
            .add("fault", 20.5, kind="kill_quiet", key="9")
            .run(20.6 + LEASE_S + 1.5, 30, "x", pid=BOB, token=2)
            .final("x")
        ),
        "recovery in time",
        2,
    ),
    "a dead child's job starts only when its lease has expired": (
        lambda: (
            good()
            .ask("x", "quiet", 19)
            .run(20, None, "x")
            .add("fault", 20.5, kind="kill_child", key="9")
            .run(22.4, 22.5, "x", pid=BOB, token=2)
            .final("x")
        ),
        "dead child",
        1,
    ),
    "a worker that was told to end leaves a run behind": (
        lambda: (
            good()
            .ask("x")
            .run(20, None, "x", pid=BOB)
            .add("fault", 20.5, pid=BOB, kind="terminate", until_s=21, detail="0", key="9")
            .run(23, 24, "x", token=2)
            .final("x")
        ),
        "rolling restart",
        1,
    ),
    "a worker that was told to end fails": (
        lambda: good().add("fault", 20, pid=BOB, kind="terminate", detail="1", key="9"),
        "rolling restart",
        1,
    ),
    "poison starts five times": (lambda: poisoned(starts=5), "crash budget", 1),
    "poison ends with another reason": (lambda: poisoned(reason="failed"), "crash budget", 1),
    "a neighbour of poison is given up": (
        lambda: poisoned().ask("n", "neighbour").final("n", State.DEAD),
        "crash budget",
        1,
    ),
    "a neighbour of poison is charged with its crashes": (
        lambda: poisoned().ask("n", "neighbour").run(30, 31, "n").final("n", crashes=3),
        "crash budget",
        1,
    ),
    "a crash costs an attempt": (
        lambda: (
            good()
            .ask("x")
            .run(20, None, "x")
            .add("fault", 20.5, kind="kill_one", key="9")
            .add("start", 23, pid=BOB, job="x", token=2, attempt=1)
            .add("end", 24, pid=BOB, job="x", token=2)
            .final("x")
        ),
        "attempts",
        1,
    ),
    "a blocked loop loses its lease": (
        lambda: (
            good().ask("x", "block").run(20, 26, "x").run(22, 23, "x", pid=BOB, token=2).final("x")
        ),
        "stuck loop",
        1,
    ),
    "workers stay away when the store is back": (
        lambda: good().done(30, 31, "x", "back", at_s=20),
        "store away",
        1,
    ),
    "two jobs hold one key": (
        lambda: (
            good()
            .done(20, 25, "x", "unique", key="v", at_s=19)
            .done(26, 27, "y", "unique", key="v", at_s=21)
        ),
        "unique",
        1,
    ),
    "a delayed job starts early": (
        lambda: good().done(20.5, 21, "x", "delayed", at_s=20, delay_s=1.0),
        "early starts",
        1,
    ),
    "a job starts in a paused queue": (
        lambda: (
            good()
            .add("pause", 20, pid=1)
            .add("resume", 25, pid=1)
            .done(22, 23, "x", "paused", at_s=19)
        ),
        "starts after pause",
        1,
    ),
    "a cancelled job starts": (
        lambda: (
            good()
            .ask("x", "cancelled", 20)
            .add("cancel", 20.1, job="x", detail="done")
            .run(21, 22, "x")
            .final("x", State.CANCELLED)
        ),
        "starts after cancel",
        1,
    ),
    "a running handler does not see its cancel": (
        lambda: (
            good()
            .ask("x", "stopped", 20)
            .run(20.1, 25, "x")
            .add("cancel", 21, job="x", detail="requested")
            .final("x", State.CANCELLED)
        ),
        "cancel while running",
        1,
    ),
    "a handler runs on after its timeout": (
        lambda: (
            good().ask("x", "timed", 20, work_ms=1000).run(20.1, 23, "x").final("x", State.DEAD)
        ),
        "timeouts",
        1,
    ),
    "a job overtakes the one before it": (
        lambda: (
            good()
            .done(20, 25, "x", "ordered", key="o", at_s=19)
            .done(24, 26, "y", "ordered", key="o", at_s=19.5)
        ),
        "order",
        1,
    ),
    "more jobs of a key run than it has slots": (
        lambda: (
            good()
            .done(20, 25, "x", "limited", key="l", at_s=19)
            .done(21, 26, "y", "limited", key="l", at_s=19.1)
            .done(22, 23, "z", "limited", key="l", at_s=19.2)
        ),
        "slots",
        1,
    ),
    "an idle worker does not wake up": (
        lambda: good().done(23, 24, "x", "wake", at_s=20),
        "woken",
        1,
    ),
}


def remove_final(forgery: Forgery, job: str) -> Forgery:
    del forgery.finals[job]
    return forgery


def with_revived(forgery: Forgery) -> Forgery:
    forgery.revived.append("job")
    return forgery


def with_sizes(forgery: Forgery, more: int) -> Forgery:
    forgery.sizes = (len(forgery.records) + more, 0)
    return forgery


def poisoned(*, starts: int = 4, reason: str = "crashed_worker") -> Forgery:
    forgery = good().ask("p", "poison_async", 20)
    for number in range(starts):
        pid = 1000 + number
        forgery.run(21 + number, 21.01 + number, "p", pid=pid, token=number + 1, what="die")
        forgery.add("fault", 21.02 + number, pid=pid, kind="poison", key="p")
    return forgery.final("p", State.DEAD, reason=reason)


def test_a_good_history_breaks_nothing() -> None:
    assert broken(good()) == {}
    assert broken(poisoned()) == {}
    assert report_of(good().history(), PLAN, {}).held


@pytest.mark.parametrize("name", FORGED)
def test_the_checker_reports_that(name: str) -> None:
    forge, check, findings = FORGED[name]
    forgery = forge()
    assert broken(forgery).get(check) == findings
    report = report_of(forgery.history(), PLAN, {})
    assert not report.held
    assert any(check in complaint for complaint in report.complaints)


def test_every_check_has_a_forged_history() -> None:
    assert {check.name for check in run_checks(good().history())} == {
        check for _, check, _ in FORGED.values()
    }
    assert len(CHECKS) == len(run_checks(good().history()))


def test_a_kind_of_fault_that_hit_too_seldom_fails_the_run() -> None:
    plan = Plan(url="sqlite:///x.db", faults={"freeze": 25})
    assert plan.hits_min == {"freeze": 20}
    report = report_of(good().history(), plan, {})
    assert report.complaints == ["faults: freeze hit 1 times, 20 were asked for"]


def test_a_fault_counts_only_when_it_hit_a_held_lease() -> None:
    plan = Plan(url="sqlite:///x.db", faults={"kill_one": 2, "kill_all": 1})
    forgery = (
        good()
        .ask("x")
        .run(20, None, "x")
        .add("fault", 20.5, kind="kill_one", key="7")
        .add("fault", 21, pid=BOB, kind="kill_one", key="8")
        .run(23, 24, "x", pid=300, token=2)
        .final("x")
    )
    report = report_of(forgery.history(), plan, {})
    counted = report.faults["kill_one"]
    assert (counted.strikes, counted.hits, counted.leases) == (2, 1, 1)
    assert report.faults["kill_all"].strikes == 0


def test_a_run_that_was_replaced_holds_no_lease_that_a_kill_could_hit() -> None:
    # The worker was frozen, its handler process ended without a word, the job ran again there.
    forgery = (
        good()
        .ask("x", "process")
        .run(20, None, "x")
        .add("stall", 20.1, until_s=23)
        .run(23.5, 23.6, "x", token=2)
        .add("fault", 24, kind="kill_one", key="7")
        .final("x")
        .ask("y", "process", 30)
        .run(30.1, None, "y", pid=BOB)
        .add("stall", 30.2, pid=BOB, until_s=33)
        .add("fault", 33.1, pid=BOB, kind="terminate", until_s=34, detail="0", key="8")
        .run(34.5, 34.6, "y", pid=300, token=2)
        .final("y")
    )
    assert broken(forgery) == {}
    plan = Plan(url="sqlite:///x.db", faults={"kill_one": 1})
    assert report_of(forgery.history(), plan, {}).faults["kill_one"].hits == 0


def test_a_run_that_ends_while_the_signal_is_on_its_way_was_not_interrupted() -> None:
    forgery = good().ask("x").run(20, 20.503, "x").final("x")
    forgery.add("fault", 20.5, kind="kill_one", until_s=20.51, key="7")
    assert broken(forgery) == {}


def test_a_report_shows_the_lines_of_the_ledger_that_prove_it() -> None:
    forgery = good().ask("x").run(20, 21, "x").run(22, 23, "x", token=2).final("x")
    plain = report_of(forgery.history(), PLAN, {}).plain()
    (check,) = [c for c in plain["checks"] if not c["held"] and c["id"] == "A2"]
    (example,) = check["examples"]
    assert example["job"] == "x"
    assert f'"pid":{ALICE}' in example["ledger"][0]
    assert [line.split('"')[3] for line in example["ledger"]] == ["start", "end", "start", "end"]
    assert plain["unexplained_repeats"] == 1
    assert plain["held"] is False


def test_the_report_has_the_words_that_programs_count_on() -> None:
    plain = report_of(good().history(), PLAN, {}).plain()
    words = {"kills", "lost", "unexpected", "duplicated", "recovered", "final_twice"}
    times = {"recovery_p50_s", "recovery_p99_s", "recovery_max_s"}
    assert words | times | {"unexplained_repeats", "faults"} <= plain.keys()
    assert plain["duplicated"] == 1  # the frozen one: both runs returned
    assert plain["recovered"] == 1
    assert plain["recovery_max_s"] == pytest.approx(1.9)
