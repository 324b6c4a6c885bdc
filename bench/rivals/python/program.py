"""The part that every Python program here shares: command line, ways of enqueueing, job, ledger.

A program is called by the harness (`bench/README.md` has the command line), and its module is
imported again by the rival's own worker command, which finds the options in the environment.
"""

import argparse
import asyncio
import hashlib
import json
import logging
import os
import struct
import sys
import threading
import time
from array import array
from collections.abc import Awaitable, Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

FIRST = 1_000_000  # number of the first job; with the padding, the arguments are 142 bytes of JSON
PADDING = "x" * 130
BATCH = 1_000
WARM_UP = 20
BEGUN = 0xFFFFFFFF  # length in a record of a job that has begun and not ended
SLOW_S = 0.02
BLOCK = bytes(128 * 1024)
RECORD = struct.Struct("<qII")
VARIABLE = "RIVAL_OPTIONS"

logging.disable(logging.INFO)  # some log each job by default, others do not: here none does


# -- the command line ----------------------------------------------------------------------------


def options() -> argparse.Namespace:
    """What the harness has said to this process, or to the one that became this worker."""
    if said := os.environ.get(VARIABLE):
        return argparse.Namespace(**json.loads(said))
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("command", choices=["enqueue", "work"])
    for name, default in {
        "url": "",
        "setting": "",
        "mode": "single",
        "task": "noop",
        "ledger": "",
        "sent": "",
        "delay": "0ms",
    }.items():
        parser.add_argument(f"--{name}", default=default)
    for name, number in {"jobs": 1, "callers": 50, "concurrency": 10}.items():
        parser.add_argument(f"--{name}", type=int, default=number)
    for name, seconds in {"seconds": 600.0, "rate": 200.0}.items():
        parser.add_argument(f"--{name}", type=float, default=seconds)
    parser.add_argument("--ranked", action="store_true")
    said = parser.parse_args()
    said.delay_ms = int(said.delay.removesuffix("ms"))
    said.ranked = said.ranked or said.mode == "ranked"
    return said


def become(o: argparse.Namespace, *command: str) -> NoReturn:
    """Replace this process by the rival's own worker command, a module of this interpreter."""
    os.environ[VARIABLE] = json.dumps(vars(o))
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    os.execv(sys.executable, [sys.executable, "-m", *command])


def answer(**values: Any) -> None:
    """Tell the harness."""
    print(json.dumps(values), flush=True)


def unsupported(why: str) -> NoReturn:
    """End, saying that this rival cannot do it."""
    answer(unsupported=why)
    sys.exit(3)


# -- enqueueing ----------------------------------------------------------------------------------


class Client:
    """How a rival enqueues: these are replaced, in an async client by coroutine functions."""

    send: Callable[[int], Any]
    send_many: Callable[[list[int]], Any] | None = None
    send_later: Callable[[int, float], Any] | None = None
    send_ranked: Callable[[int, int], Any] | None = None

    def must(self, name: str) -> Callable[..., Any]:
        """One of the above, or the end of the program."""
        if call := getattr(self, name):
            return call
        missing = {
            "send_many": "no bulk call",
            "send_later": "no delayed jobs without another process",
            "send_ranked": "no priorities",
        }
        unsupported(missing[name])


def batches(o: argparse.Namespace) -> Iterator[list[int]]:
    """Numbers of jobs by the thousand, as long as time is left."""
    numbers = iter(range(FIRST, FIRST + o.jobs))
    give_up_s = time.monotonic() + o.seconds
    while time.monotonic() < give_up_s and (some := list(islice(numbers, BATCH))):
        yield some


def write_times(o: argparse.Namespace, times: array) -> None:
    """When each job was sent or, delayed, was due."""
    Path(o.sent).write_bytes(times.tobytes())


def enqueue(o: argparse.Namespace, client: Client) -> None:
    """As the options say, by a client of plain functions; tells jobs and seconds."""
    send, mode = client.send, o.mode
    if mode == "fill":
        mode = "bulk" if client.send_many else "single"
    elif mode in {"single", "concurrent"}:
        send(FIRST - 1)
    elif mode == "bulk":
        client.must("send_many")([FIRST - 1])
    done = 0
    start = time.monotonic()
    if mode == "bulk":
        for numbers in batches(o):
            client.must("send_many")(numbers)
            done += len(numbers)
    elif mode == "ranked":
        for done in range(1, o.jobs + 1):
            client.must("send_ranked")(FIRST + done - 1, (done - 1) % 3)
    elif mode in {"paced", "delayed"}:
        start = _pace(o, client)
        done = o.jobs
    else:
        done = _callers(o, client, o.callers if mode == "concurrent" else 1)
    answer(jobs=done, seconds=time.monotonic() - start)


def _callers(o: argparse.Namespace, client: Client, count: int) -> int:
    numbers = iter(range(FIRST, FIRST + o.jobs))
    give_up_s = time.monotonic() + o.seconds
    done = array("q", bytes(8 * count))

    def call(caller: int) -> None:
        for number in numbers:
            client.send(number)
            done[caller] += 1
            if time.monotonic() > give_up_s:
                break

    if count == 1:
        call(0)
    else:
        threads = [threading.Thread(target=call, args=(i,)) for i in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return sum(done)


def _pace(o: argparse.Namespace, client: Client) -> float:
    """Send at fixed times; when the first one was sent."""
    if o.mode == "paced":
        for number in range(FIRST - WARM_UP, FIRST):
            client.send(number)
            time.sleep(0.02)
        time.sleep(0.3)
    times = array("q")
    start = time.monotonic()
    for place in range(o.jobs):
        time.sleep(max(0, start + place / o.rate - time.monotonic()))
        times.append(time.monotonic_ns() + o.delay_ms * 1_000_000)
        if o.mode == "delayed":
            client.must("send_later")(FIRST + place, o.delay_ms / 1000)
        else:
            client.send(FIRST + place)
    write_times(o, times)
    return start


async def enqueue_async(o: argparse.Namespace, client: Client) -> None:
    """As the options say, by a client of coroutine functions; tells jobs and seconds."""
    mode = o.mode
    if mode == "fill":
        mode = "bulk" if client.send_many else "concurrent"
    elif mode == "single":
        await client.send(FIRST - 1)
    elif mode == "concurrent":
        await asyncio.gather(*(client.send(FIRST - 1 - i) for i in range(o.callers)))
    elif mode == "bulk":
        await client.must("send_many")([FIRST - 1])
    done = 0
    start = time.monotonic()
    if mode == "bulk":
        for numbers in batches(o):
            await client.must("send_many")(numbers)
            done += len(numbers)
    elif mode == "ranked":
        for done in range(1, o.jobs + 1):
            await client.must("send_ranked")(FIRST + done - 1, (done - 1) % 3)
    elif mode in {"paced", "delayed"}:
        start = await _pace_async(o, client)
        done = o.jobs
    else:
        done = await _callers_async(o, client, o.callers if mode == "concurrent" else 1)
    answer(jobs=done, seconds=time.monotonic() - start)


async def _callers_async(o: argparse.Namespace, client: Client, count: int) -> int:
    numbers = iter(range(FIRST, FIRST + o.jobs))
    give_up_s = time.monotonic() + o.seconds

    async def call() -> int:
        done = 0
        while time.monotonic() < give_up_s and (number := next(numbers, None)) is not None:
            await client.send(number)
            done += 1
        return done

    return sum(await asyncio.gather(*(call() for _ in range(count))))


async def _pace_async(o: argparse.Namespace, client: Client) -> float:
    """Send at fixed times; when the first one was sent."""
    if o.mode == "paced":
        for number in range(FIRST - WARM_UP, FIRST):
            await client.send(number)
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)
    times = array("q", bytes(8 * o.jobs))
    later = client.must("send_later") if o.mode == "delayed" else None

    async def send(place: int) -> None:
        times[place] = time.monotonic_ns() + o.delay_ms * 1_000_000
        if later:
            await later(FIRST + place, o.delay_ms / 1000)
        else:
            await client.send(FIRST + place)

    start = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for place in range(o.jobs):
            wait_s = start + place / o.rate - time.monotonic()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            group.create_task(send(place))
    write_times(o, times)
    return start


# -- the job -------------------------------------------------------------------------------------


class Ledger:
    """Records of 16 bytes, each one write to a file opened for appending: start, number, length."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def mark(self, number: int) -> None:
        """A job that has begun and ended."""
        os.write(self._file, RECORD.pack(time.monotonic_ns(), number, 0))

    def begun(self, start_ns: int, number: int) -> None:
        """A job that has begun."""
        os.write(self._file, RECORD.pack(start_ns, number, BEGUN))

    def ended(self, start_ns: int, number: int) -> None:
        """A job that has ended."""
        length_us = (time.monotonic_ns() - start_ns) // 1000
        os.write(self._file, RECORD.pack(start_ns, number, length_us))


def plain_body(o: argparse.Namespace) -> Callable[[int], None]:
    """What a job does, as a function: one record at its end, and one more as a slow job begins."""
    ledger = Ledger(o.ledger or os.devnull)
    if o.task == "noop":
        return ledger.mark

    def cpu(number: int) -> None:
        start_ns = time.monotonic_ns()
        hashlib.sha256(BLOCK).digest()
        ledger.ended(start_ns, number)

    def sleep(number: int) -> None:
        start_ns = time.monotonic_ns()
        if o.task == "slow":
            ledger.begun(start_ns, number)
        time.sleep(SLOW_S if o.task == "slow" else 0.001)
        ledger.ended(start_ns, number)

    return cpu if o.task == "cpu" else sleep


def async_body(o: argparse.Namespace) -> Callable[[int], Awaitable[None]]:
    """The same as a coroutine function; a rival that takes functions too gets `cpu` as one."""
    plain = plain_body(o)
    ledger = Ledger(o.ledger or os.devnull)

    async def short(number: int) -> None:
        plain(number)

    async def sleep(number: int) -> None:
        start_ns = time.monotonic_ns()
        if o.task == "slow":
            ledger.begun(start_ns, number)
        await asyncio.sleep(SLOW_S if o.task == "slow" else 0.001)
        ledger.ended(start_ns, number)

    return sleep if o.task in {"slow", "sleep1ms"} else short
