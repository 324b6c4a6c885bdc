"""Payloads and results that are kept outside of their records: fetched before a run, kept after."""

import logging
from collections.abc import Callable, Container
from functools import partial

import msgspec

from ropeway.codec import REFERENCE
from ropeway.errors import CodecError, OffloadFailed
from ropeway.offload import Offload
from ropeway.outcome import Ack, Outcome
from ropeway.runtime import Runtime
from ropeway.worker.handlers import ending
from ropeway.worker.handlers.batches import Batch
from ropeway.worker.handlers.calls import Rest, Slot
from ropeway.worker.run import Run

_log = logging.getLogger("ropeway.worker")

Begin = Callable[[Run], Outcome | Rest | None]


class Offloading:
    """Around `Calls.begin`, in a worker of an app that offloads.

    Blobs are fetched and kept in the job's own slot, so that a slow one delays nobody else. When
    the blob store fails, the job goes back uncounted; a blob that is lost buries its job.
    """

    def __init__(
        self, begin: Begin, offload: Offload, *, tasks: Container[str], runtime: Runtime
    ) -> None:
        self._begin = begin
        self._tasks = tasks
        self._offload = offload
        self._runtime = runtime

    def begin(self, run: Run) -> Outcome | Rest | None:
        """`Calls.begin`: the outcome, what is left to await, or None."""
        job = run.lease.job
        if isinstance(run, Batch):
            return partial(self._batch, run)
        if job.codec == REFERENCE and job.task in self._tasks:
            return partial(self._fetch, run)
        outcome = self._begin(run)
        if callable(outcome) or self._is_big(outcome):
            return partial(self._finish, run, outcome)
        return outcome

    async def _batch(self, batch: Batch, slot: Slot) -> None:
        for member in batch.parts:
            job = member.lease.job
            if job.codec == REFERENCE and job.task in self._tasks:
                unfit = await self._fetched(member)
                if unfit is not None:
                    batch.leave(member, unfit)
        begun = self._begin(batch)
        if callable(begun):
            await begun(slot)
        batch.ended = [(member, await self._kept(member, end)) for member, end in batch.ended]

    async def _fetch(self, run: Run, slot: Slot) -> Outcome | None:
        unfit = await self._fetched(run)
        if unfit is not None:
            return unfit
        if run.reason is not None:
            return ending.of_stop(run.lease, run.reason)
        return await self._finish(run, self._begin(run), slot)

    async def _fetched(self, run: Run) -> Outcome | None:
        """Put the payload in its place; the outcome when that cannot be done."""
        lease = run.lease
        try:
            job = await self._offload.job(lease.job)
        except OffloadFailed as error:
            _log.error("the payload cannot be fetched now: %s", error, extra=run.label)
            return ending.of_unable_worker(lease, "offload_failed")
        except CodecError as error:
            _log.error("the payload is lost: %s", error, extra=run.label)
            return ending.of_bad_payload(lease, error, runtime=self._runtime)
        run.lease = msgspec.structs.replace(lease, job=job)
        return None

    async def _finish(self, run: Run, begun: Outcome | Rest | None, slot: Slot) -> Outcome | None:
        outcome = await begun(slot) if callable(begun) else begun
        return await self._kept(run, outcome)

    async def _kept(self, run: Run, outcome: Outcome | None) -> Outcome | None:
        """The outcome, its result kept elsewhere if it is big."""
        if not isinstance(outcome, Ack) or not self._is_big(outcome):
            return outcome
        try:
            return await self._offload.keep_result(outcome)
        except OffloadFailed as error:
            _log.error("the result cannot be kept, so the job runs again: %s", error)
            return ending.of_unable_worker(run.lease, "offload_failed")

    def _is_big(self, outcome: Outcome | None) -> bool:
        return isinstance(outcome, Ack) and self._offload.is_big(outcome)
