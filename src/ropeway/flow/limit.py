"""One limit and one of its keys: how many jobs may start now, and what a start and an end change.

A store keeps one `KeyState` per limit and key, and changes it by these functions in the same step
that starts or ends the job: what counts is always what is running, so no slot can leak.
Times are UTC epoch milliseconds by the store's clock, which never runs backwards.
"""

import math
from enum import StrEnum
from typing import Final

import msgspec

from ropeway.flow.rules import Breaker, Limit, Rate, Slots

UNBOUNDED: Final = 2**53
"""What `room` says when the limit holds nothing back."""


class End(StrEnum):
    """How a run ended, as far as a breaker cares."""

    SUCCESS = "success"
    FAILURE = "failure"
    OTHER = "other"  # given back, cancelled, lost: says nothing about what the job calls


class KeyState(msgspec.Struct, omit_defaults=True, gc=False):
    """What is counted for one key of one limit. All zero: as if it were not there."""

    used: int = 0  # running jobs that hold a slot; of a breaker: probes that are out
    tat_ms: float = 0.0  # of a rate: when the next start would be due, were there no bursts
    failures: int = 0  # in a row
    open_until_ms: int = 0  # of a breaker
    parked: int = 0  # available jobs that wait for this key


def room(limit: Limit, key: KeyState, now_ms: int) -> int:
    """How many more jobs of this key may start now.

    Rates follow the generic cell rate algorithm (ITU-T I.371, virtual scheduling): with the
    interval T between starts, k more may start when the theoretical arrival time does not go
    beyond now + burst * T.
    """
    if isinstance(limit, Slots):
        return max(0, limit.n - key.used)
    if isinstance(limit, Rate):
        ahead_ms = max(0.0, key.tat_ms - now_ms)
        return max(0, math.floor(limit.burst - ahead_ms * limit.n / limit.period_ms + 1e-6))
    if key.failures < limit.failures:
        return UNBOUNDED
    return max(0, 1 - key.used) if now_ms >= key.open_until_ms else 0


def take(limit: Limit, key: KeyState, now_ms: int, n: int = 1) -> None:
    """So many jobs of this key start; there must be room."""
    if isinstance(limit, Slots):
        key.used += n
    elif isinstance(limit, Rate):
        key.tat_ms = max(key.tat_ms, float(now_ms)) + n * limit.period_ms / limit.n
    elif key.failures >= limit.failures:
        key.used += n


def give_back(limit: Limit, key: KeyState, end: End, now_ms: int, n: int = 1) -> bool:
    """So many runs of this key have ended in the same way; whether that changes anything.

    A token of a rate is spent and does not come back.
    """
    if isinstance(limit, Slots):
        key.used = max(0, key.used - n)
        return True
    if isinstance(limit, Rate) or (end is not End.FAILURE and not key.failures):
        return False
    for _ in range(n):
        _note(limit, key, end, now_ms)
    return True


def _note(limit: Breaker, key: KeyState, end: End, now_ms: int) -> None:
    is_open = key.failures >= limit.failures
    if is_open and now_ms < key.open_until_ms:
        return  # one that began before it opened
    key.used = max(0, key.used - 1)
    if end is End.SUCCESS:
        key.failures = key.used = 0
    elif end is End.FAILURE:
        key.failures += 1
        if key.failures >= limit.failures:
            key.used = 0
            key.open_until_ms = now_ms + limit.cooldown_ms


def opens_at_ms(limit: Limit, key: KeyState) -> int | None:
    """When there is room again by time alone; None when only the end of a run makes room."""
    if isinstance(limit, Rate):
        return math.ceil(key.tat_ms - (limit.burst - 1) * limit.period_ms / limit.n)
    if isinstance(limit, Breaker) and key.failures >= limit.failures and not key.used:
        return key.open_until_ms
    return None


def is_idle(limit: Limit, key: KeyState, now_ms: int) -> bool:
    """Whether the state can be forgotten: it says no more than an empty one would."""
    return (
        not key.used
        and not key.parked
        and not key.failures
        and (not isinstance(limit, Rate) or key.tat_ms <= now_ms)
    )
