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


def _script(verb: str, *parts: str) -> Script:
    source = "\n".join(map(_part, ("base", *parts, f"verb_{verb}")))
    for name, value in _CONSTANTS.items():
        source = source.replace(name, str(value))
    return Script(verb, source)


_CHANGE: Final = ("row", "flow", "put")

ENQUEUE: Final = _script("enqueue", *_CHANGE, "enqueue")
RESERVE: Final = _script("reserve", *_CHANGE, "reserve")
RESERVE_GROUP: Final = _script("reserve_group", *_CHANGE, "reserve")
SETTLE: Final = _script("settle", *_CHANGE, "enqueue", "settle")
EXCHANGE: Final = _script("exchange", *_CHANGE, "enqueue", "settle", "reserve")
EXTEND: Final = _script("extend", *_CHANGE, "enqueue", "settle")
APPEND: Final = _script("append", *_CHANGE, "enqueue", "settle")
MAINTAIN: Final = _script("maintain", *_CHANGE)
ACT: Final = _script("act", *_CHANGE, "enqueue")
QUEUE: Final = _script("queue", *_CHANGE)
RULES: Final = _script("rules", *_CHANGE)
KEYS: Final = _script("keys", *_CHANGE)
WORKERS: Final = _script("workers", *_CHANGE)
GET: Final = _script("get", "row")
FIND: Final = _script("find", "row")
PEEK: Final = _script("peek", "row")
QUEUES: Final = _script("queues", "row")
EVENTS: Final = _script("events", "row")
WATCH: Final = _script("watch", "row")
HEARD: Final = _script("heard")
SEND: Final = _script("send")
SIGNALS: Final = _script("signals")
