"""Enqueueing: concurrent calls go in one script, each with its own answers and its own errors."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import chain
from typing import Any, Final, NamedTuple

import msgspec

from ropeway.broker import EnqueueAnswer, Enqueued
from ropeway.brokers.redis.encoding.segments import Segments
from ropeway.brokers.redis.wire.client import Word
from ropeway.errors import ConfigError, IdConflict
from ropeway.job import Job

_ANSWERS: Final[tuple[EnqueueAnswer, ...]] = (
    EnqueueAnswer.OK,
    EnqueueAnswer.DUPLICATE_ID,
    EnqueueAnswer.DUPLICATE_KEY,
    EnqueueAnswer.REPLACED,
    EnqueueAnswer.FULL,
    EnqueueAnswer.DROPPED,
)
TOGETHER_MAX: Final = 1_000
"""Jobs of one script: it keeps the server busy for about 3 ms."""
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode

Send = Callable[[bytes, Sequence[Word]], Awaitable[bytes]]
SendPlain = Callable[[bytes, Sequence[Word]], Awaitable[int]]


class _Call:
    """One call of `enqueue`, encoded: what cannot be is raised here, at its caller."""

    __slots__ = ("call_id", "future", "jobs", "segments")

    def __init__(self, jobs: Sequence[Job], call_id: str | None) -> None:
        self.jobs = jobs
        self.call_id = call_id
        self.segments = Segments(jobs)
        self.future: asyncio.Future[list[Enqueued]] = asyncio.get_running_loop().create_future()


class Desk:
    """Takes calls, and sends those that came while the last script was under way together.

    A caller that is cancelled takes only itself out. An error of the server reaches every caller
    of that script; what is wrong with one call, only that one.
    """

    def __init__(self, send: Send, send_plain: SendPlain) -> None:
        self._send = send
        self._send_plain = send_plain
        self._calls: deque[_Call] = deque()
        self._is_sending = False
        self._others: asyncio.Task[None] | None = None

    async def enqueue(self, jobs: Sequence[Job], call_id: str | None) -> list[Enqueued]:
        """The answers by position."""
        call = _Call(jobs, call_id)
        if self._is_sending:
            self._calls.append(call)
        else:
            await self._send_at_once(call)
        return await call.future

    async def _send_at_once(self, call: _Call) -> None:
        """Nobody to wait for. Who comes meanwhile is served by a task of its own."""
        self._is_sending = True
        try:
            await self._send_together([call])
        finally:
            if self._calls:
                self._others = asyncio.get_running_loop().create_task(self._serve())
            else:
                self._is_sending = False

    async def _serve(self) -> None:
        try:
            while self._calls:
                await asyncio.sleep(0)  # those who were just answered may come again at once
                await self._send_together(self._next())
        finally:
            self._is_sending = False

    def _next(self) -> list[_Call]:
        """The calls of the next script: as many as fit, one at least."""
        calls: list[_Call] = []
        size = 0
        while self._calls and (not calls or size + len(self._calls[0].jobs) <= TOGETHER_MAX):
            call = self._calls.popleft()
            if not call.future.done():  # else its caller has gone
                calls.append(call)
                size += len(call.jobs)
        return calls

    async def _replies(self, calls: Sequence[_Call]) -> list[Any]:
        """The reply to each call: all together in the short way if that goes."""
        plain = _merged(calls)
        if plain is not None and await self._send_plain(_encode(plain.head), plain.args):
            return [0] * len(calls)
        head = [[call.call_id or False, *call.segments.head] for call in calls]
        args = list(chain.from_iterable(call.segments.args for call in calls))
        return _decode(await self._send(_encode(head), args))

    async def _send_together(self, calls: Sequence[_Call]) -> None:
        if not calls:
            return
        try:
            replies = await self._replies(calls)
        except Exception as error:  # noqa: BLE001 - it is raised at each of the calls
            for call in calls:
                if not call.future.done():
                    call.future.set_exception(error)
            return
        except asyncio.CancelledError:
            for call in calls:
                call.future.cancel()
            raise
        for call, reply in zip(calls, replies, strict=True):
            if not call.future.done():
                _answer(call, reply)


class _Plain(NamedTuple):
    head: list[Any]
    args: list[Word]


def _merged(calls: Sequence[_Call]) -> _Plain | None:
    """The jobs of all calls; None if one has other traits, or an id comes twice.

    Jobs of calls that have one kind go together by their kind. Those of other calls stay in their
    order, which their places follow from.
    """
    merged: dict[tuple[Any, ...], list[Word]] = {}
    for number, call in enumerate(calls):
        args, at = call.segments.args, 0
        is_mixed = len(call.segments.head) > 1
        for part, (queue, priority, n, *time) in enumerate(call.segments.head):
            if priority < 0:
                return None
            place = (number, part) if is_mixed else ()
            kind = (place, queue, priority, *time)
            merged.setdefault(kind, []).extend(args[at : at + 2 * n])
            at += 2 * n
    ids = [id_ for args in merged.values() for id_ in args[::2]]
    if len(set(ids)) < len(ids):
        return None
    call_ids = [call.call_id for call in calls if call.call_id is not None]
    head: list[Any] = [call_ids]
    for (_, queue, priority, *time), args in merged.items():
        head.append((queue, priority, len(args) // 2, *time))
    return _Plain(head, list(chain.from_iterable(merged.values())))


def _answer(call: _Call, reply: Any) -> None:
    if reply == 0:
        ok = EnqueueAnswer.OK
        call.future.set_result([Enqueued(ok, job.id, job.queue) for job in call.jobs])
    elif isinstance(reply[0], str):
        call.future.set_exception(_refusal(reply))
    elif len(reply) != len(call.jobs):
        call.future.set_exception(
            ConfigError(
                f"this call's id was used in the last minute for a call of {len(reply)} jobs, and "
                f"this one has {len(call.jobs)}; give each call an id of its own"
            )
        )
    else:
        call.future.set_result(
            [_enqueued(job, one) for job, one in zip(call.jobs, reply, strict=True)]
        )


def _enqueued(job: Job, reply: Any) -> Enqueued:
    if reply == 0:
        return Enqueued(EnqueueAnswer.OK, job.id, job.queue)
    code, id_, wait_ms = reply
    return Enqueued(_ANSWERS[int(code)], id_, job.queue, None if wait_ms is False else wait_ms)


def _refusal(reply: Sequence[Any]) -> Exception:
    """Why nothing of a call was written."""
    if reply[0] == "limit":
        _, id_, limit = reply
        return ConfigError(
            f"job {id_}: its limit {limit!r} is not declared in this store, so it could not be "
            "enforced; open the app that declares it, or start one of its workers, first"
        )
    _, id_, queue, task = reply
    return id_conflict(id_, queue, task)


def id_conflict(id_: str, queue: str, task: str) -> IdConflict:
    """The error for an id that another job has, which is of this task."""
    return IdConflict(
        f"job id {id_!r} is taken in queue {queue!r} by another job (task {task!r}); nothing was "
        "enqueued. Give each job an id of its own."
    )
