"""Points at which a process can be told to die, so that tests can kill it at every one of them.

With `ROPEWAY_CRASH_AT=name` in its environment a process sends itself SIGKILL when it passes the
point of that name, with `name:n` when it passes it the n-th time. Without the variable a point
is a call of a function that does nothing.

Points stand where a kill could lose or double something: between a write and what must follow it.
Call them through the module, `crash.point("name")`, so that a listener hears of them.
"""

import os
import signal
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Final

from ropeway.errors import ConfigError

VARIABLE: Final = "ROPEWAY_CRASH_AT"

POINTS: Final[Mapping[str, str]] = {
    # in a store's own steps
    "enqueue.written": "the jobs are written and not yet committed",
    "enqueue.committed": "the jobs are committed and the producer has no answer",
    "reserve.written": "the leases are written and not yet committed",
    "reserve.committed": "the leases are committed and the worker does not know them",
    "settle.written": "the outcomes are written and not yet committed",
    "settle.committed": "the outcomes are committed and the worker has no answer",
    "settle.then": "the acked job is written, the jobs that follow it are not",
    "extend.written": "the leases are prolonged and not yet committed",
    "maintain.promoted": "due jobs are available, expired leases not yet taken back",
    "maintain.expired": "expired leases are taken back, overdue jobs not yet buried",
    "maintain.cascaded": "the children of failed parents are settled, nothing is pruned yet",
    "maintain.pruned": "old records are gone, nothing is committed",
    "act.written": "an operator's actions are written and not yet committed",
    # in a worker
    "worker.offloaded": "the blob of a result is written, and nobody was told the outcome",
    "worker.reserved": "jobs were handed out, and no handler has begun",
    "worker.settling": "handlers have ended, and nobody was told their outcomes",
    "worker.settled": "outcomes were stored, and the worker has not noted it",
    "worker.beaten": "leases were prolonged, and the worker has not noted it",
    # in a producer
    "producer.offloaded": "the blobs of a call are written, and its jobs are not",
    "producer.sending": "a call is about to be sent for the first time",
}
"""Every point there is, and what has and has not happened when it is passed."""


def _pass(_name: str) -> None:
    """A point in a process that was not told to die."""


def armed(setting: str) -> Callable[[str], None]:
    """What a point does in a process told to die at `setting`: "name" or "name:n".

    Raises:
        ConfigError: there is no such point, or `n` is no whole number over 0.
    """
    name, _, count = setting.partition(":")
    if name not in POINTS:
        raise ConfigError(f"{VARIABLE}={setting!r}: no such point; known are {', '.join(POINTS)}")
    if count and (not count.isdecimal() or int(count) < 1):
        raise ConfigError(f"{VARIABLE}={setting!r}: write name:n with a whole number n over 0")
    left = int(count or 1)

    def die(passed: str) -> None:
        nonlocal left
        if passed == name:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return die


point: Callable[[str], None] = armed(os.environ[VARIABLE]) if VARIABLE in os.environ else _pass
"""Pass the point of this name."""


@contextmanager
def listening(listener: Callable[[str], None]) -> Generator[None]:
    """Call `listener` with the name of each point that this process passes inside the block."""
    global point  # noqa: PLW0603 - one process, one listener
    before, point = point, listener
    try:
        yield
    finally:
        point = before
