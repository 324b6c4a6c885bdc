"""The Lua scripts: each verb is one, put together from the parts that it needs."""

from importlib.resources import files
from typing import Final

from ropeway import lifecycle
from ropeway.brokers.redis.wire.client import Script
from ropeway.job import State

_CONSTANTS: Final = {
    "@COMPLETED_MS": lifecycle.RETENTION_MS[State.COMPLETED],
    "@CANCELLED_MS": lifecycle.RETENTION_MS[State.CANCELLED],
    "@DEAD_MS": lifecycle.RETENTION_MS[State.DEAD],
    "@ERRORS_KEPT": lifecycle.ERRORS_KEPT,
}
_LUA: Final = files("ropeway.brokers.redis") / "lua"


def _part(name: str) -> str:
    return (_LUA / f"{name}.lua").read_text(encoding="utf-8")


# When the server's memory is full it refuses a script at its first write that may need more, unless
# the script has written before: then it goes on to its end. Verbs that let jobs end, and so free
# memory, begin with a write that needs none; `enqueue` does not.
_MAY_GO_ON: Final = "redis.call('HDEL', KEYS[1] .. ':m', '')\n"


def _script(verb: str, *parts: str, frees: bool = False) -> Script:
    """The parts in their order, then the verb; `frees`: it is run when the memory is full, too.

    What a part defines is made anew at each call of a script, and costs: a verb that often needs
    little has a part `short_VERB`, which returns before the rest is made.
    """
    source = "\n".join(map(_part, ("base", *parts, f"verb_{verb}")))
    for name, value in _CONSTANTS.items():
        source = source.replace(name, str(value))
    return Script(verb, _MAY_GO_ON + source if frees else source)


_PLAIN: Final = ("pages", "row", "plain")
_STORE: Final = ("store", "enqueue")
_CHANGE: Final = ("flow", "put")

ENQUEUE_PLAIN: Final = _script("enqueue_plain", "pages", "store")
ENQUEUE: Final = _script("enqueue", *_PLAIN, *_CHANGE, *_STORE)
RESERVE: Final = _script("reserve", *_PLAIN, "short_reserve", *_CHANGE, "reserve", frees=True)
RESERVE_GROUP: Final = _script("reserve_group", *_PLAIN, *_CHANGE, "reserve", frees=True)
SETTLE: Final = _script("settle", *_PLAIN, "short_settle", *_CHANGE, *_STORE, "settle", frees=True)
EXCHANGE: Final = _script(
    "exchange", *_PLAIN, "short_exchange", *_CHANGE, *_STORE, "settle", "reserve", frees=True
)
EXTEND: Final = _script("extend", *_PLAIN, *_CHANGE, *_STORE, "settle", frees=True)
APPEND: Final = _script("append", *_PLAIN, *_CHANGE, *_STORE, "settle")
MAINTAIN: Final = _script(
    "maintain", "pages", "row", "short_maintain", "plain", *_CHANGE, "failed", "prune", frees=True
)
ACT: Final = _script("act", *_PLAIN, *_CHANGE, *_STORE, "reopen", frees=True)
QUEUE: Final = _script("queue", *_PLAIN, *_CHANGE, "prune", frees=True)
RULES: Final = _script("rules", *_PLAIN, *_CHANGE)
KEYS: Final = _script("keys", "pages", "row", "flow")
WORKERS: Final = _script("workers", "short_workers", *_PLAIN, *_CHANGE, frees=True)
KIN: Final = _script("kin", *_PLAIN, *_CHANGE, *_STORE, "failed", "reopen")
ENQUEUE_POSTED: Final = _script("enqueue_posted", *_PLAIN, *_CHANGE, *_STORE)
MOVE: Final = _script("move", *_PLAIN, *_CHANGE)
OUTBOX: Final = _script("outbox", "pages", "row")
GET: Final = _script("get", "pages", "row")
FIND: Final = _script("find", "pages", "row")
PEEK: Final = _script("peek", "pages", "row")
QUEUES: Final = _script("queues", "pages", "row")
EVENTS: Final = _script("events", "pages", "row")
WATCH: Final = _script("watch", "pages", "row")
HEARD: Final = _script("heard")
SEND: Final = _script("send")
SIGNALS: Final = _script("signals")
