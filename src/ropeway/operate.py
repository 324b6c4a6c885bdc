"""What operators do: look at jobs and queues, and act on jobs by id or by filter.

By filter, jobs are visited in pages, newest first, and each page is one call of the store. A job
whose state changes meanwhile answers for itself; none is visited twice.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Unpack, cast

import msgspec

from ropeway.action import (
    Acted,
    Action,
    Answer,
    BuryJob,
    CancelJob,
    DeleteJob,
    MoveJob,
    RetryJob,
    RunNow,
)
from ropeway.broker import Filter, Page, QueueInfo
from ropeway.clock import SYSTEM_CLOCK
from ropeway.definition import Definition
from ropeway.edit import edit_job
from ropeway.errors import JobNotFound
from ropeway.flow.rules import QueueRule, RuleInfo
from ropeway.handle import Handle, Link
from ropeway.job import FINAL, UNFINISHED, WAITING, JobRecord, JobRef, State
from ropeway.limits import QueueSettings, reset_queue, set_queue
from ropeway.options import EditOptions, as_name, as_ref
from ropeway.why import Why, explain

Which = str | JobRef | Handle[Any] | Iterable[str | JobRef | Handle[Any]] | Filter
"""One job (an id, a reference or a handle), several of them, or all that a filter finds."""

_PAGE: Final = 500
_DETAILS: Final = 20


class Changed(msgspec.Struct, frozen=True, kw_only=True):
    """What an action did, or in a dry run would do, as counts of jobs."""

    done: int = 0
    requested: int = 0  # running jobs that were asked to stop
    refused: int = 0  # the job's state does not allow it, or a key or id is taken
    not_found: int = 0
    details: tuple[str, ...] = ()  # why the first few were refused

    @property
    def matched(self) -> int:
        """How many jobs were looked at."""
        return self.done + self.requested + self.refused + self.not_found


class Jobs:
    """The jobs of an app: `app.jobs`. Times in filters are UTC epoch milliseconds."""

    def __init__(self, link: Link, definitions: Mapping[str, Definition]) -> None:
        self._link = link
        self._definitions = definitions

    async def get(self, job: str | JobRef | Handle[Any]) -> JobRecord:
        """The record of one job, with an offloaded payload and result.

        `find` and `page` leave references in their place (codec "ref").

        Raises:
            JobNotFound: there is no such job.
            BlobLost: what was offloaded cannot be found.
        """
        return await Handle[Any](as_ref(job), self._link).record()

    async def why(self, job: str | JobRef | Handle[Any]) -> Why:
        """Why the job does not run, or what became of it; see `ropeway.why`. Raises JobNotFound."""
        record = await self.get(job)
        return await explain(self._link.store, record, now_ms=SYSTEM_CLOCK.wall_ms())

    async def find(self, where: Filter | None = None) -> AsyncIterator[JobRecord]:
        """Every record that matches, newest first, read in pages while you iterate."""
        cursor: str | None = None
        while True:
            page = await self.page(where, after=cursor, limit=_PAGE)
            for record in page.records:
                yield record
            if (cursor := page.cursor) is None:
                return

    async def page(
        self, where: Filter | None = None, *, after: str | None = None, limit: int = 100
    ) -> Page:
        """One page of records and the cursor of the next; see `JobStore.find`."""
        return await self._link.store.find(where or Filter(), after=after, limit=limit)

    async def count(self, where: Filter | None = None) -> int:
        """How many records match, exactly."""
        return await self._link.store.count(where or Filter())

    async def cancel(
        self, which: Which, *, reason: str = "cancelled", dry_run: bool = False
    ) -> Changed:
        """Cancel waiting jobs, and ask running ones to stop."""
        make = partial(CancelJob, reason=reason)
        return await self._apply(which, make, UNFINISHED, dry_run=dry_run)

    async def retry(self, which: Which, *, dry_run: bool = False) -> Changed:
        """Run ended and retryable jobs again, with all their attempts."""
        allowed = FINAL | {State.RETRYABLE}
        return await self._apply(which, RetryJob, allowed, dry_run=dry_run)

    async def run_now(self, which: Which, *, dry_run: bool = False) -> Changed:
        """Run scheduled and retryable jobs now; attempts made stay counted."""
        allowed = frozenset({State.SCHEDULED, State.RETRYABLE})
        return await self._apply(which, RunNow, allowed, dry_run=dry_run)

    async def bury(self, which: Which, *, reason: str = "buried", dry_run: bool = False) -> Changed:
        """Move waiting jobs to the dead set, where they stay for an operator."""
        make = partial(BuryJob, reason=reason)
        return await self._apply(which, make, WAITING, dry_run=dry_run)

    async def move(self, which: Which, queue: str, *, dry_run: bool = False) -> Changed:
        """Move waiting jobs to another queue; state, time and place in the order stay."""
        to = as_name("queue", queue)
        make = partial(MoveJob, queue=to)
        return await self._apply(which, make, WAITING, dry_run=dry_run)

    async def delete(self, which: Which, *, dry_run: bool = False) -> Changed:
        """Remove jobs that are not running, records and all."""
        allowed = frozenset(State) - {State.RUNNING}
        return await self._apply(which, DeleteJob, allowed, dry_run=dry_run)

    async def edit(
        self,
        job: str | JobRef | Handle[Any],
        arguments: Mapping[str, object] | None = None,
        /,
        **options: Unpack[EditOptions],
    ) -> Acted:
        """Change the words of a waiting job: some arguments by name, some options.

        What is not named stays. The arguments are checked against the task's types when its code
        is here. A change by somebody else in between is noticed and not overwritten.

        Raises:
            JobNotFound: there is no such job.
            ConfigError: an option is unknown or cannot be meant.
            CodecError: the arguments do not fit the task. `BlobLost` if those that stay were
                offloaded and cannot be found.
        """
        stored = (await Handle[Any](as_ref(job), self._link).stored()).job
        offload = self._link.offload
        needs_payload = bool(arguments) or "unique" in options
        action = edit_job(
            await offload.job(stored) if needs_payload and offload is not None else stored,
            arguments or {},
            cast("Mapping[str, Any]", options),
            definition=self._definitions.get(stored.task),
        )
        if offload is not None:
            (kept,) = await offload.keep_payloads([action.job])
            action = msgspec.structs.replace(action, job=kept)
        acted = (await self._link.store.act([action]))[0]
        if acted.answer is Answer.NOT_FOUND:
            raise JobNotFound(f"job {stored.id} was removed meanwhile")
        return acted

    async def _apply(
        self,
        which: Which,
        make: Callable[..., Action],
        allowed: frozenset[State],
        *,
        dry_run: bool,
    ) -> Changed:
        store = self._link.store
        if isinstance(which, Filter):
            states = allowed if which.states is None else which.states & allowed
            where = msgspec.structs.replace(which, states=states)
            if not states:
                return Changed()
            if dry_run:
                return Changed(done=await store.count(where))
            changed = Changed()
            async for refs in self._batches(where):
                changed = _add(changed, refs, await store.act([make(ref=ref) for ref in refs]))
            return changed
        refs = _refs(which)
        if dry_run:
            return _foretell(refs, await store.get(refs), allowed)
        changed = Changed()
        for start in range(0, len(refs), _PAGE):
            part = refs[start : start + _PAGE]
            changed = _add(changed, part, await store.act([make(ref=ref) for ref in part]))
        return changed

    async def _batches(self, where: Filter) -> AsyncIterator[list[JobRef]]:
        cursor: str | None = None
        while True:
            page = await self._link.store.find(where, after=cursor, limit=_PAGE)
            if page.records:
                yield [record.job.ref for record in page.records]
            if (cursor := page.cursor) is None:
                return


class Queues:
    """The queues of an app: `app.queues`."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def list(self) -> list[QueueInfo]:
        """Every queue that has records or is paused, by name."""
        return await self._link.store.queues()

    async def pause(self, queue: str) -> None:
        """Hand out no more jobs of the queue until `resume`; survives restarts."""
        await self._link.store.pause(as_name("queue", queue))

    async def resume(self, queue: str) -> None:
        """Undo `pause`."""
        await self._link.store.resume(as_name("queue", queue))

    async def purge(self, queue: str, *, states: Iterable[State] | None = None) -> int:
        """Delete the jobs of a queue that are not running, or only those in `states`; how many."""
        only = None if states is None else frozenset(states)
        return await self._link.store.purge(as_name("queue", queue), states=only)

    async def peek(self, queue: str, *, limit: int = 10, offset: int = 0) -> Sequence[JobRecord]:
        """The jobs that will be handed out next, in that order, from position `offset`."""
        return await self._link.store.peek(as_name("queue", queue), limit=limit, offset=offset)

    async def rules(self) -> Sequence[RuleInfo]:
        """Every queue with a bound or with limits of its own, as the code and operators say it.

        Which jobs hold such a limit: `app.limits.keys("queue:NAME")`.
        """
        return [i for i in await self._link.store.rules() if isinstance(i.rule, QueueRule)]

    async def set(
        self, queue: str, *, force: bool = False, **settings: Unpack[QueueSettings]
    ) -> RuleInfo:
        """Override a queue's bound and limits, at once and until `reset`; the rule as it is then.

            await app.queues.set("mail", max_length=10_000, concurrency=Concurrency(5))

        Args:
            queue: any queue, whether the code describes it or not.
            force: also when more jobs run than the queue's new limit has slots: they go on, and
                none starts until there is room.
            settings: what is left out stays as it is in force; None lifts it.

        Raises:
            ConfigError: a setting is unknown or cannot be meant, or more slots are in use than
                the queue shall have (without `force`).
        """
        return await set_queue(self._link.store, queue, settings, force=force)

    async def reset(self, queue: str) -> bool:
        """Let the code's word count again; whether there was an override."""
        return await reset_queue(self._link.store, queue)


def _refs(which: object) -> list[JobRef]:
    # A JobRef is a tuple, but it is one job.
    if isinstance(which, str | JobRef | Handle):
        return [as_ref(cast("object", which))]
    return [as_ref(item) for item in cast("Iterable[object]", which)]


def _add(so_far: Changed, refs: Sequence[JobRef], answers: Sequence[Acted]) -> Changed:
    """The counts after one more batch."""
    count = dict.fromkeys(Answer, 0)
    details = list(so_far.details)
    for ref, acted in zip(refs, answers, strict=True):
        count[acted.answer] += 1
        if acted.answer is Answer.REFUSED and len(details) < _DETAILS:
            details.append(f"{ref.id}: {acted.detail or f'not possible while {acted.state}'}")
    return Changed(
        done=so_far.done + count[Answer.DONE],
        requested=so_far.requested + count[Answer.REQUESTED],
        refused=so_far.refused + count[Answer.REFUSED],
        not_found=so_far.not_found + count[Answer.NOT_FOUND],
        details=tuple(details),
    )


def _foretell(
    refs: Sequence[JobRef], records: Sequence[JobRecord | None], allowed: frozenset[State]
) -> Changed:
    """The counts that an action would give, by the states that the jobs are in now."""
    states = [record and record.status.state for record in records]
    return Changed(
        done=sum(state in allowed for state in states if state is not None),
        refused=sum(state not in allowed for state in states if state is not None),
        not_found=states.count(None),
        details=tuple(
            f"{ref.id}: not possible while {state}"
            for ref, state in zip(refs, states, strict=True)
            if state is not None and state not in allowed
        )[:_DETAILS],
    )
