"""A model test: random histories on a broker and on the memory broker, which must agree.

Hypothesis makes up the history and shrinks the one that fails to its essence. After every step
both stores show the same answers, records, counts and order.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, Final, TypeVar

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

from ropeway.action import (
    Action,
    BuryJob,
    CancelJob,
    DeleteJob,
    EditJob,
    MoveJob,
    RetryJob,
    RunNow,
)
from ropeway.broker import Beat, JobStore, Queues
from ropeway.brokers.memory import MemoryBroker
from ropeway.errors import RopewayError
from ropeway.job import Failure, Job, JobRecord, JobRef, Lease, Progress, State, UniqueKey
from ropeway.outcome import Ack, Bury, Cancel, Crashed, Outcome, Release, Retry, Snooze
from ropeway.testing.manual_clock import ManualClock
from ropeway.testing.steps import all_records, settle_time

T = TypeVar("T")
Open = Callable[[ManualClock], Awaitable[JobStore]]
Held = tuple[Lease, Lease]  # of one job: the oracle's lease and the subject's

QUEUES: Final = ("a", "b")
LEASE_MS: Final = 1_000
WORKERS: Final = ("w1", "w2")

uniques: st.SearchStrategy[Any] = st.none() | st.builds(
    UniqueKey,
    key=st.sampled_from(["k", "l"]),
    window_ms=st.sampled_from([0, 0, 1_500]),
    on_conflict=st.sampled_from(["return", "replace"]),
    release_on_failure=st.booleans(),
)
words: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "queue": st.sampled_from(QUEUES),
        "priority": st.sampled_from([0, 0, 0, 5]),
        "delay_ms": st.sampled_from([0, 0, 0, 400, 2_000]),
        "expires_after_ms": st.sampled_from([None, None, None, 1_500]),
        "ordering_key": st.sampled_from([None, None, "o"]),
        "retention_ms": st.sampled_from([None, None, 0, 3_000]),
        "crash_max": st.sampled_from([3, 0, 1]),
        "on_parent_failed": st.sampled_from(["cancel", "run", "wait"]),
    }
)
delays: st.SearchStrategy[int] = st.sampled_from([0, 300, 1_000])


def of_machine(name: str) -> st.SearchStrategy[Any]:
    """The machine's own strategy of this name, so that a subclass can have another one."""
    return st.runner().flatmap(lambda machine: getattr(machine, name))


def comparable(record: JobRecord) -> tuple[Job, dict[str, Any]]:
    """The record without what brokers may number in their own way."""
    status = msgspec.structs.asdict(record.status)
    for own in ("seq", "token", "settled_token"):
        del status[own]
    status["crashes"] = [crash.at_ms for crash in record.status.crashes]
    return record.job, status


class BrokerMachine(RuleBasedStateMachine):
    """Does everything twice: to the oracle and to the subject. Subclasses give `open_subject`."""

    open_subject: Open
    words: ClassVar[st.SearchStrategy[dict[str, Any]]] = words
    uniques: ClassVar[st.SearchStrategy[Any]] = uniques

    jobs: Bundle[Any] = Bundle("jobs")
    leases: Bundle[Any] = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.runner: asyncio.Runner = asyncio.Runner()
        self.clock: ManualClock = ManualClock()
        self.oracle: JobStore = MemoryBroker(clock=self.clock)
        self.subject: JobStore = self.run(type(self).open_subject(self.clock))
        self.run(self.oracle.open())
        self.number: int = 0

    def run(self, awaitable: Awaitable[T]) -> T:
        """Wait for one call, on this machine's own event loop."""

        async def waited() -> T:
            return await awaitable

        return self.runner.run(waited())

    def teardown(self) -> None:
        """Close both stores."""
        self.run(self.subject.close())
        self.run(self.oracle.close())
        self.runner.close()

    def both(self, call: Callable[[JobStore], Awaitable[T]]) -> tuple[T, T]:
        """The answers of the oracle and of the subject."""
        return self.run(call(self.oracle)), self.run(call(self.subject))

    def same(self, call: Callable[[JobStore], Awaitable[object]]) -> None:
        """Both give the same answer, or refuse with the same error."""

        async def answer(broker: JobStore) -> object:
            try:
                return await call(broker)
            except RopewayError as error:
                return type(error)

        oracle, subject = self.both(answer)
        assert subject == oracle, f"the subject says {subject}, the oracle {oracle}"

    # ------------------------------------------------------------------ the life of a job

    @initialize(target=jobs)
    def begin(self) -> Any:
        """One job to begin with, so that no history is empty."""
        return self._enqueue({"queue": "a"}, None, (), ())

    @rule(
        target=jobs,
        fields=of_machine("words"),
        unique=of_machine("uniques"),
        parents=st.lists(jobs, max_size=2, unique_by=lambda job: job.id),
        unblocks=st.lists(jobs, max_size=1),
    )
    def enqueue(
        self, fields: dict[str, Any], unique: UniqueKey | None, parents: list[Job], unblocks: Any
    ) -> Any:
        """One new job."""
        return self._enqueue(fields, unique, tuple(parents), tuple(unblocks))

    def _enqueue(
        self,
        fields: dict[str, Any],
        unique: UniqueKey | None,
        parents: tuple[Job, ...],
        unblocks: tuple[Job, ...],
    ) -> Job:
        job = self._make(fields, unique, parents, unblocks)
        self.same(lambda broker: broker.enqueue([job]))
        return job

    def _make(
        self,
        fields: dict[str, Any],
        unique: UniqueKey | None = None,
        parents: tuple[Job, ...] = (),
        unblocks: tuple[Job, ...] = (),
    ) -> Job:
        self.number += 1
        return Job(
            id=f"j{self.number}",
            task="t",
            unique=None if unblocks or fields.get("group_key") else unique,
            parents=tuple(parent.id for parent in parents),
            unblocks=tuple(JobRef(child.id) for child in unblocks),
            **fields,
        )

    @rule(
        target=jobs,
        batch=st.lists(of_machine("words"), min_size=2, max_size=4),
        again=st.none() | jobs,
    )
    def enqueue_many(self, batch: list[dict[str, Any]], again: Job | None) -> Any:
        """Several jobs in one call, one of them perhaps sent before."""
        made = [self._make(fields) for fields in batch]
        sent = made if again is None else [*made, again, made[0]]
        self.same(lambda broker: broker.enqueue(sent))
        return multiple(*made)

    @rule(job=jobs)
    def enqueue_again(self, job: Job) -> None:
        """A producer that did not hear the answer sends the job again."""
        self.same(lambda broker: broker.enqueue([job]))

    @rule(
        target=leases,
        queues=st.sampled_from([("a",), ("b",), ("a", "b"), {"a": 2, "b": 1}]),
        limit=st.sampled_from([1, 2, 10]),
        worker=st.sampled_from(WORKERS),
    )
    def reserve(self, queues: Queues, limit: int, worker: str) -> Any:
        """Both hand out the same jobs, in the same order."""
        oracle, subject = self.both(
            lambda broker: broker.reserve(queues, worker=worker, limit=limit, lease_ms=LEASE_MS)
        )
        assert [_shown(lease) for lease in subject] == [_shown(lease) for lease in oracle]
        return multiple(*zip(oracle, subject, strict=True))

    def settle(self, held: Held, make: Callable[[Lease], Outcome]) -> None:
        """Settle the same lease on both."""
        oracle = self.run(self.oracle.settle([make(held[0])]))
        subject = self.run(self.subject.settle([make(held[1])]))
        assert subject == oracle, f"the subject says {subject}, the oracle {oracle}"

    @rule(
        target=jobs,
        held=leases,
        fields=of_machine("words"),
        unique=of_machine("uniques"),
        chained=st.booleans(),
    )
    def ack(
        self, held: Held, fields: dict[str, Any], unique: UniqueKey | None, *, chained: bool
    ) -> Any:
        """A good end, with or without a job that follows; the token may be stale."""
        then = (self._make(fields, unique),) if chained else ()
        self.settle(held, lambda lease: Ack(lease=lease, result=b"r", then=then))
        return multiple(*then)

    @rule(batch=st.lists(leases, min_size=2, max_size=4), kinds=st.data())
    def settle_many(self, batch: list[Held], kinds: st.DataObject) -> None:
        """Many ends in one call, mostly good; one lease may be in it twice."""
        drawn = [kinds.draw(st.sampled_from([Ack, Ack, Ack, Release, Bury])) for _ in batch]
        answers = [
            self.run(
                broker.settle(
                    [kind(lease=held[side]) for kind, held in zip(drawn, batch, strict=True)]
                )
            )
            for side, broker in enumerate((self.oracle, self.subject))
        ]
        assert answers[1] == answers[0]

    @rule(held=leases, delay_ms=delays, counted=st.booleans())
    def retry(self, held: Held, delay_ms: int, *, counted: bool) -> None:
        """Once more, later."""
        self.settle(held, lambda lease: Retry(lease=lease, delay_ms=delay_ms, counted=counted))

    @rule(held=leases, delay_ms=delays)
    def snooze(self, held: Held, delay_ms: int) -> None:
        """Not now."""
        self.settle(held, lambda lease: Snooze(lease=lease, delay_ms=delay_ms, reason="r"))

    @rule(held=leases, kind=st.sampled_from([Release, Cancel, Crashed]))
    def settle_plainly(self, held: Held, kind: type[Release | Cancel | Crashed]) -> None:
        """Handed back, or given up on purpose."""
        self.settle(held, lambda lease: kind(lease=lease))

    @rule(held=leases)
    def bury(self, held: Held) -> None:
        """A bad end."""
        failure = Failure(at_ms=1, attempt=held[0].attempt, type="E", message="m")
        self.settle(held, lambda lease: Bury(lease=lease, failure=failure, reason="r"))

    @rule(held=leases, saved=st.none() | st.just(b"s"))
    def extend(self, held: Held, saved: bytes | None) -> None:
        """A beat; the token may be stale."""
        answers = [
            self.run(
                broker.extend(
                    [Beat(lease=lease, progress=Progress(0.5), saved=saved)], lease_ms=LEASE_MS
                )
            )
            for broker, lease in zip((self.oracle, self.subject), held, strict=True)
        ]
        assert [a.answer for a in answers[0]] == [a.answer for a in answers[1]]

    # ------------------------------------------------------------------ time and operators

    @rule(ms=st.sampled_from([1, 299, 300, 399, 999, 1_000, 1_001, 10_000]))
    def advance(self, ms: int) -> None:
        """Time passes."""
        self.clock.advance(ms)

    @rule()
    def lose_all_leases(self) -> None:
        """Every worker is silent for the length of a lease."""
        self.clock.advance(LEASE_MS + 1)
        self.both(settle_time)

    @rule()
    def maintain(self) -> None:
        """Both do all that time asks for."""
        self.both(settle_time)

    @rule(job=jobs, kind=st.sampled_from([CancelJob, RetryJob, RunNow, BuryJob, DeleteJob]))
    def act(self, job: Job, kind: type[Any]) -> None:
        """An operator at work."""
        self._act(kind(ref=JobRef(job.id)))

    @rule(job=jobs, queue=st.sampled_from(QUEUES))
    def move(self, job: Job, queue: str) -> None:
        """An operator moves a job."""
        self._act(MoveJob(ref=JobRef(job.id), queue=queue))

    @rule(job=jobs, fields=of_machine("words"), unique=of_machine("uniques"))
    def edit(self, job: Job, fields: dict[str, Any], unique: UniqueKey | None) -> None:
        """An operator edits a job."""
        key = None if fields.get("group_key") else unique
        changed = Job(id=job.id, task="t", payload=b"edited", unique=key, **fields)
        if not job.unblocks:
            self._act(EditJob(ref=JobRef(job.id), job=changed))

    def _act(self, action: Action) -> None:
        oracle, subject = self.both(lambda broker: broker.act([action]))
        assert [(a.answer, a.state) for a in subject] == [(a.answer, a.state) for a in oracle]

    @rule(
        queue=st.sampled_from(QUEUES),
        purged=st.sampled_from([frozenset({State.DEAD}), frozenset({State.SCHEDULED}), None]),
    )
    def purge(self, queue: str, purged: frozenset[State] | None) -> None:
        """An operator empties a queue."""
        self.same(lambda broker: broker.purge(queue, states=purged))

    @rule(queue=st.sampled_from(QUEUES), pause=st.booleans())
    def pause_or_resume(self, queue: str, *, pause: bool) -> None:
        """An operator stops and starts a queue."""
        self.both(lambda broker: broker.pause(queue) if pause else broker.resume(queue))

    @rule(worker=st.sampled_from(WORKERS))
    def abandon(self, worker: str) -> None:
        """A supervisor saw a worker die."""
        self.same(lambda broker: broker.abandon([worker]))

    # ------------------------------------------------------------------ both are the same

    @invariant()
    def both_keep_the_same_records(self) -> None:
        """Every record, in every field that a user can see."""
        oracle, subject = self.both(all_records)
        for one, other in zip(subject, oracle, strict=True):
            said = f"the subject says {one}, the oracle {other}"
            assert comparable(one) == comparable(other), said

    @invariant()
    def both_show_the_same_queues(self) -> None:
        """Counts and pauses, and the order in which jobs will be handed out."""
        self.same(lambda broker: broker.queues())
        for queue in QUEUES:
            oracle, subject = self.both(lambda broker, q=queue: broker.peek(q, limit=100))
            assert [r.job.id for r in subject] == [r.job.id for r in oracle]


def _shown(lease: Lease) -> tuple[object, ...]:
    """A lease without its token."""
    return (
        lease.job,
        lease.attempt,
        lease.expires_at_ms,
        lease.crashes,
        lease.snoozes,
        lease.saved,
    )


def machine_for(
    open_subject: Open, machine: type[BrokerMachine] = BrokerMachine
) -> type[BrokerMachine]:
    """The machine that compares the broker made by `open_subject(clock)` with the oracle.

    Use it as `TestModel = machine_for(open_mine).TestCase`. Each history opens a broker of its
    own, which must be empty. `flow_model.FlowMachine` is a machine with flow control.
    """
    return type("Machine", (machine,), {"open_subject": staticmethod(open_subject)})
