"""What a call's end means for its jobs: first why it was stopped, then what the handler said."""

import asyncio
import logging

from ropeway.definition import Definition
from ropeway.outcome import Bury, Cancel, Crashed, Outcome
from ropeway.runtime import Runtime
from ropeway.verdict import Verdict
from ropeway.worker.handlers import batches, ending
from ropeway.worker.handlers.batches import Batch
from ropeway.worker.handlers.processes import ChildDied
from ropeway.worker.run import CancelRequested, LeaseLost, Run, Stop

_log = logging.getLogger("ropeway.worker")


def of_value(
    run: Run, definition: Definition, value: object, *, runtime: Runtime
) -> Outcome | None:
    """The handler returned. None: nothing is to settle, or it is noted in `Batch.ended`."""
    if isinstance(run, Batch):
        _of_answers(run, definition, value, runtime)
        return None
    if isinstance(run.reason, LeaseLost):
        return None
    return ending.of_result(run.lease, definition, value, runtime=runtime)


def of_error(
    run: Run, definition: Definition, error: BaseException, *, runtime: Runtime
) -> Outcome | None:
    """The handler raised, or was stopped. None as of `of_value`."""
    if isinstance(run, Batch):
        _all_failed(run, definition, error, runtime)
        return None
    lease, reason = run.lease, run.reason
    if reason is not None and run.is_stopping:
        stopped = error is reason or isinstance(error, asyncio.CancelledError | Stop | ChildDied)
        if stopped or isinstance(reason, LeaseLost):
            _log.info("stopped: %s", reason, extra=run.label)
            return ending.of_stop(lease, reason, definition, runtime=runtime)
    if isinstance(error, ChildDied):
        _log.error("%s; it counts as a crash", error, extra=run.label)
        return Crashed(lease=lease)
    level = logging.DEBUG if isinstance(error, Verdict) else logging.WARNING
    _log.log(level, "failed: %s", ending.brief(error), extra=run.label)
    return ending.of_error(lease, definition, error, runtime=runtime)


def _of_answers(batch: Batch, definition: Definition, value: object, runtime: Runtime) -> None:
    """Note what the function said of each item."""
    if isinstance(value, Verdict):
        _all_failed(batch, definition, value, runtime)
        return
    try:
        answers = batches.answers(value, len(batch.parts), task=definition.name)
    except batches.WrongLength as error:
        _all_failed(batch, definition, error, runtime)
        return
    for member, answer in zip(batch.parts, answers, strict=True):
        if isinstance(answer, BaseException):
            outcome = _of_failed_item(member, definition, answer, runtime)
        else:
            outcome = of_value(member, definition, answer, runtime=runtime)
        batch.ended.append((member, outcome))


def _all_failed(
    batch: Batch, definition: Definition, error: BaseException, runtime: Runtime
) -> None:
    for member in batch.parts:
        member.reason = member.reason or batch.reason
        outcome = _of_failed_item(member, definition, error, runtime)
        batch.ended.append((member, outcome))


def _of_failed_item(
    member: Run, definition: Definition, error: BaseException, runtime: Runtime
) -> Outcome | None:
    """As for any run; one that was cancelled, which did not stop the call, ends now."""
    outcome = of_error(member, definition, error, runtime=runtime)
    if isinstance(member.reason, CancelRequested) and isinstance(outcome, Bury):
        return Cancel(lease=member.lease)
    return outcome
