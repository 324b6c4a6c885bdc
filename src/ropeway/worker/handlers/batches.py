"""A batch: many leases, one call. Each of them is prolonged and settled by itself."""

import logging
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, Final, cast

from ropeway.codec import REFERENCE
from ropeway.definition import Definition
from ropeway.errors import CodecError, ConfigError, Stop
from ropeway.job import Job, Lease, Progress
from ropeway.outcome import Outcome, Release
from ropeway.runtime import Runtime
from ropeway.signature import ITEM
from ropeway.worker.handlers import ending
from ropeway.worker.run import Run

_log = logging.getLogger("ropeway.worker")

_NEVER: Final = 2**62


class _NothingSaved:
    """Where the cursor of a batch would go; its context has no `save`."""

    def save(self, run: Run, data: bytes) -> Future[None]:  # noqa: ARG002
        raise AssertionError("a batch has no cursor")


_NOTHING_SAVED: Final = _NothingSaved()


class Batch(Run, eq=False):
    """The run of a whole batch, which takes one slot of the worker.

    No single job can stop the call: it is stopped when every one of them has to stop.

    Attributes:
        members: the runs of its jobs by their ids, in the order of the items.
        ended: how each of them ended, once the call is over; None: nothing is to settle.

    """

    members: dict[str, Run] = {}  # noqa: RUF012 - msgspec copies it
    ended: list[tuple[Run, Outcome | None]] = []  # noqa: RUF012 - msgspec copies it

    @classmethod
    def of(cls, members: Sequence[Run]) -> "Batch":
        """The batch of these runs, all of one task and queue."""
        first = members[0]
        job = Job(id=first.lease.job.id, task=first.lease.job.task, queue=first.lease.job.queue)
        lease = Lease(job=job, attempt=1, token=first.lease.token, expires_at_ms=0)
        by_id = {member.lease.job.id: member for member in members}
        batch = cls(lease, _NOTHING_SAVED, first.reserved_at_ms, _NEVER, members=by_id)
        for member in members:
            member.interrupt = batch.heed
        return batch

    @property
    def parts(self) -> Sequence[Run]:
        """The runs of its jobs."""
        return tuple(self.members.values())

    def heed(self, reason: Stop) -> None:
        """One of the jobs has to stop."""
        if all(member.is_stopping for member in self.members.values()):
            self.stop(reason)

    def leave(self, member: Run, outcome: Outcome | None) -> None:
        """One of the jobs ends, whatever becomes of the others."""
        del self.members[member.lease.job.id]
        self.ended.append((member, outcome))

    def progress(self, lease: Lease, progress: Progress) -> None:
        """Keep the newest progress of one of the jobs."""
        self.members[lease.job.id].progress(lease, progress)

    def line(self, lease: Lease, kind: str, data: str) -> None:
        """Keep a line of one of the jobs."""
        self.members[lease.job.id].line(lease, kind, data)


def read(batch: Batch, definition: Definition, *, runtime: Runtime) -> list[Any]:
    """The items of a batch. Jobs that cannot take part leave it."""
    items: list[Any] = []
    for member in batch.parts:
        lease = member.lease
        if member.reason is not None and member.is_stopping:
            batch.leave(member, ending.of_stop(lease, member.reason))
        elif member.fence_at_ms <= runtime.clock.mono_ms():  # somebody else may run it
            batch.leave(member, Release(lease=lease))
        elif lease.job.codec == REFERENCE:
            batch.leave(member, ending.of_unable_worker(lease, "no_offload"))
        else:
            try:
                _, given = definition.parameters.decode(lease.job.payload, lease.job.codec)
            except (CodecError, ConfigError) as error:
                _log.error("the payload does not fit: %s", error, extra=member.label)
                batch.leave(member, ending.of_bad_payload(lease, error, runtime=runtime))
            else:
                items.append(given[ITEM])
    return items


class WrongLength(ValueError):
    """A batch task did not answer for each of its items."""


def answers(value: object, count: int, *, task: str) -> Sequence[object]:
    """What the function said of each item.

    Raises:
        WrongLength: not a list, or not one with an entry for each item.
    """
    if value is None:
        return [None] * count
    if not isinstance(value, (list, tuple)):
        raise WrongLength(
            f"{task} returned a {type(value).__name__}; return None, or a list with an entry for "
            f"each of the {count} items"
        )
    found = cast("Sequence[object]", value)
    if len(found) != count:
        raise WrongLength(
            f"{task} returned {len(found)} entries for {count} items; return None, or one for each"
        )
    return found
