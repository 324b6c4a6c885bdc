"""A job's record in words: as JSON with stable keys, and as rows for a person."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ropeway import codec
from ropeway.cli.output.spell import ago, now_ms
from ropeway.errors import CodecError
from ropeway.job import FINAL, WAITING, JobRecord, State

if TYPE_CHECKING:
    from rich.text import Text


def as_plain(record: JobRecord) -> dict[str, Any]:
    """The record for `--json`: every key is always there. Times are UTC epoch milliseconds.

    `args` and `result` are decoded; where that fails they are null and `unreadable` says why.
    """
    job, status = record.job, record.status
    args, args_error = decoded(job.payload, job.codec, "args")
    result, result_error = decoded(status.result, status.result_codec, "result")
    progress = status.progress
    return {
        "id": job.id,
        "queue": job.queue,
        "task": job.task,
        "state": status.state,
        "priority": job.priority,
        "attempt": status.attempt,
        "attempt_max": job.attempt_max,
        "args": args,
        "result": result,
        "unreadable": args_error or result_error,
        "created_at_ms": job.created_at_ms,
        "due_at_ms": status.due_ms if status.state in WAITING else None,
        "started_at_ms": status.started_at_ms,
        "finished_at_ms": status.finished_at_ms,
        "expires_at_ms": job.expires_at_ms,
        "deadline_at_ms": job.deadline_at_ms,
        "timeout_ms": job.timeout_ms,
        "reason": status.reason,
        "blocked_on": status.blocked_on,
        "waiting_on": sorted(status.waiting_on),
        "cancel_requested": status.cancel_requested,
        "worker": status.worker,
        "progress": None if progress is None else progress.fraction,
        "progress_note": None if progress is None else progress.note,
        "crashes": len(status.crashes),
        "snoozes": status.snoozes,
        "errors": [
            {
                "at_ms": failure.at_ms,
                "attempt": failure.attempt,
                "type": failure.type,
                "message": failure.message,
                "traceback": failure.traceback,
            }
            for failure in status.errors
        ],
        "tags": list(job.tags),
        "headers": dict(job.headers),
        "unique_key": None if job.unique is None else job.unique.key,
        "ordering_key": job.ordering_key,
        "parents": list(job.parents),
        "unblocks": [ref.id for ref in job.unblocks],
        "revision": job.revision,
    }


def decoded(data: bytes | None, codec_name: str, what: str) -> tuple[Any, str | None]:
    """The value in plain types, or None and the reason why it cannot be read."""
    if data is None:
        return None, None
    try:
        return codec.decode(data, codec_name, Any, what=what), None
    except CodecError as error:
        return None, str(error)


def job_rows(records: Sequence[JobRecord]) -> "Text":
    """A table of jobs; a job that waits for something or failed says so below."""
    from ropeway.cli.output.table import Column, table

    now = now_ms()
    columns = (
        Column("ID"),
        Column("STATE"),
        Column("TASK", shrink=True),
        Column("QUEUE", shrink=True),
        Column("TRY", right=True),
        Column("WHEN", right=True),
    )
    rows = [
        (
            record.job.id,
            record.status.state.value,
            record.job.task,
            record.job.queue,
            tries(record),
            ago(when_ms(record), now=now),
        )
        for record in records
    ]
    return table(columns, rows, notes=[explained(record) for record in records])


def tries(record: JobRecord) -> str:
    """Attempts so far, of how many if the job itself says so: "2/8"."""
    most = record.job.attempt_max
    return f"{record.status.attempt}/{most}" if most is not None else str(record.status.attempt)


def when_ms(record: JobRecord) -> int | None:
    """The time that matters most in the job's state: of its end, start, next start or enqueue."""
    status = record.status
    if status.state in FINAL:
        return status.finished_at_ms
    if status.state is State.RUNNING:
        return status.started_at_ms
    if status.state in (State.SCHEDULED, State.RETRYABLE):
        return status.due_ms
    return record.job.created_at_ms


def explained(record: JobRecord) -> str:
    """Why the job is where it is, in one line; "" when there is nothing to say."""
    status = record.status
    said: list[str] = []
    if status.reason:
        said.append(status.reason)
    if status.blocked_on:
        said.append(f"blocked on {status.blocked_on}")
    if status.waiting_on and status.state is State.PENDING:
        some = sorted(status.waiting_on)
        more = f" and {len(some) - 1} more" if len(some) > 1 else ""
        said.append(f"waits for {some[0]}{more}")
    if status.cancel_requested and status.state is State.RUNNING:
        said.append("asked to stop")
    if status.progress is not None and status.state is State.RUNNING:
        said.append(f"{status.progress.fraction:.0%} {status.progress.note}".strip())
    if status.errors and status.state not in (State.RUNNING, State.COMPLETED):
        last = status.errors[-1]
        said.append(f"{last.type}: {last.message}" if last.message else last.type)
    return "; ".join(said)
