"""The app whose producers and workers are killed, and the ledger that its handlers keep.

The ledger is a file, independent of the broker: one line for each event, one `write` a line on a
descriptor opened with O_APPEND, so that lines of many processes never mix and survive a SIGKILL.
"""

import asyncio
import os
import time

from ropeway import Context, Ropeway

LEDGER = os.environ["KILL_LEDGER"]
TASKS = ("on_the_loop", "in_a_thread", "fails_once")

app = Ropeway(os.environ["KILL_URL"], defaults={"crash_max": 1000})
_ledger = os.open(LEDGER, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def note(event: str, job_id: str) -> None:
    os.write(_ledger, f"{event} {job_id}\n".encode())


@app.task
async def on_the_loop(ctx: Context[None], number: int) -> int:
    note("start", ctx.job.id)
    await asyncio.sleep(0.02)
    note("end", ctx.job.id)
    return number


@app.task
def in_a_thread(ctx: Context[None], number: int) -> int:
    note("start", ctx.job.id)
    time.sleep(0.02)
    note("end", ctx.job.id)
    return number


@app.task(attempts=50)
async def fails_once(ctx: Context[None], number: int) -> int:
    note("start", ctx.job.id)
    if ctx.attempt == 1:
        raise ConnectionError("the first attempt always fails")
    note("end", ctx.job.id)
    return number
