"""Faults to plant: one line changed in a broker, the worker or the app.

As a plugin of pytest (`-p planted`) it plants the one that `PLANTED_FAULT` names.
"""

import importlib
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import msgspec

from ropeway.job import Job, State

VARIABLE = "PLANTED_FAULT"


class Fault(NamedTuple):
    """The broker to simulate, where a line changes, and what it becomes."""

    broker: str
    module: str
    name: str
    change: Callable[[Any], Any]


def text(old: str, new: str) -> Callable[[str], str]:
    def change(statement: str) -> str:
        assert old in statement, f"{old!r} is not in {statement!r}: plant the fault elsewhere"
        return statement.replace(old, new)

    return change


def becomes(other: object) -> Callable[[object], object]:
    return lambda _: other


def acked_before_it_runs(_begin: Any) -> Any:
    def begin(self: Any, run: Any) -> Any:
        definition = run.definition = self._tasks[run.lease.job.task]
        arguments = definition.parameters.decode(run.lease.job.payload, run.lease.job.codec)
        return partial(self._after_ack, run, definition, arguments)

    return begin


def free_while_running(holds: Any) -> Any:
    def holds_key(job: Job, state: State, *, now_ms: int) -> bool:
        return state is not State.RUNNING and holds(job, state, now_ms=now_ms)

    return holds_key


def by_the_clients_clock(resend: Any) -> Any:
    def absolute(job: Job, runtime: Any) -> Job:
        at_ms = runtime.clock.wall_ms() + job.delay_ms
        fields = {"delay_ms": 0, "scheduled_at_ms": at_ms} if job.delay_ms else {}
        return msgspec.structs.replace(job, **fields)

    async def resending(store: Any, jobs: Sequence[Job], still_open: Any, runtime: Any) -> Any:
        return await resend(store, [absolute(job, runtime) for job in jobs], still_open, runtime)

    return resending


def due_one_ms_early(admit: Any) -> Any:
    def admitted(job: Job, **given: Any) -> Any:
        stamped, status = admit(job, **given)
        if status.state is State.SCHEDULED:
            status.due_ms -= 1
        return stamped, status

    return admitted


SQLITE = "ropeway.brokers.sqlite"
FAULTS = {
    "no fence": Fault(
        "sqlite", f"{SQLITE}.settle", "Fence.is_held_by", becomes(lambda f, _lease: f.state == 3)
    ),
    "reap without looking at the lease": Fault(
        "sqlite", f"{SQLITE}.maintain", "_EXPIRED", text("<= ?", "<= ? + 1900")
    ),
    "a beat prolongs nothing": Fault(
        "sqlite", f"{SQLITE}.settle", "_PROLONG", text("lease_until_ms = ?2", "flags = flags+0*?2")
    ),
    "settle before the handler has ended": Fault(
        "memory", "ropeway.worker.handlers.calls", "Calls.begin", acked_before_it_runs
    ),
    "unique key released early": Fault(
        "memory", "ropeway.lifecycle", "holds_key", free_while_running
    ),
    "a lease without an end": Fault(
        "sqlite",
        f"{SQLITE}.reserve",
        "_START",
        text("lease_until_ms = ?3", "lease_until_ms = ?3 + 9000000"),
    ),
    "wake-up only by this process's own push": Fault(
        "sqlite", f"{SQLITE}.engine", "Bell._poll", becomes(lambda _self: None)
    ),
    "delays by the client's clock": Fault(
        "memory", "ropeway.submit", "_resending", by_the_clients_clock
    ),
    "attempt not counted": Fault(
        "sqlite", f"{SQLITE}.reserve", "_START", text("attempt + 1", "attempt")
    ),
    "due off by one": Fault("memory", "ropeway.lifecycle", "admit", due_one_ms_early),
    "pause ignored": Fault(
        "sqlite", f"{SQLITE}.reserve", "paused_queues", becomes(lambda _step: set[str]())
    ),
    "ordering ignored": Fault(
        "sqlite", f"{SQLITE}.step", "Step._choose_head", becomes(lambda *_: None)
    ),
    "children are not told": Fault(
        "sqlite", f"{SQLITE}.step", "Step.unblock_children", becomes(lambda *_: None)
    ),
    "a repeated call is not recognised": Fault(
        "sqlite", f"{SQLITE}.enqueue", "_known_answers", becomes(lambda *_: {})
    ),
    "a worker that does not fence itself": Fault(
        "memory", "ropeway.worker.worker", "Worker._look_after", becomes(lambda *_: None)
    ),
    "a run begins although its lease is over": Fault(
        "memory",
        "ropeway.worker.fetcher",
        "Fetcher.accept",
        lambda accept: lambda self, leases, _began_ms: accept(self, leases, self._runner.now_ms()),
    ),
}


def place_of(fault: Fault) -> tuple[Any, str, Any]:
    """What to change: the owner, its attribute, and the faulty value."""
    owner: Any = importlib.import_module(fault.module)
    *classes, attribute = fault.name.split(".")
    for cls in classes:
        owner = getattr(owner, cls)
    return owner, attribute, fault.change(getattr(owner, attribute))


if VARIABLE in os.environ:
    setattr(*place_of(FAULTS[os.environ[VARIABLE]]))
