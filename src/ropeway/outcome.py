"""What a worker tells the broker about a lease: seven outcomes, one verb (`Broker.settle`).

They are not what a handler raises: that is `verdict.py`. The word *nack* is not used, since it
means three different things elsewhere.
"""

from enum import StrEnum

import msgspec

from ropeway.job import Failure, Job, Lease


class Outcome(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The common part: which lease this settles."""

    lease: Lease


class Ack(Outcome, frozen=True, kw_only=True, gc=False):
    """Done: completed with `result`; the jobs `then` are enqueued in the same atomic step."""

    result: bytes | None = None
    result_codec: str = "json"
    then: tuple[Job, ...] = ()


class Retry(Outcome, frozen=True, kw_only=True, gc=False):
    """Again after `delay_ms`. `counted=False` gives the attempt back."""

    delay_ms: int
    failure: Failure | None = None
    counted: bool = True


class Snooze(Outcome, frozen=True, kw_only=True, gc=False):
    """Not now: scheduled again after `delay_ms`; never counted as an attempt."""

    delay_ms: int
    reason: str | None = None


class Release(Outcome, frozen=True, kw_only=True, gc=False):
    """Handed back unrun: available at once at its old place; never counted."""


class Bury(Outcome, frozen=True, kw_only=True, gc=False):
    """Give up: dead, kept for an operator."""

    failure: Failure | None = None
    reason: str | None = None
    of_fallback: Failure | None = None  # the task's fallback failed too


class Cancel(Outcome, frozen=True, kw_only=True, gc=False):
    """Ended on purpose: cancelled."""

    reason: str | None = None


class Crashed(Outcome, frozen=True, kw_only=True, gc=False):
    """The process that ran the job died under it, and its worker lives to tell.

    It counts as a crash, as if the lease had expired, but at once.
    """


class Settled(StrEnum):
    """The answer to one outcome."""

    OK = "ok"
    ALREADY = "already"  # this very token has settled the job before; nothing changed
    LOST = "lost"  # the lease is not (or no longer) the current one; nothing changed
