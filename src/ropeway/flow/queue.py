"""The limits of a queue itself: no job is parked under them, a queue without room is not read.

Each kind has one state, which `state_of` gives; how many jobs run is known by the store's counters.
"""

from collections.abc import Callable, Sequence

from ropeway.flow import limit as arithmetic
from ropeway.flow.limit import UNBOUNDED, End, KeyState
from ropeway.flow.rules import Breaker, Limit, Slots

StateOf = Callable[[Limit], KeyState]


def room(limits: Sequence[Limit], state_of: StateOf, running: int, now_ms: int) -> int:
    """How many more jobs of the queue may start."""
    found = UNBOUNDED
    for limit in limits:
        state = KeyState(used=running) if isinstance(limit, Slots) else state_of(limit)
        found = min(found, arithmetic.room(limit, state, now_ms))
    return found


def started(limits: Sequence[Limit], state_of: StateOf, n: int, now_ms: int) -> None:
    """So many jobs of the queue have started."""
    for limit in limits:
        if not isinstance(limit, Slots):
            arithmetic.take(limit, state_of(limit), now_ms, n)


def ended(limits: Sequence[Limit], state_of: StateOf, end: End, now_ms: int) -> None:
    """A run of a job of the queue has ended."""
    for limit in limits:
        if isinstance(limit, Breaker):
            arithmetic.give_back(limit, state_of(limit), end, now_ms)


def opens_at_ms(limits: Sequence[Limit], state_of: StateOf, now_ms: int) -> int | None:
    """When time alone gives the queue room; None when it has room, or when runs must end first."""
    times: list[int] = []
    for limit in limits:
        if isinstance(limit, Slots):
            continue
        opens_ms = arithmetic.opens_at_ms(limit, state_of(limit))
        if opens_ms is not None and not arithmetic.room(limit, state_of(limit), now_ms):
            times.append(opens_ms)
    return max(times, default=None)
