"""`ropeway jobs why`: what holds a job back."""

from typing import Any

from ropeway.broker import JobStore
from ropeway.cli.grouped import grouped
from ropeway.cli.jobs.look import One, record_of
from ropeway.cli.output.spell import ago, now_ms, stamp
from ropeway.cli.output.stream import emit_json, emit_text
from ropeway.cli.store import Store
from ropeway.why import Reason, Why, explain


@grouped
def why(job: One, store: Store) -> None:
    """Say why a job does not run: what it waits for, who holds it back, until when.

    The first reason is the main one. With --json: {"id", "state", "reasons": [...]}.
    """

    async def read(broker: JobStore) -> Why:
        return await explain(broker, await record_of(broker, job.ref), now_ms=now_ms())

    answer = store.run(read)
    record = answer.record
    if store.json:
        reasons = [_plain(reason) for reason in answer.reasons]
        emit_json({"id": record.job.id, "state": record.status.state, "reasons": reasons})
        return
    from ropeway.cli.output.table import pairs

    first, *others = answer.reasons
    emit_text(
        pairs(
            [
                ("id", record.job.id),
                ("task", record.job.task),
                ("queue", record.job.queue),
                ("state", record.status.state.value),
                ("why", _said(first)),
                *(("also", _said(reason)) for reason in others),
            ]
        )
    )


def _plain(reason: Reason) -> dict[str, Any]:
    limit = reason.limit
    return {
        "kind": reason.kind,
        "text": reason.text,
        "since_ms": reason.since_ms,
        "until_ms": reason.until_ms,
        "limit": None if limit is None else limit.name,
        "key": None if limit is None else limit.key,
        "jobs": [{"id": ref.id, "queue": ref.queue} for ref in reason.jobs],
        "workers": list(reason.workers),
        "count": reason.count,
    }


def _said(reason: Reason) -> str:
    now = now_ms()
    for word, at_ms in (("since", reason.since_ms), ("until", reason.until_ms)):
        if at_ms is not None:
            return f"{reason.text}, {word} {stamp(at_ms)} ({ago(at_ms, now=now)})"
    return reason.text
