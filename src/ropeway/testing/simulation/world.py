"""One simulated host: its clock, its broker, the processes on it, and what is known of all."""

import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from random import Random
from typing import Any, Final

from ropeway.action import Acted
from ropeway.broker import EnqueueAnswer, Filter, JobStore
from ropeway.brokers.memory import MemoryBroker
from ropeway.brokers.sqlite import SQLiteBroker
from ropeway.job import Job, JobRef, Lease
from ropeway.outcome import Outcome, Retry, Settled, Snooze
from ropeway.runtime import IdSource, Runtime
from ropeway.testing.simulation.history import Event, History
from ropeway.testing.simulation.link import Link, Weather
from ropeway.testing.simulation.loop import HostClock, Process, VirtualLoop
from ropeway.testing.steps import all_records

Open = Callable[[Path, HostClock], Callable[[], JobStore]]
"""Gives, for a folder and a clock, what makes each process its broker."""


def _memory(_folder: Path, clock: HostClock) -> Callable[[], JobStore]:
    broker = MemoryBroker(clock=clock)
    return lambda: broker


def _sqlite(folder: Path, clock: HostClock) -> Callable[[], JobStore]:
    path = folder / "jobs.db"
    return lambda: SQLiteBroker(path, durability="fast", clock=clock, start_thread=None)


BROKERS: Final[dict[str, Open]] = {"memory": _memory, "sqlite": _sqlite}
"""The brokers that can be simulated: on one thread, by a given clock."""


class World:
    """Everything that a simulation is made of.

    Attributes:
        weather: of every way to the broker.
        known: the jobs that the broker has, for the operator to choose from.
        links: every process's way to the broker, by its name.

    """

    def __init__(self, seed: int, broker: str, loop: VirtualLoop) -> None:
        self.seed = seed
        self.loop = loop
        self.history: History = History()
        self.clock: HostClock = HostClock(loop)
        self.weather: Weather = Weather()
        self.known: list[JobRef] = []
        self.links: dict[str, Link] = {}
        shared_memory = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it
        within = shared_memory if shared_memory.is_dir() else None
        self._folder = tempfile.TemporaryDirectory(prefix="ropeway-simulation-", dir=within)
        self._make = BROKERS[broker](Path(self._folder.name), self.clock)
        self._brokers: list[JobStore] = []
        self.observer: JobStore = self.make_broker()
        self._answers: dict[str, list[str]] = {}

    def random(self, name: str) -> Random:
        """A source of chance for one part, whatever the others draw."""
        return Random(f"{self.seed}/{name}")  # noqa: S311 - repeatable on purpose

    def make_broker(self) -> JobStore:
        """A broker for one more process; where there is one for all, that."""
        broker = self._make()
        if broker not in self._brokers:
            self._brokers.append(broker)
        return broker

    def start(
        self, name: str, main: Callable[[Link, Runtime, HostClock], Coroutine[Any, Any, Any]]
    ) -> Process:
        """A process of this name, with its own clock and its own way to the broker."""
        process, random = Process(name), self.random(name)
        clock = HostClock(self.loop)
        ids = IdSource(clock, random.randbytes)
        runtime = Runtime(clock=clock, random=random, new_id=ids.next, start_thread=None)
        link = Link(
            loop=self.loop,
            who=name,
            broker=self.make_broker(),
            random=self.random(f"{name}/link"),
            weather=self.weather,
            witness=self,
        )
        self.links[name] = link

        async def life() -> None:
            await link.store.open()
            await main(link, runtime, clock)

        self.loop.start(process, life())
        return process

    async def audit(self) -> None:
        """Note every record and every count, as the broker shows them now."""
        records = await all_records(self.observer, Filter())
        for record in sorted(records, key=lambda record: record.status.seq):
            job, status = record.job, record.status
            self.note(
                "world",
                "record",
                job.id,
                state=status.state.value,
                seq=status.seq,
                attempt=status.attempt,
                crashes=len(status.crashes),
                created_ms=job.created_at_ms,
                finished_ms=status.finished_at_ms,
                reason=status.reason,
                queue=job.queue,
                task=job.task,
                key=job.unique.key if job.unique is not None else None,
                line=job.ordering_key,
            )
        for queue in await self.observer.queues():
            counts: dict[str, Any] = {s.value: n for s, n in queue.counts.items() if n}
            self.note("world", "counts", queue=queue.name, **dict(sorted(counts.items())))

    async def end(self) -> None:
        """Let go of every process, broker and file."""
        for link in self.links.values():
            link.is_over = True
        await self.loop.bury()
        for broker in self._brokers:
            await broker.close()
        self._folder.cleanup()

    # -- the witness ----------------------------------------------------------------------------

    def note(self, who: str, kind: str, job: str = "", **facts: Any) -> None:
        """Something happened."""
        self.history.append(Event(self.loop.now_ms, who, kind, job, facts))

    def before(self, who: str, verb: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:  # noqa: ARG002
        """See `Witness`."""
        if verb == "resume":
            self.note(who, "resume", queue=args[0])

    def saw(self, who: str, verb: str, call: tuple[Any, dict[str, Any]], answer: Any) -> None:
        """See `Witness`."""
        args, kwargs = call
        match verb:
            case "enqueue":
                self._saw_enqueue(who, args[0], kwargs.get("call_id"), answer)
            case "reserve":
                self._saw_leases(who, kwargs["worker"], answer)
            case "reserve_group":
                self._saw_leases(who, kwargs["worker"], answer)
            case "settle":
                self._saw_settled(who, args[0], answer)
            case "exchange":
                self._saw_settled(who, args[0], answer[0])
                self._saw_leases(who, kwargs["worker"], answer[1])
            case "extend":
                for beat, told in zip(args[0], answer, strict=True):
                    facts = {"token": beat.lease.token, "answer": told.answer.value}
                    job_id = beat.lease.job.id
                    self.note(who, "extend", job_id, **facts, until_ms=told.expires_at_ms)
            case "act":
                self._saw_acted(who, args[0], answer)
            case "pause":
                self.note(who, "pause", queue=args[0])
            case "abandon":
                self.note(who, "abandon", workers=",".join(args[0]))
            case _:
                pass

    def _saw_enqueue(self, who: str, jobs: list[Job], call: str | None, answer: Any) -> None:
        told = [f"{one.answer.value}:{one.id}" for one in answer]
        if call is not None and self._answers.setdefault(call, told) is not told:
            same = self._answers[call] == told
            self.note(who, "again", jobs[0].id, same=same)
            return
        for job, one in zip(jobs, answer, strict=True):
            facts = {"answer": one.answer.value, "holder": one.id, "crash_max": job.crash_max}
            facts |= {"queue": job.queue, "wall_ms": self.clock.wall_ms()}
            key = job.unique.key if job.unique is not None else None
            self.note(who, "enqueue", job.id, **facts, key=key, parents=",".join(job.parents))
            if one.answer is EnqueueAnswer.OK:
                self.known.append(job.ref)

    def _saw_leases(self, who: str, worker: str, leases: list[Lease]) -> None:
        for lease in leases:
            job = lease.job
            self.note(
                who,
                "grant",
                job.id,
                token=lease.token,
                attempt=lease.attempt,
                until_ms=lease.expires_at_ms,
                worker=worker,
                queue=job.queue,
                wall_ms=self.clock.wall_ms(),
                not_before_ms=job.scheduled_at_ms,
                expires_ms=job.expires_at_ms,
                line=job.ordering_key,
                task=job.task,
                limits=" ".join(f"{limit.name}:{limit.key}" for limit in job.limits),
            )

    def _saw_settled(self, who: str, outcomes: list[Outcome], answers: list[Settled]) -> None:
        for outcome, answer in zip(outcomes, answers, strict=True):
            delay_ms = outcome.delay_ms if isinstance(outcome, Retry | Snooze) else None
            counted = isinstance(outcome, Retry) and outcome.counted
            self.note(
                who,
                "settle",
                outcome.lease.job.id,
                token=outcome.lease.token,
                outcome=type(outcome).__name__,
                answer=answer.value,
                delay_ms=delay_ms,
                counted=counted,
                wall_ms=self.clock.wall_ms(),
            )

    def _saw_acted(self, who: str, actions: list[Any], answers: list[Acted]) -> None:
        for action, acted in zip(actions, answers, strict=True):
            facts = {"action": type(action).__name__, "answer": acted.answer.value}
            state = acted.state.value if acted.state is not None else None
            self.note(who, "act", action.ref.id, **facts, state=state)
