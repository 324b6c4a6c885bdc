"""What an operator does to the jobs and queues of a shard."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final, NamedTuple

import msgspec

from ropeway.action import (
    Acted,
    Action,
    Answer,
    BuryJob,
    CancelJob,
    DeleteJob,
    EditJob,
    MoveJob,
    RetryJob,
    RunNow,
)
from ropeway.brokers.redis import scripts
from ropeway.brokers.redis.encoding.records import write_traits
from ropeway.brokers.redis.shard import Shard
from ropeway.brokers.redis.wire.client import Word
from ropeway.job import JobRef, State

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode
ACTED: Final[tuple[Answer, ...]] = (Answer.DONE, Answer.REQUESTED, Answer.NOT_FOUND, Answer.REFUSED)
_ACTIONS: Final[dict[type[Action], str]] = {
    CancelJob: "cancel",
    RetryJob: "retry",
    RunNow: "run",
    BuryJob: "bury",
    MoveJob: "move",
    DeleteJob: "delete",
    EditJob: "edit",
}
PURGED_AT_ONCE: Final = 1_000


class Told(NamedTuple):
    """The answer to an action; of a running job that is to be told: which, and whose it is."""

    acted: Acted
    ref: JobRef | None = None
    worker: str | None = None


async def act(shard: Shard, actions: Sequence[Action]) -> list[Told]:
    """See `JobStore.act`."""
    head: list[Any] = []
    args: list[Word] = []
    for action in actions:
        ref = action.ref
        kind = _ACTIONS[type(action)]
        revision = action.if_revision if isinstance(action, EditJob) else None
        head.append(
            (
                kind,
                ref.id,
                ref.queue or False,
                _detail_of(action),
                False if revision is None else revision,
            )
        )
        if isinstance(action, EditJob):
            args += write_traits(action.job)
    found: list[Told] = []
    replies = _decode(await shard.run(scripts.ACT, head, args))
    for action, reply in zip(actions, replies, strict=True):
        code, state, text, *told = reply
        acted = Acted(ACTED[int(code)], State(state) if state else None, text)
        found.append(Told(acted, JobRef(action.ref.id, told[0]), told[1]) if told else Told(acted))
    return found


async def pause(shard: Shard, queue: str) -> None:
    """See `JobStore.pause`."""
    await shard.run(scripts.QUEUE, ("pause", queue))


async def resume(shard: Shard, queue: str) -> None:
    """See `JobStore.resume`."""
    await shard.run(scripts.QUEUE, ("resume", queue))


async def purge(shard: Shard, queue: str, states: AbstractSet[State]) -> int:
    """See `JobStore.purge`."""
    removed = 0
    while True:
        asked = ("purge", queue, dict.fromkeys(states, True), PURGED_AT_ONCE)
        done = await shard.run(scripts.QUEUE, asked)
        removed += done
        if done < PURGED_AT_ONCE:
            return removed


def _detail_of(action: Action) -> str:
    """The reason, or the other queue."""
    if isinstance(action, CancelJob | BuryJob):
        return action.reason
    return action.queue if isinstance(action, MoveJob) else ""
