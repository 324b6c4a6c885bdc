"""Every event in every state: it happens exactly as `lifecycle.py` says, or nothing changes."""

from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec
import pytest

from ropeway import lifecycle
from ropeway.action import Action, BuryJob, CancelJob, EditJob, RetryJob, RunNow
from ropeway.broker import JobStore
from ropeway.job import Job, JobRecord, Lease, State, Status
from ropeway.lifecycle import TRANSITIONS, Event
from ropeway.outcome import Ack, Bury, Cancel, Outcome, Release, Retry, Snooze
from ropeway.runtime import new_id
from ropeway.testing.manual_clock import ManualClock
from ropeway.testing.steps import (
    HOUR_MS,
    LEASE_MS,
    WORKER,
    act,
    bring_to,
    make_job,
    record_of,
    settle,
    settle_time,
    take,
    take_one,
)

PARENT = new_id()
EXPIRES_MS = 30_000


class Case(NamedTuple):
    """A job in a state, the lease it was last held under, and the store that has it."""

    broker: JobStore
    clock: ManualClock
    job: Job
    lease: Lease


class Happening(NamedTuple):
    """An event, how to bring it about, and what `lifecycle.py` says of it."""

    event: Event
    drive: Callable[[Case], Awaitable[object]]
    foretell: Callable[[Case, JobRecord], JobRecord]
    fields: Mapping[str, Any] = MappingProxyType({})  # of the job that it happens to


def settling(event: Event, make: Callable[[Lease], Outcome]) -> Happening:
    """An event that the holder of the lease brings about."""

    def foretell(case: Case, before: JobRecord) -> JobRecord:
        now_ms = case.clock.wall_ms()
        return JobRecord(
            before.job, lifecycle.settle(before.status, make(case.lease), now_ms=now_ms)
        )

    async def drive(case: Case) -> None:
        await settle(case.broker, make(case.lease))

    return Happening(event, drive, foretell)


def acting(event: Event, make: Callable[[Case], Action]) -> Happening:
    """An event that an operator brings about."""

    def foretell(case: Case, before: JobRecord) -> JobRecord:
        now_ms = case.clock.wall_ms()
        changed = lifecycle.act(before.job, before.status, make(case), now_ms=now_ms)
        assert changed is not None
        return JobRecord(*changed)

    async def drive(case: Case) -> None:
        await act(case.broker, make(case))

    return Happening(event, drive, foretell)


def changing(change: Callable[[Case, JobRecord], Status]) -> Callable[[Case, JobRecord], JobRecord]:
    """A foretelling that leaves the job's words alone."""
    return lambda case, before: JobRecord(before.job, change(case, before))


async def complete_parent(case: Case) -> None:
    """The job `PARENT` comes, names the job as its child, and completes."""
    await case.broker.enqueue([make_job(id=PARENT, queue="parents", unblocks=(case.job.ref,))])
    await settle(case.broker, Ack(lease=await take_one(case.broker, "parents")))


async def fail_parent(case: Case) -> None:
    """The job `PARENT` comes, names the job as its child, and dies."""
    await case.broker.enqueue([make_job(id=PARENT, queue="parents", unblocks=(case.job.ref,))])
    await settle(case.broker, Bury(lease=await take_one(case.broker, "parents")))
    await settle_time(case.broker)


async def pass_an_hour(case: Case) -> None:
    """The hour passes for which `bring_to` delays jobs."""
    case.clock.advance(HOUR_MS)
    await settle_time(case.broker)


async def pass_expiry(case: Case) -> None:
    """The time passes in which the job could have been started."""
    case.clock.advance(EXPIRES_MS)
    await settle_time(case.broker)


async def reserve(case: Case) -> None:
    """A worker asks for jobs."""
    await take(case.broker)


async def lose_the_worker(case: Case) -> None:
    """The worker is known to be dead."""
    await case.broker.abandon([WORKER])


def edit(case: Case) -> Action:
    """An edit of the payload."""
    return EditJob(ref=case.job.ref, job=msgspec.structs.replace(case.job, payload=b"new"))


HAPPENINGS = {
    "unblock": Happening(
        Event.UNBLOCK,
        complete_parent,
        changing(
            lambda case, before: lifecycle.parent_completed(
                before.status, PARENT, now_ms=case.clock.wall_ms()
            )
        ),
    ),
    "parent_failed": Happening(
        Event.PARENT_FAILED,
        fail_parent,
        changing(
            lambda case, before: lifecycle.parent_failed(
                before.job, before.status, PARENT, now_ms=case.clock.wall_ms()
            )
        ),
    ),
    "due": Happening(
        Event.DUE,
        pass_an_hour,
        changing(lambda _, before: lifecycle.promote(before.status)),
        {"retention_ms": 24 * HOUR_MS},
    ),
    "reserve": Happening(
        Event.RESERVE,
        reserve,
        changing(
            lambda case, before: lifecycle.start(
                before.status,
                worker=WORKER,
                token=0,
                lease_until_ms=case.clock.mono_ms() + LEASE_MS,
                now_ms=case.clock.wall_ms(),
            )
        ),
    ),
    "ack": settling(Event.ACK, lambda lease: Ack(lease=lease, result=b"r")),
    "retry": settling(Event.RETRY, lambda lease: Retry(lease=lease, delay_ms=5)),
    "retry_uncounted": settling(
        Event.RETRY, lambda lease: Retry(lease=lease, delay_ms=0, counted=False)
    ),
    "snooze": settling(Event.SNOOZE, lambda lease: Snooze(lease=lease, delay_ms=5, reason="r")),
    "release": settling(Event.RELEASE, lambda lease: Release(lease=lease)),
    "bury": settling(Event.BURY, lambda lease: Bury(lease=lease, reason="r")),
    "cancel": settling(Event.CANCEL, lambda lease: Cancel(lease=lease, reason="r")),
    "lease_expired": Happening(
        Event.LEASE_EXPIRED,
        lose_the_worker,
        changing(
            lambda case, before: lifecycle.lease_expired(
                before.job, before.status, now_ms=case.clock.wall_ms()
            )
        ),
    ),
    "overdue": Happening(
        Event.OVERDUE,
        pass_expiry,
        changing(
            lambda case, before: lifecycle.bury_overdue(
                before.status, reason="expired", now_ms=case.clock.wall_ms()
            )
        ),
        {"expires_after_ms": EXPIRES_MS},
    ),
    "operator_retries": acting(Event.RETRY_NOW, lambda case: RetryJob(ref=case.job.ref)),
    "operator_runs_now": acting(Event.RUN_NOW, lambda case: RunNow(ref=case.job.ref)),
    "operator_cancels": acting(Event.CANCEL, lambda case: CancelJob(ref=case.job.ref)),
    "operator_buries": acting(Event.BURY, lambda case: BuryJob(ref=case.job.ref)),
    "operator_edits": acting(Event.EDIT, edit),
}


def allowed(name: str, happening: Happening, state: State) -> bool:
    """Whether the table has this event in this state, brought about in this way."""
    by_holder = name in {"ack", "retry", "retry_uncounted", "snooze", "release", "bury", "cancel"}
    if by_holder and state is not State.RUNNING:
        return False  # without a lease, nobody can settle a job
    if name == "operator_buries" and state is State.RUNNING:
        return False  # a running job is asked to stop by a cancel
    return state in TRANSITIONS[happening.event]


class TransitionsContract:
    """The state machine, checked pair by pair against its specification."""

    def test_every_event_of_the_table_is_driven(self) -> None:
        # The reopening of a child takes a history of its own: see the tests of workflows.
        assert {h.event for h in HAPPENINGS.values()} | {Event.REOPEN} == set(TRANSITIONS)

    @pytest.mark.parametrize("state", list(State))
    @pytest.mark.parametrize("name", list(HAPPENINGS))
    async def test_an_event_does_what_the_table_says_or_changes_nothing(
        self, broker: JobStore, clock: ManualClock, name: str, state: State
    ) -> None:
        happening = HAPPENINGS[name]
        fields = dict(happening.fields)
        if state is State.PENDING:
            fields["parents"] = (PARENT,)
        job, lease = await bring_to(broker, state, **fields)
        case = Case(broker, clock, job, lease)
        before = await record_of(broker, job)
        clock.advance(1)
        await happening.drive(case)
        after = await record_of(broker, job)
        if not allowed(name, happening, state):
            assert after == before
            return
        foretold = happening.foretell(case, before)
        if happening.event is Event.RESERVE:  # the broker chooses the token
            assert after.status.token > before.status.token
            foretold.status.token = after.status.token
        assert after == foretold
        assert after.status.state in TRANSITIONS[happening.event][state]
