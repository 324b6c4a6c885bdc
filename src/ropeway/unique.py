"""Unique jobs: which calls count as the same job, for how long, and what a second one gets."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from hashlib import blake2b
from typing import cast, get_args

from ropeway.codec import canonical
from ropeway.duration import to_ms
from ropeway.errors import ConfigError
from ropeway.job import FINAL, UNFINISHED, OnConflict, State, UniqueKey

_KEY_BYTES = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Unique:
    """At most one job with the same arguments at a time, within one queue.

    The key is held while its job is in one of the `during` states, and in any case until
    `window` after the enqueue. It is never released before the job leaves the `during` states.

    - `by`: the names of the arguments that make calls the same. `None`: all of them; empty:
      none, so that the task itself is unique. Arguments left out count with their defaults.
    - `window`: seconds or a timedelta, at least 1 ms; `None`: only the `during` states count.
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
    during: Collection[str] = UNFINISHED
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
        object.__setattr__(self, "during", self._checked_states())
        if self.window is not None:
            to_ms(self.window, name="window", minimum_ms=1)
        if self.on_conflict not in get_args(OnConflict):
            allowed = ", ".join(map(repr, get_args(OnConflict)))
            raise ConfigError(f"on_conflict={self.on_conflict!r} is unknown; use one of {allowed}")

    def key_of(self, task: str, values: Mapping[str, object]) -> UniqueKey:
        """Return what a job of `task` with these arguments has to hold; see `unique_key`."""
        return UniqueKey(
            key=unique_key(task, values, self.by),
            during=cast(frozenset[State], self.during),
            window_ms=0 if self.window is None else to_ms(self.window, name="window"),
            on_conflict=self.on_conflict,
            release_on_failure=self.release_on_failure,
        )

    def check_against(self, names: Collection[str], *, task: str = "the task") -> None:
        """Raise `ConfigError` when `by` names a parameter that is not among `names`."""
        for name in self.by or ():
            if name not in names:
                known = ", ".join(names) or "none"
                raise ConfigError(f"{task}: unique by {name!r}, but its parameters are: {known}")

    def _checked_states(self) -> frozenset[State]:
        given = cast(object, self.during)
        if isinstance(given, str) or not isinstance(given, Collection):
            raise ConfigError(f"during={given!r} must be a set of states; write {{{given!r}}}")
        names = frozenset(self.during)
        if final := sorted(names & FINAL):
            raise ConfigError(
                f"during: {str(final[0])!r} is a final state and cannot hold a key; to stay "
                "unique after the end, set window"
            )
        if unknown := sorted(names - UNFINISHED):
            known = ", ".join(sorted(UNFINISHED))
            raise ConfigError(f"during: {unknown[0]!r} is no state; use {known}")
        if not names and self.window is None:
            raise ConfigError(
                "during is empty and there is no window: the key would never be held; set one"
            )
        return frozenset(State(name) for name in names)


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
