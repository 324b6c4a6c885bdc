"""The one seam to what no program can compute: time, chance, ids and threads.

Brokers and workers take all of it from here, as a value that is handed to them. With the system's
own (`SYSTEM`) they run for real; with another one a whole fleet of them runs on one thread, on a
clock that only moves when everybody waits, the same way each time (`ropeway.testing.simulation`).
"""

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from ropeway.clock import SYSTEM_CLOCK, Clock

StartThread = Callable[[Callable[[], None], str], threading.Thread]
"""Starts a daemon thread: what it does, and its name."""

_ENTROPY_BYTES = 4096  # drawn at once: for 512 ids
_VARIANTS = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


class IdSource:
    """UUIDv7 (RFC 9562 §5.7): 48 bits of Unix ms, a counter in `rand_a`, then 62 random bits.

    Ids of one source are strictly increasing, which keeps a store's index append-only.

    Args:
        clock: its wall clock is the first half of an id.
        entropy: gives that many random bytes; asked once every 512 ids.
    """

    def __init__(self, clock: Clock, entropy: Callable[[int], bytes]) -> None:
        self._wall_ms = clock.wall_ms
        self._draw = entropy
        self._lock = threading.Lock()
        self._ms = 0
        self._prefix = ""  # of all ids of this millisecond
        self._counter = 0
        self._entropy = ""  # in hex
        self._pos = 0

    def next(self) -> str:
        """A new id as text, greater than all before it."""
        with self._lock:
            now_ms = self._wall_ms()
            if now_ms > self._ms:
                self._begin_ms(now_ms)
            elif self._counter < 0xFFF:
                self._counter += 1
            else:  # 4,096 ids in one millisecond: borrow the next one
                self._begin_ms(self._ms + 1)
            if self._pos >= len(self._entropy):
                self._entropy, self._pos = self._draw(_ENTROPY_BYTES).hex(), 0
            tail = self._entropy[self._pos : self._pos + 16]
            self._pos += 16
            variant = _VARIANTS[tail[0]]
            return f"{self._prefix}{self._counter:03x}-{variant}{tail[1:4]}-{tail[4:]}"

    def _begin_ms(self, ms: int) -> None:
        head = f"{ms:012x}"
        self._ms, self._counter = ms, 0
        self._prefix = f"{head[:8]}-{head[8:]}-7"

    def forget(self) -> None:
        """Draw anew, under a lock of its own: a forked child must not repeat its parent's ids."""
        self._lock = threading.Lock()
        self._entropy = ""
        self._pos = 0


_ids = IdSource(SYSTEM_CLOCK, os.urandom)
_random = Random()  # noqa: S311 - jitter: it spreads load and guards nothing


def new_id() -> str:
    """A new UUIDv7 as text, greater than every id this process made before."""
    return _ids.next()


def start_daemon(work: Callable[[], None], name: str) -> threading.Thread:
    """Run `work` in a thread that does not keep the process alive."""
    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    return thread


@dataclass(frozen=True, kw_only=True, slots=True)
class Runtime:
    """What brokers and workers are given.

    Attributes:
        clock: the wall clock and the monotonic one.
        random: for jitter only.
        new_id: a new unique id.
        start_thread: None where there is to be one thread only. Everything then happens on the
            event loop: what another thread would serve is served in the loop's next turn, and
            nobody watches the loop from outside.

    """

    clock: Clock = SYSTEM_CLOCK
    random: Random = field(default=_random)
    new_id: Callable[[], str] = field(default=new_id)
    start_thread: StartThread | None = field(default=start_daemon)


SYSTEM = Runtime()


def _begin_anew_in_child() -> None:
    _ids.forget()
    _random.seed()


os.register_at_fork(after_in_child=_begin_anew_in_child)
