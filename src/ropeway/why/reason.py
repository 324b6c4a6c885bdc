"""The answer to why a job does not run."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import msgspec

from ropeway.broker import JobStore
from ropeway.job import Job, JobRecord, JobRef, LimitKey, Status

_NAMED: Final = 3  # of several jobs or workers in a text


class Kind(StrEnum):
    """What kind of thing holds a job back, or why there is nothing to hold back."""

    ENDED = "ended"  # completed, dead or cancelled
    RUNNING = "running"
    SCHEDULED = "scheduled"  # its time has not come
    RETRY = "retry"  # its last run failed, the time of the next one has not come
    PARENTS = "parents"  # jobs that must be completed first
    OVERDUE = "overdue"  # its last time to start has passed: it will end dead
    PAUSED = "paused"  # its queue
    NO_WORKER = "no_worker"  # serves its queue
    UNKNOWN_TASK = "unknown_task"  # to every worker of its queue
    ORDERING = "ordering"  # an earlier job of its ordering key is not finished
    LIMIT = "limit"  # a key of a limit, or the queue itself, has no free slot
    RATE = "rate"  # a key of a limit, or the queue itself, has had its starts for now
    BREAKER = "breaker"  # a key of a limit, or the queue itself, rests after failures
    GATHERING = "gathering"  # for a batch
    SUSPECT = "suspect"  # workers died with it: it is handed out alone
    BUSY = "busy"  # all workers of its queue
    NOTHING = "nothing"  # it will run as soon as its turn comes


class Reason(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One thing that holds a job back. Times are UTC epoch milliseconds.

    The text is a sentence that `since_ms` or `until_ms` may end: "…, until 12:30".
    """

    kind: Kind
    text: str
    since_ms: int | None = None
    until_ms: int | None = None  # at the latest, as far as it is known
    limit: LimitKey | None = None  # name and key; a queue's own is "queue:NAME" and its kind
    jobs: tuple[JobRef, ...] = ()  # those that it waits for
    workers: tuple[str, ...] = ()  # ids of those that are concerned
    count: int = 0  # jobs that are before it, or that wait for the same


class Why(msgspec.Struct, frozen=True, gc=False):
    """Why a job does not run, or what became of it."""

    record: JobRecord
    reasons: tuple[Reason, ...]  # at least one; the main one first

    @property
    def kind(self) -> Kind:
        """Of the main reason."""
        return self.reasons[0].kind

    @property
    def text(self) -> str:
        """The main reason as a sentence without its time."""
        return self.reasons[0].text


@dataclass(frozen=True, slots=True)
class Case:
    """The job in question, where it is, and the time."""

    store: JobStore
    record: JobRecord
    now_ms: int

    @property
    def job(self) -> Job:
        """What was asked for."""
        return self.record.job

    @property
    def status(self) -> Status:
        """What became of it."""
        return self.record.status


def some(names: Sequence[str], noun: str) -> str:
    """The first few with their noun: "jobs a, b, c and 2 more"."""
    shown = ", ".join(names[:_NAMED])
    more = len(names) - _NAMED
    return f"{plural(len(names), noun)} {shown}{f' and {more:,} more' if more > 0 else ''}"


def plural(number: int, noun: str) -> str:
    """The noun for so many."""
    return noun if number == 1 else f"{noun}s"


def after_failure(record: JobRecord) -> str:
    """The last failure as the end of a sentence; "" for a job that has not failed."""
    if not record.status.errors:
        return ""
    last = record.status.errors[-1]
    return f" after {last.type}: {last.message}" if last.message else f" after {last.type}"
