"""Unique jobs: which calls count as the same job, for how long, and what a second one gets."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from hashlib import blake2b
from typing import Literal, cast, get_args

from ropeway.codec import canonical
from ropeway.errors import ConfigError

OnConflict = Literal["return", "reject", "replace"]

UNFINISHED = frozenset({"pending", "scheduled", "available", "running", "retryable"})
"""The states in which a unique key can be held."""

_FINISHED = frozenset({"completed", "dead", "cancelled"})
_KEY_BYTES = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Unique:
    """At most one job with the same arguments at a time, within one queue.

    The key is held while its job is in one of the `during` states, and in any case until
    `window` after the enqueue. It is never released before the job leaves the `during` states.

    - `by`: the names of the arguments that make calls the same. `None`: all of them; empty:
      none, so that the task itself is unique. Arguments left out count with their defaults.
    - `window`: seconds or a timedelta; `None`: only the `during` states count.
    - `during`: unfinished states; by default all of them. Empty: only `window` counts.
    - `on_conflict`: what an enqueue gets while the key is held. `"return"`: the job that holds
      it; `"reject"`: `Duplicate` is raised; `"replace"`: the new job takes the place of the
      one that holds the key.
    - `release_on_failure`: give up what is left of `window` when the job ends dead or
      cancelled, so that it can be enqueued again at once.

    Raises `ConfigError` for values outside these rules.
    """

    by: Sequence[str] | None = None
    window: float | timedelta | None = None
    during: frozenset[str] = UNFINISHED
    on_conflict: OnConflict = "return"
    release_on_failure: bool = True

    def __post_init__(self) -> None:
        """Check every field, and freeze the collections."""
        if isinstance(self.by, str):
            raise ConfigError(
                f"by={self.by!r} must be a list of argument names; write by=[{self.by!r}]"
            )
        if self.by is not None:
            object.__setattr__(self, "by", tuple(self.by))
        during = cast(object, self.during)
        if isinstance(during, str) or not isinstance(during, Collection):
            raise ConfigError(f"during={during!r} must be a set of states; write {{{during!r}}}")
        object.__setattr__(self, "during", frozenset(self.during))
        self._check_during(self.during)
        if self.window is not None:
            _check_window(self.window)
        if self.on_conflict not in get_args(OnConflict):
            allowed = ", ".join(map(repr, get_args(OnConflict)))
            raise ConfigError(f"on_conflict={self.on_conflict!r} is unknown; use one of {allowed}")

    @property
    def window_ms(self) -> int | None:
        """The window in milliseconds, at least 1; None without one."""
        if self.window is None:
            return None
        return max(1, round(_seconds(self.window) * 1000))

    def check_against(self, names: Collection[str], *, task: str = "the task") -> None:
        """Raise `ConfigError` when `by` names a parameter that is not among `names`."""
        for name in self.by or ():
            if name not in names:
                known = ", ".join(names) or "none"
                raise ConfigError(f"{task}: unique by {name!r}, but its parameters are: {known}")

    def _check_during(self, during: frozenset[str]) -> None:
        if finished := sorted(during & _FINISHED):
            raise ConfigError(
                f"during: {finished[0]!r} is a final state and cannot hold a key; to stay unique "
                "after the end, set window"
            )
        if unknown := sorted(during - UNFINISHED):
            raise ConfigError(
                f"during: {unknown[0]!r} is no state; use {', '.join(sorted(UNFINISHED))}"
            )
        if not during and self.window is None:
            raise ConfigError(
                "during is empty and there is no window: the key would never be held; set one"
            )


def unique_key(task: str, values: Mapping[str, object], by: Sequence[str] | None = None) -> str:
    """Return the key of a call of `task` with these arguments: `"task:32 hex digits"`.

    Equal in every process, Python version and order of the arguments: BLAKE2b (RFC 7693) with
    16 bytes over canonical JSON. `values` are all arguments with their defaults, as
    `Parameters.values` gives them; `by` picks some of them (`None`: all).

    Raises `ConfigError` when `by` names none of the values, `CodecError` when one has no JSON
    form.
    """
    if by is None:
        chosen = dict(values)
    else:
        try:
            chosen = {name: values[name] for name in by}
        except KeyError as error:
            known = ", ".join(values) or "none"
            raise ConfigError(
                f"{task}: unique by {error.args[0]!r}, but its arguments are: {known}"
            ) from None
    data = canonical(chosen, what=f"unique key of {task}")
    return f"{task}:{blake2b(data, digest_size=_KEY_BYTES).hexdigest()}"


def _seconds(window: float | timedelta) -> float:
    return window.total_seconds() if isinstance(window, timedelta) else window


def _check_window(window: float | timedelta) -> None:
    seconds = _seconds(window)
    if not (math.isfinite(seconds) and seconds > 0):
        raise ConfigError(f"window={window!r} must be a positive number of seconds or a timedelta")
