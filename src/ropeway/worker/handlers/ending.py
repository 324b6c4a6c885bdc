"""What the end of a run means: from a handler's result, exception or verdict to an outcome."""

import logging
import traceback
from random import Random
from types import TracebackType
from typing import Any, Final

from ropeway import codec, outcome, verdict
from ropeway.definition import Definition
from ropeway.errors import CodecError, ConfigError
from ropeway.job import Failure, Lease
from ropeway.outcome import Outcome
from ropeway.retry import Again, Decision, GiveUp, RetryPolicy
from ropeway.runtime import SYSTEM, Runtime
from ropeway.worker.run import (
    CancelRequested,
    HardTimeout,
    LeaseUnsure,
    ShuttingDown,
    Stop,
)

_log = logging.getLogger("ropeway.worker")

TRACEBACK_CHARS_MAX: Final = 16_000
MESSAGE_CHARS_MAX: Final = 2_000
UNABLE_DELAY_MIN_MS: Final = 1_000
UNABLE_DELAY_MAX_MS: Final = 60_000

_OWN_FRAMES: Final = __file__.removesuffix("handlers/ending.py")


def of_result(
    lease: Lease, definition: Definition, value: object, *, runtime: Runtime = SYSTEM
) -> Outcome:
    """The outcome of a handler that returned `value`, which may be a verdict.

    None is stored as no result at all. A result that cannot be stored buries the job: to run it
    again would give the same.
    """
    if value is None:
        return outcome.Ack(lease=lease)
    if isinstance(value, verdict.Verdict):
        return of_error(lease, definition, value, runtime=runtime)
    data = codec.encode_small(value, definition.codec, limit_bytes=definition.result_max_bytes)
    if data is not None:
        return outcome.Ack(lease=lease, result=data, result_codec=definition.codec)
    try:
        encoded = codec.encode(
            value,
            codec=definition.codec,
            limit_bytes=definition.result_max_bytes,
            what=f"result of {definition.name}",
        )
    except CodecError as error:
        failure = failure_of(lease, error, runtime=runtime)
        return outcome.Bury(lease=lease, failure=failure, reason="bad result")
    return outcome.Ack(lease=lease, result=encoded.data, result_codec=encoded.codec)


def of_error(
    lease: Lease, definition: Definition, error: BaseException, *, runtime: Runtime = SYSTEM
) -> Outcome:
    """The outcome of a handler that raised `error`: by the task's retry policy."""
    if isinstance(error, HardTimeout) and error.limit == "deadline":
        failure = failure_of(lease, error, runtime=runtime)
        return outcome.Bury(lease=lease, failure=failure, reason="deadline")
    decision = _decide(definition.policy, lease, error, runtime.random)
    match decision:
        case verdict.Snooze():
            return outcome.Snooze(
                lease=lease, delay_ms=decision.after_ms, reason=decision.reason or None
            )
        case verdict.Cancel():
            return outcome.Cancel(lease=lease, reason=decision.reason or None)
        case GiveUp():
            failure = failure_of(lease, error, runtime=runtime)
            return outcome.Bury(lease=lease, failure=failure, reason=decision.reason)
        case Again():
            failure = failure_of(lease, error, runtime=runtime)
            return outcome.Retry(
                lease=lease, delay_ms=decision.delay_ms, failure=failure, counted=decision.counted
            )


def of_stop(
    lease: Lease,
    reason: Stop,
    definition: Definition | None = None,
    *,
    runtime: Runtime = SYSTEM,
) -> Outcome | None:
    """The outcome of a run that was stopped; None when there is nothing to say any more.

    `definition` is None when the handler had not been called.
    """
    match reason:
        case HardTimeout() if definition is not None:
            return of_error(lease, definition, reason, runtime=runtime)
        case CancelRequested():
            return outcome.Cancel(lease=lease)
        case ShuttingDown() | LeaseUnsure():
            return outcome.Release(lease=lease)
        case _:
            return None


def of_unable_worker(lease: Lease, reason: str) -> Outcome:
    """Another worker may be able to run it: put it back for 1 s, doubling to 60 s, uncounted."""
    delay_ms = min(UNABLE_DELAY_MAX_MS, UNABLE_DELAY_MIN_MS * 2 ** min(lease.snoozes, 6))
    return outcome.Snooze(lease=lease, delay_ms=delay_ms, reason=reason)


def of_own_fault(lease: Lease) -> Outcome:
    """The worker failed where it should not: nobody's attempt, but not at once again either."""
    return outcome.Snooze(lease=lease, delay_ms=UNABLE_DELAY_MAX_MS, reason="worker_error")


def of_bad_payload(lease: Lease, error: BaseException, *, runtime: Runtime = SYSTEM) -> Outcome:
    """The payload does not fit the handler; no retry can change that."""
    failure = failure_of(lease, error, runtime=runtime)
    return outcome.Bury(lease=lease, failure=failure, reason="bad payload")


def failure_of(lease: Lease, error: BaseException, *, runtime: Runtime = SYSTEM) -> Failure:
    """The record of a failed attempt, bounded in size."""
    return Failure(
        at_ms=runtime.clock.wall_ms(),
        attempt=lease.attempt,
        type=_type_of(error),
        message=_cut(_text_of(error), MESSAGE_CHARS_MAX),
        traceback=_cut(_traceback_of(error), TRACEBACK_CHARS_MAX),
    )


def brief(error: BaseException) -> str:
    """An error in one line, for the log."""
    return f"{_type_of(error)}: {_cut(_text_of(error), 200)}"


def _decide(policy: RetryPolicy, lease: Lease, error: BaseException, random: Random) -> Decision:
    attempt_max = lease.job.attempt_max or policy.attempts
    given: dict[str, Any] = {"attempt": lease.attempt, "attempt_max": attempt_max}
    try:
        return policy.decide(error, **given, random=random)
    except ConfigError:
        # The user's own backoff function failed; that must not cost the job.
        _log.exception("the retry policy of %s failed; using the default backoff", lease.job.task)
        return RetryPolicy().decide(error, **given, random=random)


def _type_of(error: BaseException) -> str:
    if isinstance(error, HardTimeout):
        return error.limit
    kind = type(error)
    remote: str | None = getattr(error, "remote_type", None)
    if remote is not None:
        return remote
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:  # noqa: BLE001 - the handler's own __str__
        return f"<its text cannot be shown: {broken!r}>"


def _traceback_of(error: BaseException) -> str:
    remote: str | None = getattr(error, "remote_traceback", None)
    if remote is not None:
        return remote
    if isinstance(error, verdict.Verdict | Stop):
        return ""
    try:
        shown = _from_handler(error.__traceback__)
        return "".join(traceback.format_exception(type(error), error, shown))
    except Exception as broken:  # noqa: BLE001 - the handler's own __str__
        return f"<its traceback cannot be shown: {broken!r}>"


def _from_handler(trace: TracebackType | None) -> TracebackType | None:
    """The traceback without the worker's own frames at its beginning."""
    whole = trace
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_OWN_FRAMES):
        trace = trace.tb_next
    return trace or whole


def _cut(text: str, limit: int) -> str:
    """The beginning and the end of a text that is too long: both say where it happened."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n… {len(text) - 2 * half} characters left out …\n{text[-half:]}"
