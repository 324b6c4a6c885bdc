"""What a handler may raise, or return, to decide how its own run ends.

    raise Retry(after=30)          # try again in 30 s, whatever the task's backoff says
    raise Snooze(timedelta(hours=1), reason="quota used up")
    return Cancel("the user is gone")

A verdict is an answer and not an error: it is no `RopewayError`, it is not reported as a
failure, and the lists of a retry policy (`never`, `free`, `only`, `rules`) do not apply to it.
"""

from datetime import timedelta

from ropeway.duration import to_ms
from ropeway.errors import ConfigError


class Verdict(Exception):
    """The common base, for `except Verdict: raise` in code that catches everything else.

    Raise one of the subclasses. A verdict counts when it leaves the handler by itself: inside
    an `ExceptionGroup` it is an error like any other.

    Attributes:
        reason: kept in the job's record and shown to operators; may be empty.

    """

    reason: str

    def __init__(self, *args: object, reason: str) -> None:
        if not isinstance(reason, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigError(f"{type(self).__name__}(reason={reason!r}): the reason must be a str")
        # `args` repeat the positional arguments, so that copies and process pools can rebuild it.
        super().__init__(*args)
        self.reason = reason

    def __str__(self) -> str:
        """Return the reason, or the verdict's name when no reason was given."""
        return self.reason or type(self).__name__.lower()


class Retry(Verdict):
    """Run this job again later.

    Args:
        after: seconds or a `timedelta`; None takes the delay of the task's backoff.
        reason: kept in the job's record.
        counted: False gives the attempt back, so that this run does not bring the job nearer to
            its last attempt. Without `after` an uncounted retry waits at least one second.

    Guarantees:
        A counted retry on the last attempt ends the job as dead with the reason
        "attempts spent"; an uncounted one never ends it. The run never starts early.

    Raises:
        ConfigError: `after` is not a duration or is negative.

    Attributes:
        after_ms: the delay in milliseconds, or None for the task's backoff.

    """

    after_ms: int | None
    counted: bool

    def __init__(
        self, after: float | timedelta | None = None, *, reason: str = "", counted: bool = True
    ) -> None:
        super().__init__(after, reason=reason)
        self.after_ms = None if after is None else to_ms(after, name="Retry(after)")
        self.counted = counted


class Snooze(Verdict):
    """Put this job back for a while: it was not its turn yet.

    Args:
        after: seconds or a `timedelta`; the time until the next run.
        reason: kept in the job's record.

    Guarantees:
        Never costs an attempt, so a job may snooze for ever. The run never starts early.

    Raises:
        ConfigError: `after` is not a duration or is negative.

    Attributes:
        after_ms: the delay in milliseconds.

    """

    after_ms: int

    def __init__(self, after: float | timedelta, *, reason: str = "") -> None:
        super().__init__(after, reason=reason)
        self.after_ms = to_ms(after, name="Snooze(after)")


class Cancel(Verdict):
    """End this job as cancelled: there is nothing left to do.

    Args:
        reason: kept in the job's record.

    Guarantees:
        The job does not run again unless an operator retries it, whatever attempts are left.

    """

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason, reason=reason)


class Bury(Verdict):
    """End this job as dead now: retrying cannot help, somebody must look.

    Args:
        reason: kept in the job's record.

    Guarantees:
        The job does not run again unless an operator retries it, whatever attempts are left.

    """

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason, reason=reason)
