"""Handing out whole batches."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from ropeway import lifecycle
from ropeway.brokers.sqlite.reserve import bury_overdue, draw_token, paused_queues, promote
from ropeway.brokers.sqlite.rows import load_seqs
from ropeway.brokers.sqlite.step import Step
from ropeway.job import Lease

PROMOTED_AT_ONCE: Final = 1_000


class GroupRequest(NamedTuple):
    """The arguments of one call of `reserve_group`."""

    queues: Sequence[str]
    worker: str
    lease_ms: int


def reserve_group(step: Step, request: GroupRequest) -> list[Lease]:
    """The leases of the batch that has been ready for longest."""
    paused = paused_queues(step)
    open_queues = [queue for queue in request.queues if queue not in paused]
    for queue in open_queues:
        promote(step, queue, PROMOTED_AT_ONCE)
    while (found := step.flow.groups.next(open_queues, step.now_ms)) is not None:
        rows = load_seqs(step.sql, found)
        late = [
            row.status.seq
            for row in rows
            if lifecycle.overdue(row.job, now_ms=step.now_ms) is not None
        ]
        bury_overdue(step, late)
        token = draw_token(step)
        leases: list[Lease] = []
        for row in rows:
            if row.status.seq in late:
                continue
            status = lifecycle.start(
                row.status,
                worker=request.worker,
                token=token,
                lease_until_ms=step.mono_ms + request.lease_ms,
                now_ms=step.now_ms,
            )
            step.put(row, status)
            leases.append(lifecycle.lease(row.job, status))
        if leases:
            step.flow.started(leases[0].job.queue, [lease.seq for lease in leases])
            return leases
    return []
