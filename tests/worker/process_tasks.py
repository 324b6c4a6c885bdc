"""Handlers that run in processes of their own, where they are imported by name."""

import logging
import os
import signal
import time
from pathlib import Path
from typing import Any

from ropeway import verdict
from ropeway.context import Context, current_job


class OwnError(Exception):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


def pid(word: str) -> tuple[str, int]:
    return word.upper(), os.getpid()


async def async_pid() -> int:
    return os.getpid()


def touch(path: str) -> None:
    Path(path).touch()


def fail(code: int) -> None:
    raise OwnError(code, "as planned")


def decide(what: str) -> verdict.Verdict | None:
    if what == "snooze":
        raise verdict.Snooze(60, reason="later")
    if what == "retry":
        raise verdict.Retry(60)
    if what == "cancel":
        return verdict.Cancel("gone")
    raise verdict.Bury("look at it")


def crash(how: str) -> None:
    if how == "exit":
        os._exit(7)
    os.kill(os.getpid(), signal.SIGKILL if how == "kill" else signal.SIGSEGV)


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def leave() -> None:
    raise SystemExit(3)


def large() -> str:
    return "x" * 1_000


def report(ctx: Context[Any]) -> Any:
    ctx.progress_sync(0.5, "half")
    ctx.log.warning("from the child")
    logging.getLogger("mine").warning("a plain log line")
    saved = ctx.saved
    ctx.save_sync({"step": 2})
    assert current_job() is ctx
    if saved is None:
        raise ValueError("once more")
    return saved


def polite(ctx: Context[Any]) -> str:
    while not ctx.should_stop:
        time.sleep(0.005)
    return "in time"
