"""The checker is checked: one forged history for each thing that must hold."""

from typing import Any

import pytest

from ropeway.testing.simulation import Event, History, violations

WALL = 1_000_000


def event(at_ms: int, who: str, kind: str, job: str = "j", **facts: Any) -> Event:
    return Event(at_ms, who, kind, job, facts)


def send(at_ms: int = 0, job: str = "j", delay_ms: int = 0) -> Event:
    return event(at_ms, "p", "send", job, delay_ms=delay_ms)


def sent(at_ms: int = 1, job: str = "j", who: str = "p") -> Event:
    return event(at_ms, who, "sent", job, answer="ok", id=job)


def enqueue(at_ms: int = 0, job: str = "j", parents: str = "", queue: str = "a") -> Event:
    facts = {"answer": "ok", "parents": parents, "queue": queue, "wall_ms": WALL + at_ms}
    return event(at_ms, "p", "enqueue", job, **facts)


def grant(at_ms: int, token: int, job: str = "j", **facts: Any) -> Event:
    given: dict[str, Any] = {
        "token": token,
        "attempt": 1,
        "until_ms": at_ms + 2_000,
        "worker": "w",
        "queue": "a",
        "wall_ms": WALL + at_ms,
        "not_before_ms": None,
        "expires_ms": None,
        "line": None,
        "task": "t",
        "limits": "",
    }
    return event(at_ms, "w", "grant", job, **{**given, **facts})


def start(at_ms: int, token: int, who: str = "w", job: str = "j") -> Event:
    return event(at_ms, who, "start", job, token=token, attempt=1)


def end(at_ms: int, token: int, who: str = "w", how: str = "ok", job: str = "j") -> Event:
    return event(at_ms, who, "end", job, token=token, attempt=1, how=how)


def settle(at_ms: int, token: int, outcome: str = "Ack", job: str = "j", **facts: Any) -> Event:
    given = {"answer": "ok", "delay_ms": None, "counted": True, "wall_ms": WALL + at_ms}
    return event(
        at_ms, "w", "settle", job, **{"token": token, "outcome": outcome, **given, **facts}
    )


def record(job: str = "j", state: str = "completed", **facts: Any) -> Event:
    given = {"state": state, "seq": 1, "created_ms": 0, "finished_ms": 9, "reason": None}
    more = {"queue": "a", "task": "t", "key": None, "line": None}
    return event(99_999, "world", "record", job, **{**given, **more, **facts})


def act(at_ms: int, action: str, answer: str = "done") -> Event:
    return event(at_ms, "op", "act", action=action, answer=answer, state=None)


RUN = [send(), enqueue(), sent(), grant(5, 1), start(6, 1), end(7, 1), settle(8, 1), record()]

FORGED: dict[str, tuple[str, list[Event]]] = {
    "an acknowledged job is gone": ("E1", [send(), sent()]),
    "a job never ends": ("E1", [send(), sent(), record(state="running")]),
    "a job nobody sent is handed out": ("E2", [grant(5, 1)]),
    "a repeated call is answered differently": ("E3", [event(1, "p", "again", same=False)]),
    "a good job is refused": ("E4", [send(), event(1, "p", "unknown", error="BrokerError")]),
    "acked without having run": ("A1", [send(), grant(5, 1), settle(8, 1)]),
    "handed out twice at once": ("A2", [send(), grant(5, 1), grant(6, 2)]),
    "a living lease is called lost": (
        "A2",
        [send(), grant(5, 1), event(6, "w", "extend", token=1, answer="lost", until_ms=0)],
    ),
    "two handlers at once": (
        "A4",
        [send(), grant(5, 1), start(6, 1), grant(2_005, 2), start(2_006, 2, who="v")],
    ),
    "a stale token settles": (
        "F1",
        [send(), grant(5, 1), grant(2_005, 2), end(2_006, 1), settle(2_007, 1)],
    ),
    "settled twice": ("F1", [*RUN, settle(9, 1)]),
    "a token comes again": ("F1", [send(), grant(5, 3), grant(2_005, 3)]),
    "run again after its end": ("F2", [*RUN, grant(9, 2)]),
    "an innocent is buried": ("R3", [record(state="dead", reason="crashed_worker")]),
    "poison starts too often": (
        "R3",
        [*(start(n, n, job="j-poison") for n in range(5)), record("j-poison", state="dead")],
    ),
    "two hold a unique key": (
        "U1",
        [record("a", key="k"), record("b", key="k", created_ms=5, finished_ms=12)],
    ),
    "a delayed job starts early": ("S3", [send(), grant(5, 1, not_before_ms=WALL + 6)]),
    "a delay was counted by a wrong clock": ("S3", [send(delay_ms=100), grant(99, 1)]),
    "a retry comes early": (
        "S3",
        [send(), grant(5, 1), settle(6, 1, "Retry", delay_ms=50), grant(55, 2, attempt=2)],
    ),
    "started after it expired": ("S3", [send(), grant(5, 1, expires_ms=WALL + 5)]),
    "taken from a paused queue": (
        "P1",
        [send(), event(1, "op", "pause", "", queue="a"), grant(5, 1)],
    ),
    "cancelled and started": ("F2", [send(), act(1, "CancelJob"), grant(5, 1)]),
    "a child runs before its parent": (
        "C1",
        [send(), enqueue(parents="x"), grant(5, 1)],
    ),
    "not stopped at its timeout": (
        "T1",
        [start(0, 1, job="j-overruns"), end(1_701, 1, how="CancelledError", job="j-overruns")],
    ),
    "an ordering key is overtaken": (
        "O1",
        [
            send(),
            grant(5, 1, line="o"),
            record("i", line="o", seq=1, finished_ms=WALL + 6),
            record("j", line="o", seq=2, finished_ms=WALL + 9),
        ],
    ),
    "a count is wrong": (
        "Q1",
        [record(), event(99_999, "world", "counts", "", queue="a", completed=2)],
    ),
    "an idle worker sleeps on": (
        "W1",
        [send(), sent(who="probe"), grant(900, 1), start(900, 1), end(901, 1), record()],
    ),
    "a key has more slots than it may": (
        "L1",
        [grant(5, n, job=f"j{n}", limits="rate:a slots:k") for n in range(1, 4)],
    ),
    "a rate is passed": (
        "L1",
        [grant(5 + 100 * n, n, job=f"j{n}", limits="rate:k") for n in range(1, 5)],
    ),
    "a bounded queue takes one too many": (
        "B1",
        [enqueue(n, f"j{n}", queue="dropping") for n in range(6)],
    ),
    "a job is dropped that has started": (
        "B1",
        [send(), grant(5, 1), record(state="cancelled", reason="dropped")],
    ),
    "a batch is too large": (
        "G1",
        [grant(5, 1, job=f"j{n}", task="gathers") for n in range(4)],
    ),
    "a batch is not waited for": (
        "G1",
        [enqueue(), enqueue(300, "i"), *(grant(699, 1, job=n, task="gathers") for n in "ji")],
    ),
    "an attempt is not counted": (
        "attempts",
        [send(), grant(5, 1), settle(6, 1, "Retry", delay_ms=0), grant(9, 2, attempt=1)],
    ),
}


def test_a_good_history_violates_nothing() -> None:
    assert violations(History(RUN)) == []


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_history_is_seen_through(name: str) -> None:
    rule, events = FORGED[name]
    said = [one.partition(" s: ")[2] or one for one in violations(History(events))]
    assert [one for one in said if one.startswith(f"{rule}:")], f"{name}: only {said}"


def test_a_slot_comes_back_with_the_end_of_its_lease() -> None:
    held = [grant(5, n, job=f"j{n}", limits="slots:k") for n in (1, 2)]
    later = grant(2_005, 3, job="j3", limits="slots:k")
    assert not [one for one in violations(History([*held, later])) if "L1" in one]


def test_a_frozen_worker_may_still_run_what_another_has_begun() -> None:
    freeze = event(10, "world", "fault", "", what="freeze", whom="w")
    history = [send(), grant(5, 1), start(6, 1), freeze, grant(2_005, 2), start(2_006, 2, who="v")]
    assert violations(History(history)) == []
