"""A producer process: `python -m ropeway.verify.producer NAME`. Enqueues until it is killed.

What its predecessor of the same name had asked for without an answer is asked for again first,
with the same ids: whether it was stored or not, there is one job of it afterwards.
"""

import asyncio
import itertools
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from ropeway.verify.ledger import Event, read
from ropeway.verify.load import MAIN_QUEUE, PAUSED_QUEUE
from ropeway.verify.subject import LEDGER_VARIABLE, app, ledger

PACE_S: Final = 0.035
UNIQUE_EVERY_S: Final = 0.25
"""All producers use the same unique key for so long, so that they compete for it."""
ORDERED_KEYS: Final = 3
LIMITED_KEYS: Final = 3
"""All producers use the same keys of a concurrency limit, so that they fill them."""
CANCEL_DELAY_S: Final = 0.8

TASKS: Final = {
    "plain": "on_the_loop",
    "thread": "in_a_thread",
    "process": "in_a_process",
    "retried": "fails_once",
    "delayed": "on_the_loop",
    "unique": "on_the_loop",
    "ordered": "on_the_loop",
    "limited": "limited",
    "fair": "on_the_loop",
    "cancelled": "on_the_loop",
    "paused": "on_the_loop",
}
_MIX: Final = (
    *("plain", "ordered", "thread", "limited", "unique", "retried", "delayed", "fair", "ordered"),
    *("cancelled", "thread", "limited", "unique", "plain", "paused", "ordered", "delayed", "fair"),
)
MIX: Final = (*_MIX, "process", *_MIX, *_MIX, *_MIX)  # a new process is dear after each kill


async def produce(name: str) -> None:
    """Ask again for what is unknown, then for one job after the other."""
    async with app:
        for asked in unanswered(name, read(Path(os.environ[LEDGER_VARIABLE]))):
            await send(asked)
        for asked in wishes(name):
            await send(asked)
            await asyncio.sleep(PACE_S)


def wishes(name: str) -> Iterator[Event]:
    """What to ask for, endlessly; times are filled in when it is asked."""
    own = f"{name}-{os.getpid()}"
    for number in itertools.count():
        kind = MIX[number % len(MIX)]
        key, delay_s = "", 0.0
        match kind:
            case "unique":
                key = f"unique-{int(time.monotonic() / UNIQUE_EVERY_S)}"
            case "ordered":
                key = f"{own}-{number % ORDERED_KEYS}"
            case "limited":
                key = f"limited-{number % LIMITED_KEYS}"
            case "fair":
                key = name
            case "delayed":
                delay_s = 0.2 + number % 10 / 10
            case "cancelled":
                delay_s = CANCEL_DELAY_S
            case _:
                pass
        yield Event(
            what="ask",
            at_s=0,
            wall_s=0,
            pid=0,
            job=f"{own}-{number}",
            kind=kind,
            key=key,
            delay_s=delay_s,
            work_ms=20 + number % 7 * 40,
        )


def unanswered(name: str, events: list[Event]) -> list[Event]:
    """What processes of this name have asked for and got no answer to."""
    asked = {e.job: e for e in events if e.what == "ask" and e.job.startswith(f"{name}-")}
    for event in events:
        if event.what == "ack":
            asked.pop(event.job, None)
    return list(asked.values())


async def send(asked: Event) -> None:
    """Enqueue, with a line before and a line after; cancel at once what is to be cancelled."""
    said: dict[str, Any] = {"job": asked.job, "kind": asked.kind}
    options: dict[str, Any] = {
        "id": asked.job,
        "queue": PAUSED_QUEUE if asked.kind == "paused" else MAIN_QUEUE,
    }
    if asked.delay_s:
        options["delay"] = asked.delay_s
    if asked.kind == "unique":
        options["unique"] = asked.key
    if asked.kind == "ordered":
        options["ordering_key"] = asked.key
    if asked.kind == "limited":
        options["limit_keys"] = {"limited.concurrency": asked.key}
    if asked.kind == "fair":
        options["fair_key"] = asked.key
    ledger.note("ask", **said, key=asked.key, delay_s=asked.delay_s, work_ms=asked.work_ms)
    arguments = {"work_ms": asked.work_ms}
    handle = await app.send(TASKS[asked.kind], arguments, **options)
    ledger.note("ack", **said, key=asked.key, detail=handle.id)
    if asked.kind == "cancelled":
        acted = await handle.cancel()
        ledger.note("cancel", **said, detail=acted.answer.value)


if __name__ == "__main__":
    asyncio.run(produce(sys.argv[1]))
