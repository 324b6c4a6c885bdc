"""Faults of flow control for the simulation, one line each."""

from typing import Any

from planted import Fault, becomes

from ropeway.flow.limit import End, KeyState
from ropeway.flow.rules import Breaker, Limit, Rate

GATE = "ropeway.flow.gate"
LIMIT = "ropeway.flow.limit"
MEMORY = "ropeway.brokers.memory.flow"


def kept_by_the_dead(end: Any) -> Any:
    def ended(self: Any, hold: Any, how: End, now_ms: int, n: int = 1) -> bool:
        return how is not End.OTHER and end(self, hold, how, now_ms, n)

    return ended


def given_back_by_the_stale(stale: Any) -> Any:
    def answered(step: Any, fence: Any, lease: Any) -> Any:
        step.flow.keys.ended(lease.job, End.OTHER, step.now_ms)
        return stale(step, fence, lease)

    return answered


def tells_nobody(end: Any) -> Any:
    def ended(self: Any, hold: Any, how: End, now_ms: int, n: int = 1) -> bool:
        end(self, hold, how, now_ms, n)
        return False

    return ended


def free_of_charge(take: Any) -> Any:
    def taken(limit: Limit, key: KeyState, now_ms: int, n: int = 1) -> None:
        if not isinstance(limit, Rate):
            take(limit, key, now_ms, n)

    return taken


def one_burst_more(room: Any) -> Any:
    def counted(limit: Limit, key: KeyState, now_ms: int) -> int:
        return room(limit, key, now_ms) + isinstance(limit, Rate)

    return counted


def never_half_open(opens_at_ms: Any) -> Any:
    def asked(limit: Limit, key: KeyState) -> int | None:
        return None if isinstance(limit, Breaker) else opens_at_ms(limit, key)

    return asked


def started_ones_too(may_be_dropped: Any) -> Any:
    def may(row: Any, queue: str) -> bool:
        token, row.status.token = row.status.token, 0
        try:
            return may_be_dropped(row, queue)
        finally:
            row.status.token = token

    return may


def ready_at_once(_ready_ms: Any) -> Any:
    def came_first_ms(self: Any, place: Any) -> int:
        return min(row.status.due_ms for row in self._rows[place])

    return came_first_ms


FLOW_FAULTS = {
    "a slot stays with an expired lease": Fault("memory", GATE, "Gate.end", kept_by_the_dead),
    "a stale settle gives a slot back": Fault(
        "sqlite", "ropeway.brokers.sqlite.settle", "_stale", given_back_by_the_stale
    ),
    "a refused job is skipped for good": Fault("memory", GATE, "Gate.end", tells_nobody),
    "a rate's token is not taken": Fault("memory", LIMIT, "take", free_of_charge),
    "a rate lets one more through": Fault("memory", LIMIT, "room", one_burst_more),
    "a breaker never half-opens": Fault("memory", LIMIT, "opens_at_ms", never_half_open),
    "a job that has started is dropped": Fault(
        "memory", f"{MEMORY}.bounds", "_may_be_dropped", started_ones_too
    ),
    "a bound is not looked at": Fault(
        "memory", f"{MEMORY}.control", "Control.full", becomes(lambda *_: None)
    ),
    "a batch is handed out before it is ready": Fault(
        "memory", f"{MEMORY}.groups", "Groups._ready_ms", ready_at_once
    ),
}
