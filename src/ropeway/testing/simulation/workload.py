"""What the simulated processes do: handlers of every kind, producers, an operator."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from random import Random
from typing import Any, Final, Protocol

from ropeway import codec
from ropeway.action import Action, CancelJob, RetryJob, RunNow
from ropeway.broker import JobStore
from ropeway.context import Context
from ropeway.definition import Definition
from ropeway.errors import BrokerError, Disconnected
from ropeway.job import Job, JobRef, UniqueKey
from ropeway.retry import Backoff, RetryPolicy
from ropeway.runtime import Runtime
from ropeway.signature import Parameters
from ropeway.submit import submit
from ropeway.verdict import Snooze
from ropeway.worker.handlers.processes import ChildDied

LEASE_MS: Final = 2_000
TIMEOUT_MS: Final = 700
QUEUES: Final = ("a", "b")
UNTIL_KILLED_S: Final = 3_600
RUN_ONCE: Final = ("-unique", "-ordered", "-at_most_once", "-poison", "-expires")
"""Kinds that no operator retries: what must hold of them is said of one life."""

Ctx = Context[Any]
Note = Callable[..., None]
Fields = dict[str, Any]


class Killer(Protocol):
    """Kills the process that it belongs to, as a bad job does."""

    def __call__(self) -> None:
        """Nothing of the process runs after this."""
        ...


# ------------------------------------------------------------------------------ handlers


def _define(name: str, func: Callable[..., Any], fields: Fields) -> Definition:
    parameters = Parameters.of(func, skip_first=True)
    given: Fields = {"kind": "async", "wants_ctx": True, **fields}
    return Definition(name=name, func=func, parameters=parameters, **given)


class Handlers:
    """The tasks of one worker process. Each run notes its start and how it ended."""

    def __init__(self, who: str, note: Note, kill: Killer) -> None:
        self._who = who
        self._note = note
        self._kill = kill

    def definitions(self) -> Mapping[str, Definition]:
        """The tasks by name."""
        policy = RetryPolicy(attempts=20, backoff=Backoff.exponential(0.2, cap=2))
        own: dict[str, tuple[Any, Fields]] = {
            "sleeps": (self.sleeps, {}),
            "instant": (self.instant, {}),
            "blocks": (self.blocks, {"kind": "thread"}),
            "fails": (self.fails, {}),
            "snoozes": (self.snoozes, {}),
            "overruns": (
                self.sleeps,
                {"timeout_ms": TIMEOUT_MS, "policy": RetryPolicy(attempts=1)},
            ),
            "at_most_once": (self.sleeps, {"ack": "before"}),
            "child_dies": (self.child_dies, {}),
            "poison": (self.poison, {}),
            "child_poison": (self.child_poison, {}),
        }
        return {
            name: _define(name, func, {"policy": policy, **fields})
            for name, (func, fields) in own.items()
        }

    @contextmanager
    def _run(self, ctx: Ctx) -> Generator[None, None, None]:
        facts: Fields = {"token": ctx.lease.token, "attempt": ctx.attempt}
        self._note(self._who, "start", ctx.job.id, **facts)
        try:
            yield
        except BaseException as error:
            self._note(self._who, "end", ctx.job.id, **facts, how=type(error).__name__)
            raise
        self._note(self._who, "end", ctx.job.id, **facts, how="ok")

    async def sleeps(self, ctx: Ctx, ms: int) -> int:
        """Takes a while."""
        with self._run(ctx):
            await asyncio.sleep(ms / 1000)
        return ms

    async def instant(self, ctx: Ctx, ms: int) -> int:
        """Never waits."""
        with self._run(ctx):
            return ms

    def blocks(self, ctx: Ctx, ms: int) -> int:
        """Runs in a thread, where there are threads."""
        with self._run(ctx):
            return ms

    async def fails(self, ctx: Ctx, ms: int) -> int:
        """Fails `ms` times."""
        with self._run(ctx):
            await asyncio.sleep(0.01)
            if ctx.attempt <= ms:
                raise ConnectionError("one more time")
        return ms

    async def snoozes(self, ctx: Ctx, ms: int) -> int:
        """Wants to run later, once."""
        with self._run(ctx):
            if ctx.lease.snoozes == 0:
                raise Snooze(ms / 1000)
        return ms

    async def child_dies(self, ctx: Ctx, ms: int) -> int:
        """Runs in a process of its own, which dies until `ms` crashes are counted."""
        with self._run(ctx):
            await asyncio.sleep(0.01)
            if ctx.lease.crashes < ms:
                raise ChildDied(-signal.SIGKILL)
        return ms

    async def child_poison(self, ctx: Ctx, ms: int) -> int:
        """Kills the process that it has for itself; the worker lives."""
        with self._run(ctx):
            await asyncio.sleep(ms / 1000)
            raise ChildDied(-signal.SIGKILL)

    async def poison(self, ctx: Ctx, ms: int) -> int:
        """Kills its worker."""
        with self._run(ctx):
            await asyncio.sleep(ms / 1000)
            self._kill()
            await asyncio.sleep(UNTIL_KILLED_S)
        return ms


# ------------------------------------------------------------------------------ jobs


def _sleeping(_random: Random) -> Fields:
    return {}


_KINDS: Final[dict[str, tuple[int, str, tuple[int, int], Callable[[Random], Fields]]]] = {
    # kind: how often, task, range of `ms`, other fields
    "plain": (6, "sleeps", (0, 200), _sleeping),
    "instant": (3, "instant", (0, 9), _sleeping),
    "thread": (2, "blocks", (0, 9), _sleeping),
    "long": (2, "sleeps", (LEASE_MS, 3 * LEASE_MS), _sleeping),
    "fails": (3, "fails", (1, 3), _sleeping),
    "child": (2, "child_dies", (1, 2), _sleeping),
    "snoozes": (2, "snoozes", (1, 1500), _sleeping),
    "delayed": (4, "instant", (0, 9), lambda random: {"delay_ms": random.randint(1, 4000)}),
    "unique": (
        4,
        "sleeps",
        (0, 400),
        lambda random: {"unique": UniqueKey(key=random.choice("klm")), "queue": "a"},
    ),
    "ordered": (
        4,
        "sleeps",
        (0, 100),
        lambda random: {"ordering_key": random.choice("op"), "queue": "b"},
    ),
    "overruns": (1, "overruns", (TIMEOUT_MS + 1, 5 * TIMEOUT_MS), _sleeping),
    "expires": (1, "sleeps", (0, 50), lambda random: {"expires_after_ms": random.randint(1, 500)}),
    "at_most_once": (1, "at_most_once", (0, 50), _sleeping),
}


def payload(ms: int) -> bytes:
    """The arguments of every handler here."""
    return codec.encode({"ms": ms}).data


def make_job(kind: str, name: str, random: Random) -> Job:
    """One job of a kind, with what chance gives it."""
    _, task, (least, most), more = _KINDS[kind]
    fields: Fields = {
        "queue": random.choice(QUEUES),
        "priority": random.choice((0, 0, 0, 5)),
        "crash_max": 1_000,  # kills are many here, and only the poison's own are its fault
        **more(random),
    }
    return Job(
        id=f"{name}-{kind}", task=task, payload=payload(random.randint(least, most)), **fields
    )


def make_call(name: str, random: Random) -> list[Job]:
    """The jobs of one call of a producer."""
    drawn = random.random()
    if drawn < 0.04:
        parents = [make_job("plain", f"{name}.{place}", random) for place in "xy"]
        child = make_job("plain", f"{name}.child", random)
        fields: Fields = {"parents": tuple(parent.id for parent in parents)}
        return [*parents, _with(child, fields)]
    kinds, weights = list(_KINDS), [row[0] for row in _KINDS.values()]
    count = 1 if drawn < 0.7 else random.randint(2, 4)
    chosen = random.choices(kinds, weights, k=count)
    return [make_job(kind, f"{name}.{place}", random) for place, kind in enumerate(chosen)]


def make_poison(name: str, random: Random) -> Job:
    """A job that kills each worker that runs it, or the process that it runs in."""
    fields: Fields = {"queue": random.choice(QUEUES), "payload": payload(random.randint(0, 300))}
    return Job(id=f"{name}-poison", task=random.choice(("poison", "child_poison")), **fields)


def _with(job: Job, fields: Fields) -> Job:
    given: Fields = {name: getattr(job, name) for name in job.__struct_fields__}
    return Job(**{**given, **fields})


# ------------------------------------------------------------------------------ clients


async def produce(
    who: str, store: JobStore, *, runtime: Runtime, random: Random, note: Note, pause_ms: int
) -> None:
    """Enqueue one call after the other, until killed."""
    number = 0
    while True:
        await asyncio.sleep(random.randint(0, 2 * pause_ms) / 1000)
        number += 1
        await send(who, store, make_call(f"{who}-{number}", random), runtime=runtime, note=note)


async def send(who: str, store: JobStore, jobs: list[Job], *, runtime: Runtime, note: Note) -> None:
    """Enqueue jobs as a program does, and note what is known of each."""
    for job in jobs:
        note(who, "send", job.id, delay_ms=job.delay_ms)
    try:
        answers = await submit(store, jobs, runtime=runtime)
    except BrokerError as error:
        for job in jobs:
            note(who, "unknown", job.id, error=type(error).__name__)
        return
    for job, answer in zip(jobs, answers, strict=True):
        note(who, "sent", job.id, answer=answer.answer.value, id=answer.id)


async def operate(store: JobStore, *, random: Random, known: list[JobRef]) -> None:
    """Cancel, retry, run now, pause and resume, until killed."""
    while True:
        await asyncio.sleep(random.uniform(0.1, 1.5))
        if random.random() < 0.3:
            queue = random.choice(QUEUES)
            await insist(lambda queue=queue: store.pause(queue))
            await asyncio.sleep(random.uniform(0, 2))
            await insist(lambda queue=queue: store.resume(queue))
        elif known:
            ref = random.choice(known[-40:])
            kinds: tuple[type[Any], ...] = (CancelJob, RunNow, RetryJob)
            kind = CancelJob if ref.id.endswith(RUN_ONCE) else random.choice(kinds)
            action: Action = kind(ref=ref)
            try:
                await store.act([action])
            except Disconnected:
                continue  # whether it was done is the witness's to know


async def insist(call: Callable[[], Awaitable[object]]) -> None:
    """Call until there is an answer."""
    while True:
        try:
            await call()
        except Disconnected:
            await asyncio.sleep(0.05)
        else:
            return
