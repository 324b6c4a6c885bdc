"""Reasons in the queue of a job and in the workers that serve it."""

from dataclasses import dataclass
from typing import Final

from ropeway.broker import WorkerInfo
from ropeway.job import SUSPECT_CRASHES
from ropeway.why.reason import Case, Kind, Reason, plural, some

_PAGE: Final = 1_000
_LOOKED_AT: Final = 10_000  # places of a queue that are looked through for the job


@dataclass(frozen=True, slots=True)
class Serving:
    """The workers heard of lately, and those of them that start jobs of the queue."""

    known: list[WorkerInfo]
    of_queue: list[WorkerInfo]

    @classmethod
    async def of(cls, case: Case) -> "Serving":
        """Those that concern the job."""
        known = await case.store.workers()
        serve = [w for w in known if case.job.queue in w.queues and w.state == "running"]
        return cls(known, serve)

    @property
    def ids(self) -> tuple[str, ...]:
        """Of those that start jobs of the queue."""
        return tuple(worker.id for worker in self.of_queue)


async def paused(case: Case) -> list[Reason]:
    """The queue is paused."""
    queue = case.job.queue
    if not any(info.paused for info in await case.store.queues() if info.name == queue):
        return []
    return [Reason(kind=Kind.PAUSED, text=f"queue {queue!r} is paused; resume it to go on")]


def unserved(case: Case, serving: Serving) -> list[Reason]:
    """No worker starts jobs of the queue."""
    if serving.of_queue:
        return []
    queue = case.job.queue
    resting = [worker for worker in serving.known if queue in worker.queues]
    if resting:
        ids = some([f"{worker.id} ({worker.state})" for worker in resting], "worker")
        text = f"queue {queue!r} has only workers that start no more jobs: {ids}"
    elif serving.known:
        text = f"none of the workers known ({len(serving.known)}) serves queue {queue!r}"
    else:
        text = "no worker was heard of in the last minute"
    ids = tuple(worker.id for worker in resting)
    return [Reason(kind=Kind.NO_WORKER, text=text, workers=ids)]


def unknown_task(case: Case, serving: Serving) -> list[Reason]:
    """No worker of the queue knows the task. One that lists no tasks may know it."""
    task = case.job.task
    if not serving.of_queue or any(not w.tasks or task in w.tasks for w in serving.of_queue):
        return []
    text = (
        f"no worker of queue {case.job.queue!r} knows task {task!r}; asked: "
        f"{some(serving.ids, 'worker')}"
    )
    return [Reason(kind=Kind.UNKNOWN_TASK, text=text, workers=serving.ids)]


def suspect(case: Case, serving: Serving) -> list[Reason]:
    """The job may kill its worker, and none is idle."""
    crashes = len(case.status.crashes)
    if crashes < SUSPECT_CRASHES or not all(worker.running for worker in serving.of_queue):
        return []
    text = f"{crashes} workers died with it: it starts alone, on a worker that runs nothing else"
    return [Reason(kind=Kind.SUSPECT, text=text, workers=serving.ids)]


async def turn(case: Case, serving: Serving) -> Reason:
    """Nothing holds the job back but its place in the queue."""
    before = await _before(case)
    jobs = f"{'at least ' if before >= _LOOKED_AT else ''}{before:,} {plural(before, 'job')}"
    if any(len(worker.running) < worker.concurrency for worker in serving.of_queue):
        when = f"after the {jobs} before it" if before else "at once"
        text = f"nothing holds it back: it will run {when}"
        return Reason(kind=Kind.NOTHING, text=text, count=before)
    have, are = ("has" if len(serving.ids) == 1 else "have"), ("is" if before == 1 else "are")
    text = (
        f"{some(serving.ids, 'worker')} of queue {case.job.queue!r} {have} no free place; "
        f"{jobs} {are} before it"
    )
    return Reason(kind=Kind.BUSY, text=text, workers=serving.ids, count=before)


async def _before(case: Case) -> int:
    """How many jobs of the queue will be handed out before it, of those that are looked at."""
    before = 0
    for offset in range(0, _LOOKED_AT, _PAGE):
        records = await case.store.peek(case.job.queue, limit=_PAGE, offset=offset)
        for record in records:
            if record.job.id == case.job.id:
                return before
            before += record.status.blocked_on is None
        if len(records) < _PAGE:
            break
    return before
