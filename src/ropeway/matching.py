"""Which records a `Filter` means, for stores that look at one record after the other."""

from typing import Protocol

from ropeway.broker import Filter
from ropeway.errors import ConfigError
from ropeway.job import Job, Status


class Record(Protocol):
    """A `JobRecord`, or a store's own row."""

    @property
    def job(self) -> Job:
        """What was asked for."""
        ...

    @property
    def status(self) -> Status:
        """What became of it."""
        ...


def parse_cursor(cursor: str | None) -> int | None:
    """The seq that a cursor stands for. Raises ConfigError for a cursor that is none."""
    if cursor is None:
        return None
    if not cursor.isdecimal():
        raise ConfigError(f"cursor {cursor!r} is not one that find() returned")
    return int(cursor)


def matches(row: Record, where: Filter) -> bool:
    """Whether every given field of the filter matches."""
    job, status = row.job, row.status
    return (
        (where.states is None or status.state in where.states)
        and (where.queue is None or job.queue == where.queue)
        and (where.task is None or job.task == where.task)
        and (where.tag is None or where.tag in job.tags)
        and (where.worker is None or status.worker == where.worker)
        and (
            where.unique_key is None
            or (job.unique is not None and job.unique.key == where.unique_key)
        )
        and _within(job.created_at_ms, where.created_from_ms, where.created_before_ms)
        and _within(status.finished_at_ms, where.finished_from_ms, where.finished_before_ms)
        and (where.error is None or where.error in failure_text(status))
    )


def _within(at_ms: int | None, from_ms: int | None, before_ms: int | None) -> bool:
    if from_ms is None and before_ms is None:
        return True
    if at_ms is None:
        return False
    return (from_ms is None or at_ms >= from_ms) and (before_ms is None or at_ms < before_ms)


def failure_text(status: Status) -> str:
    """What a filter's `error` is looked for in."""
    last = status.errors[-1] if status.errors else None
    words = (last.type, last.message) if last is not None else ()
    return "\n".join((*words, status.reason or ""))
