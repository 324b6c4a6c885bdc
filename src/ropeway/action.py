"""What an operator (or the producer) may do to a job by id: seven actions, one verb (`act`)."""

from enum import StrEnum

import msgspec

from ropeway.job import Job, JobRef, State


class Action(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The common part: which job."""

    ref: JobRef


class CancelJob(Action, frozen=True, kw_only=True, gc=False):
    """A waiting job ends cancelled; a running one is asked to stop."""

    reason: str = "cancelled"


class RetryJob(Action, frozen=True, kw_only=True, gc=False):
    """A final or retryable job becomes available, with attempts, snoozes and crashes reset."""


class RunNow(Action, frozen=True, kw_only=True, gc=False):
    """A scheduled or retryable job becomes available now; its attempts stay."""


class BuryJob(Action, frozen=True, kw_only=True, gc=False):
    """A waiting job ends dead."""

    reason: str = "buried"


class MoveJob(Action, frozen=True, kw_only=True, gc=False):
    """A waiting job goes to another queue, keeping its state, time and place in the order."""

    queue: str


class DeleteJob(Action, frozen=True, kw_only=True, gc=False):
    """A job that is not running is removed, record and all."""


class EditJob(Action, frozen=True, kw_only=True, gc=False):
    """The words of a waiting job are replaced by those of `job`; its revision goes up by one.

    Id, queue and creation time stay. With `if_revision`, refused when the job has another one.
    """

    job: Job
    if_revision: int | None = None


class Answer(StrEnum):
    """What became of one action."""

    DONE = "done"
    REQUESTED = "requested"  # a running job was asked to stop
    NOT_FOUND = "not_found"
    REFUSED = "refused"  # the job's state does not allow it, or a key or id is taken; unchanged


class Acted(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """The answer to one action: what was done, and the state the job is (or was) in."""

    answer: Answer
    state: State | None = None
    detail: str = ""
