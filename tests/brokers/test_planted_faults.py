"""The contract suite notices when a broker is wrong: faults planted in SQLite are all caught.

A fault is one line changed in the broker's module while the tests of a theme run.
"""

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ropeway.brokers.sqlite import SQLiteBroker
from ropeway.flow.limit import End
from ropeway.flow.rules import Breaker, Rate
from ropeway.job import FINAL, State
from ropeway.testing import contract
from ropeway.testing.contract import JobStoreContract
from ropeway.testing.manual_clock import ManualClock

pytestmark = pytest.mark.anyio


class Fault(NamedTuple):
    """Where a line changes (`module` of the broker, or its full name), and what it becomes."""

    theme: str  # the class of the contract that must notice
    module: str
    name: str
    change: Callable[[Any], Any]


def text(old: str, new: str) -> Callable[[str], str]:
    """A change of some words in a statement, which must be there."""

    def change(statement: str) -> str:
        assert old in statement, f"{old!r} is not in {statement!r}: plant the fault elsewhere"
        return statement.replace(old, new)

    return change


def becomes(other: object) -> Callable[[object], object]:
    return lambda _: other


def free_at_the_end(key: Callable[..., Any]) -> Callable[..., Any]:
    def released_early(self: Any, job: Any, state: State, *, seq: int) -> Any:
        return (None, None) if state in FINAL else key(self, job, state, seq=seq)

    return released_early


def free_while_retryable(key: Callable[..., Any]) -> Callable[..., Any]:
    def released_early(self: Any, job: Any, state: State, *, seq: int) -> Any:
        return (None, None) if state is State.RETRYABLE else key(self, job, state, seq=seq)

    return released_early


def bound_first(insert_one: Callable[..., Any]) -> Callable[..., Any]:
    def inserted(step: Any, job: Any, *, bounded: bool = True) -> Any:
        full: Any = importlib.import_module("ropeway.brokers.sqlite.enqueue")
        found = full._full(step, job) if bounded else None
        return found or insert_one(step, job, bounded=bounded)

    return inserted


def kept_by_the_dead(end: Callable[..., Any]) -> Callable[..., Any]:
    def ended(self: Any, hold: Any, how: End, now_ms: int, n: int = 1) -> bool:
        return how is not End.OTHER and end(self, hold, how, now_ms, n)

    return ended


def given_back_by_the_stale(stale: Callable[..., Any]) -> Callable[..., Any]:
    def answered(step: Any, fence: Any, lease: Any) -> Any:
        step.flow.keys.ended(lease.job, End.OTHER, step.now_ms)
        return stale(step, fence, lease)

    return answered


def only(kind: type[Any], other: Callable[..., Any]) -> Callable[[Any], Any]:
    """What is done for limits of this kind alone; `other` gets the real answer first."""

    def change(real: Callable[..., Any]) -> Callable[..., Any]:
        def planted(limit: Any, *given: Any) -> Any:
            answer = None if real.__name__ == "take" else real(limit, *given)
            return other(answer, limit, *given) if isinstance(limit, kind) else real(limit, *given)

        return planted

    return change


def closed_while_open(room: int, limit: Breaker, key: Any, _now_ms: int) -> int:
    return 0 if key.failures >= limit.failures else room


FAULTS = {
    "the token is ignored": Fault(
        "SettleFenceContract",
        "settle",
        "Fence.is_held_by",
        becomes(lambda fence, _lease: fence.state == 3),
    ),
    "a repeated settle is called lost": Fault(
        "SettleFenceContract", "settle", "_stale", becomes(lambda *_: "lost")
    ),
    "low priority comes first": Fault(
        "ReserveOrderContract", "reserve", "_NEXT", text("priority DESC", "priority ASC")
    ),
    "the newest comes first": Fault(
        "ReserveOrderContract", "reserve", "_NEXT", text("due_ms, seq", "due_ms, seq DESC")
    ),
    "the attempt is not counted": Fault(
        "ReserveOrderContract", "reserve", "_START", text("attempt + 1", "attempt")
    ),
    "a job is due one millisecond early": Fault(
        "ReserveTimeContract", "reserve", "_DUE", text("due_ms <= ?", "due_ms <= ? + 1")
    ),
    "a job is due one millisecond late": Fault(
        "ReserveTimeContract", "reserve", "_DUE", text("due_ms <= ?", "due_ms < ?")
    ),
    "a pause is ignored": Fault(
        "ReserveTimeContract", "reserve", "paused_queues", becomes(lambda _step: set[str]())
    ),
    "overdue jobs are started": Fault(
        "ReserveTimeContract", "reserve", "_NEXT", text("coalesce(overdue_at_ms, 0)", "0")
    ),
    "`then` jobs are dropped": Fault(
        "SettleStepContract", "settle", "insert_one", becomes(lambda *_: None)
    ),
    "children are not unblocked": Fault(
        "WorkflowContract", "step", "Step.unblock_children", becomes(lambda *_: None)
    ),
    "a failed parent tells nobody": Fault(
        "ParentFailedContract", "step", "Step.cascade", becomes(lambda *_: None)
    ),
    "a unique key is released before its window ends": Fault(
        "UniqueWindowContract", "step", "Step._key", free_at_the_end
    ),
    "a repeated call is not recognised": Fault(
        "EnqueueRepeatContract", "enqueue", "_known_answers", becomes(lambda *_: {})
    ),
    "leases never expire": Fault(
        "MaintainContract", "maintain", "_EXPIRED", text("lease_until_ms <= ?", "0 > ?")
    ),
    "leases are taken back before they end": Fault(
        "MaintainContract", "maintain", "_EXPIRED", text("<= ?", "<= ? + 5000")
    ),
    "a unique key is free while its job waits to be retried": Fault(
        "UniqueContract", "step", "Step._key", free_while_retryable
    ),
    "an extend is not written": Fault(
        "ExtendContract", "settle", "_PROLONG", text("lease_until_ms = ?2", "flags = flags + 0*?2")
    ),
    "a crash is not taken back": Fault(
        "ExtendContract", "settle", "_survived", becomes(lambda *_: None)
    ),
    "followers of an ordering key run at once": Fault(
        "OrderingKeyContract", "step", "Step._choose_head", becomes(lambda *_: None)
    ),
    "a slot stays with an expired lease": Fault(
        "ConcurrencyContract", "ropeway.flow.gate", "Gate.end", kept_by_the_dead
    ),
    "a stale settle gives a slot back": Fault(
        "ConcurrencyContract", "settle", "_stale", given_back_by_the_stale
    ),
    "a refused job is skipped for good": Fault(
        "ConcurrencyContract", "flow.keys", "Keys.wake", becomes(lambda *_: 0)
    ),
    "a rate's token is not taken": Fault(
        "RateContract", "ropeway.flow.limit", "take", only(Rate, lambda *_: None)
    ),
    "a rate lets one more through": Fault(
        "RateContract", "ropeway.flow.limit", "room", only(Rate, lambda room, *_: room + 1)
    ),
    "a breaker never half-opens": Fault(
        "BreakerContract", "ropeway.flow.limit", "room", only(Breaker, closed_while_open)
    ),
    "a tenant's turn does not move it on": Fault(
        "FairContract", "ropeway.flow.fair", "place", becomes(lambda reached, last, _: last or 1.0)
    ),
    "a bound is looked at before duplicates are": Fault(
        "BoundContract", "enqueue", "insert_one", bound_first
    ),
    "a job that has started is dropped": Fault(
        "BoundContract", "enqueue", "_TO_DROP", text("AND token = 0", "")
    ),
    "a batch is handed out before it is ready": Fault(
        "GroupContract", "flow.groups", "_NEXT", text("ready_ms <= ?2", "0 <= ?2")
    ),
}


def plant(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    home = "" if fault.module.startswith("ropeway.") else "ropeway.brokers.sqlite."
    owner: Any = importlib.import_module(f"{home}{fault.module}")
    *classes, name = fault.name.split(".")
    for cls in classes:
        owner = getattr(owner, cls)
    monkeypatch.setattr(owner, name, fault.change(getattr(owner, name)))


def rows(test: Callable[..., Any]) -> list[dict[str, Any]]:
    """The arguments of a test: one row for each case of its tables."""
    cases: list[dict[str, Any]] = [{}]
    for mark in getattr(test, "pytestmark", ()):
        if mark.name != "parametrize":  # the test runner adds marks of its own
            continue
        names, values = mark.args
        if isinstance(names, str):
            names, values = (names,), [(value,) for value in values]
        more = [dict(zip(names, value, strict=True)) for value in values]
        cases = [{**case, **row} for case in cases for row in more]
    return cases


async def failures(theme: str, folder: Path) -> list[str]:
    """The tests of a theme that fail."""
    failed: list[str] = []
    for name, test in vars(getattr(contract, theme)).items():
        if not name.startswith("test_"):
            continue
        for number, row in enumerate(rows(test)):
            clock = ManualClock()
            path = folder / f"{name}-{number}.db"
            broker = SQLiteBroker(path, durability="fast", clock=clock)
            await broker.open()
            given = {"broker": broker, "clock": clock, **row}
            wanted = inspect.signature(test).parameters
            try:
                await test(
                    JobStoreContract(), **{key: given[key] for key in wanted if key in given}
                )
            except Exception:
                failed.append(f"{name}-{number}")
            finally:
                await broker.close()
    return failed


@pytest.mark.parametrize("theme", sorted({fault.theme for fault in FAULTS.values()}))
async def test_without_a_fault_nothing_fails(theme: str, tmp_path: Path) -> None:
    assert await failures(theme, tmp_path) == []


@pytest.mark.parametrize("name", FAULTS)
async def test_a_planted_fault_is_caught(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(FAULTS[name], monkeypatch)
    assert await failures(FAULTS[name].theme, tmp_path), f"no test noticed that {name}"


def test_no_test_of_the_contract_hides_another() -> None:
    """Two themes with a test of one name would leave one of them out without a word."""
    names = [
        name
        for theme in JobStoreContract.__mro__
        for name in vars(theme)
        if name.startswith("test_")
    ]
    assert sorted(set(names)) == sorted(names)
