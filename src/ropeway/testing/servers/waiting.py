"""Waiting for a server: the one loop that polls, and the error when it was in vain."""

import time
from collections.abc import Callable

POLL_S = 0.01


class ServerError(RuntimeError):
    """A server cannot be had, or does not do what was asked for; the message ends with its log."""


def happens(check: Callable[[], bool], *, timeout: float) -> bool:
    """True as soon as `check` is true, False when it was not within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not check():
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)
    return True


def wait_until(check: Callable[[], bool], *, timeout: float, what: Callable[[], str]) -> None:
    """Wait until `check` is true.

    Raises:
        ServerError: it was not within `timeout` seconds; `what` says what was waited for.

    """
    if not happens(check, timeout=timeout):
        raise ServerError(f"after {timeout:g} s: {what()}")
