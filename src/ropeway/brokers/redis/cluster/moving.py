"""Actions on jobs in several shards; a job that moves goes through the outbox."""

from collections.abc import Sequence

from ropeway.action import Acted, Action, Answer, MoveJob
from ropeway.brokers.redis import looking as of_shard
from ropeway.brokers.redis import operating, scripts
from ropeway.brokers.redis.cluster import kin, looking
from ropeway.brokers.redis.cluster.shards import Shards
from ropeway.brokers.redis.operating import ACTED, Told
from ropeway.job import JobRef, State


async def act(shards: Shards, actions: Sequence[Action]) -> list[Told]:
    """See `Shard.act`; one after the other, since the last may be meant for what the first did."""
    found: list[Told] = []
    for action in actions:
        (ref,) = await looking.locate(shards, [action.ref])
        if ref.queue is None:
            found.append(Told(Acted(Answer.NOT_FOUND)))
        elif isinstance(action, MoveJob) and action.queue != ref.queue:
            found.append(Told(await _move(shards, ref, ref.queue, action.queue)))
        else:
            shard = shards.of(ref.queue)
            found += await operating.act(shard, [action])
            await kin.deliver_if_any(shards, shard)
    return found


async def _move(shards: Shards, ref: JobRef, source: str, target: str) -> Acted:
    """Out of one shard into the outbox, in one step; then delivered, by whoever comes first."""
    shard = shards.of(source)
    (record,) = await of_shard.get(shard, [ref])
    if record is None:
        return Acted(Answer.NOT_FOUND)
    unique = record.job.unique
    asked = ("room", target, ref.id, unique.key if unique else False)
    in_the_way = (await (await shards.made(target)).run(scripts.MOVE, asked)).decode()
    if in_the_way:
        return Acted(Answer.REFUSED, record.status.state, in_the_way)
    code, state, text = await shard.run(scripts.MOVE, ("out", ref.id, target))
    await kin.deliver_if_any(shards, shard)
    return Acted(ACTED[int(code)], State(state.decode()) if state else None, text.decode())
