"""An app with jobs that kill their worker, for `ropeway worker crash_app:app`.

Each start adds a line to the file that the job is given: its kind and number. A line is written
before the job does anything else, so a start that kills its process is seen as well.
"""

import asyncio
import os
import resource
import signal
import time

from ropeway import Ropeway

app = Ropeway()  # its URL comes from the environment

HEAP_BYTES = 256 * 2**20


def note(path: str, name: str) -> None:
    line = f"{name}\n".encode()
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


def die(how: str) -> None:
    """End this process as the system or a native library would."""
    if how == "memory":
        resource.setrlimit(resource.RLIMIT_AS, (HEAP_BYTES, HEAP_BYTES))
        try:
            bytearray(2 * HEAP_BYTES)
        except MemoryError:
            os._exit(137)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(name="poison.async")
async def poison_async(path: str, name: str, how: str) -> None:
    note(path, name)
    await asyncio.sleep(0.05)
    die(how)


@app.task(name="poison.thread")
def poison_thread(path: str, name: str, how: str) -> None:
    note(path, name)
    time.sleep(0.05)
    die(how)


@app.task(name="poison.process", process=True)
def poison_process(path: str, name: str, how: str) -> None:
    note(path, name)
    time.sleep(0.05)
    die(how)


@app.task(name="good.async")
async def good_async(path: str, name: str) -> str:
    note(path, name)
    await asyncio.sleep(0.1)
    return name


@app.task(name="good.thread")
def good_thread(path: str, name: str) -> str:
    note(path, name)
    time.sleep(0.1)
    return name


@app.task(name="good.process", process=True)
def good_process(path: str, name: str) -> str:
    note(path, name)
    time.sleep(0.1)
    return name
