"""Enqueueing that survives a broken connection: the same call again, for as long as that is safe.

A store remembers the answers to a `call_id` for a minute, so a call whose answer was lost may be
sent again inside that time: it changes nothing and gets the same answers. After that nobody knows
whether the jobs were stored, and `EnqueueUnknown` says so.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from ropeway import crash
from ropeway.broker import CALLS_KEPT_MS, EnqueueAnswer, Enqueued, JobStore
from ropeway.errors import Disconnected, Duplicate, EnqueueUnknown, QueueFull
from ropeway.job import Job
from ropeway.runtime import SYSTEM, Runtime

_FIRST_WAIT_S = 0.05
_WAIT_MAX_S = 2.0
_TRIED_AT_ONCE = 1_000  # of those that wait for room


def _no_patience(_queue: str) -> int:
    return 0


async def submit(
    store: JobStore,
    jobs: Sequence[Job],
    *,
    still_open: Callable[[], object] | None = None,
    patience_ms: Callable[[str], int] = _no_patience,
    runtime: Runtime = SYSTEM,
) -> list[Enqueued]:
    """Enqueue jobs; one round trip for up to `batch_max` of them, each of which is one atomic step.

    Every job is checked before the first is written.

    Args:
        store: an open broker.
        jobs: with ids of their own, which stay the same when a call is sent again.
        still_open: asked before each resend; it raises when the caller has closed the broker.
        patience_ms: by the queue's name, how long to wait for room when it is full.
        runtime: where the call's id, the minute and the jitter come from.

    Returns:
        The answers by position.

    Raises:
        EnqueueUnknown: the connection was lost and did not come back within a minute. Enqueueing
            the same ids again is safe.
        Duplicate: a unique key is held and its policy says "reject"; the other jobs of the call
            are stored.
        QueueFull: a queue had no room for a job, for as long as the caller would wait; the other
            jobs of the call are stored.
        Unsupported, ConfigError, PayloadTooLarge, IdConflict, StorageFull: nothing was written
            of this batch.
    """
    size = store.capabilities.batch_max
    if len(jobs) <= size:
        answers = await _resending(store, jobs, still_open, runtime)
    else:
        for job in jobs:
            store.capabilities.refuse(job)
        answers: list[Enqueued] = []
        for start in range(0, len(jobs), size):
            answers += await _resending(store, jobs[start : start + size], still_open, runtime)
    if any(answer.answer is EnqueueAnswer.FULL for answer in answers):
        send = partial(_resending, store, still_open=still_open, runtime=runtime)
        answers = await _waiting_for_room(jobs, answers, send, patience_ms, runtime)
    _raise_refusals(jobs, answers)
    return answers


async def _waiting_for_room(
    jobs: Sequence[Job],
    answers: Sequence[Enqueued],
    send: Callable[[Sequence[Job]], Awaitable[list[Enqueued]]],
    patience_ms: Callable[[str], int],
    runtime: Runtime,
) -> list[Enqueued]:
    """Try the jobs that found their queues full again, for as long as each may wait."""
    began_ms = runtime.clock.mono_ms()
    known = list(answers)
    wait_s = _FIRST_WAIT_S
    while True:
        waited_ms = runtime.clock.mono_ms() - began_ms
        refused = {
            at: patience_ms(answer.queue) - waited_ms
            for at, answer in enumerate(known)
            if answer.answer is EnqueueAnswer.FULL and patience_ms(answer.queue) > waited_ms
        }
        if not refused:
            return known
        soonest_s = min(known[at].retry_after_ms or 0 for at in refused) / 1000
        await asyncio.sleep(min(max(soonest_s, wait_s), _WAIT_MAX_S, min(refused.values()) / 1000))
        wait_s = min(wait_s * 2, _WAIT_MAX_S)
        again = list(refused)[:_TRIED_AT_ONCE]
        for at, answer in zip(again, await send([jobs[at] for at in again]), strict=True):
            known[at] = answer


async def _resending(
    store: JobStore,
    jobs: Sequence[Job],
    still_open: Callable[[], object] | None,
    runtime: Runtime,
) -> list[Enqueued]:
    """One call of `enqueue`, sent again under the same id while its answers are remembered."""
    call_id = runtime.new_id()
    now_ms = runtime.clock.mono_ms
    give_up_at_ms = now_ms() + CALLS_KEPT_MS
    wait_s = _FIRST_WAIT_S
    crash.point("producer.sending")
    while True:
        try:
            return await store.enqueue(jobs, call_id=call_id)
        except Disconnected as error:
            left_ms = give_up_at_ms - now_ms() - wait_s * 1000
            if left_ms <= 0:
                raise EnqueueUnknown(
                    f"the broker was away for {CALLS_KEPT_MS // 1000} s ({error}): whether the "
                    f"{len(jobs)} job(s) were stored is not known. Enqueue them again with the "
                    f"same ids, the first of which is {jobs[0].id}"
                ) from error
        # Full jitter, so that many producers do not come back in step.
        await asyncio.sleep(runtime.random.uniform(0, wait_s))
        wait_s = min(wait_s * 2, _WAIT_MAX_S)
        if still_open is not None:
            still_open()


def _raise_refusals(jobs: Sequence[Job], answers: Sequence[Enqueued]) -> None:
    for answer in answers:
        if answer.answer is not EnqueueAnswer.OK:
            break
    else:
        return
    refused = [
        (job, answer)
        for job, answer in zip(jobs, answers, strict=True)
        if answer.answer is EnqueueAnswer.DUPLICATE_KEY
        and job.unique is not None
        and job.unique.on_conflict == "reject"
    ]
    if refused:
        job, answer = refused[0]
        others = f" ({len(refused)} of {len(jobs)} jobs; the others are stored)"
        raise Duplicate(
            f"{job.task}: job {answer.id} holds the unique key"
            f"{others if len(jobs) > 1 else ''}; wait for its end, or choose "
            'on_conflict="return" or "replace"',
            existing_id=answer.id,
        )
    full = [answer for answer in answers if answer.answer is EnqueueAnswer.FULL]
    if full:
        estimates = [answer.retry_after_ms for answer in full if answer.retry_after_ms is not None]
        retry_after = max(estimates) / 1000 if estimates else None
        when = "nobody serves it now" if retry_after is None else f"try in {retry_after:.1f} s"
        raise QueueFull(
            f"the queue {full[0].queue!r} is full: {len(full)} of {len(jobs)} job(s) not stored; "
            f"{when}",
            retry_after=retry_after,
            refused=[answer.id for answer in full],
        )
