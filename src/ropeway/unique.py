"""Unique jobs: which calls count as the same job, for how long, and what a second one gets."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from hashlib import blake2b
from typing import cast, get_args

from ropeway.codec import canonical
from ropeway.duration import to_ms
from ropeway.errors import ConfigError
from ropeway.job import FINAL, UNFINISHED, WAITING, OnConflict, State, UniqueKey

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
    - `per`: instead of `window`, until the end of the hour, day, ... (any duration, counted from
      1970 in UTC) that the enqueue falls in.
    - `max_wait`: with `"replace"`, how long after the first enqueue the job starts at the latest,
      however often it is replaced and delayed anew.

    `Unique.debounce`, `Unique.throttle` and `Unique.once` name the usual combinations.

    Raises `ConfigError` for values outside these rules.
    """

    by: Sequence[str] | None = None
    window: float | timedelta | None = None
    during: Collection[str] = UNFINISHED
    on_conflict: OnConflict = "return"
    release_on_failure: bool = True
    per: float | timedelta | None = None
    max_wait: float | timedelta | None = None

    @classmethod
    def debounce(
        cls, *, by: Sequence[str] | None = (), max_wait: float | timedelta | None = None
    ) -> "Unique":
        """The last call wins: it replaces the waiting job, whose delay begins anew.

        For tasks that are enqueued with a delay: `save.opts(delay=2)`. `max_wait` bounds how long
        a steady stream of calls can put the job off. Once the job runs, the next call waits by
        itself. By default calls of the task are one whatever their arguments (`by`).
        """
        return cls(by=by, during=WAITING, on_conflict="replace", max_wait=max_wait)

    @classmethod
    def throttle(cls, window: float | timedelta, *, by: Sequence[str] | None = None) -> "Unique":
        """The first call wins: others within `window` after it get its job."""
        return cls(by=by, during=(), window=window, release_on_failure=False)

    @classmethod
    def once(cls, per: float | timedelta, *, by: Sequence[str] | None = None) -> "Unique":
        """One job in each period of this length, counted from 1970 in UTC: once a day, an hour."""
        return cls(by=by, during=(), per=per, release_on_failure=False)

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
        if self.per is not None:
            to_ms(self.per, name="per", minimum_ms=1)
            if self.window is not None:
                raise ConfigError(
                    f"window={self.window!r} and per={self.per!r}: give one of the two"
                )
        if self.max_wait is not None:
            to_ms(self.max_wait, name="max_wait", minimum_ms=1)
            if self.on_conflict != "replace":
                raise ConfigError(
                    f"max_wait={self.max_wait!r} needs on_conflict='replace': nothing else delays "
                    "a job anew"
                )
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
            period_ms=0 if self.per is None else to_ms(self.per, name="per"),
            delay_max_ms=(None if self.max_wait is None else to_ms(self.max_wait, name="max_wait")),
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
        if not names and self.window is None and self.per is None:
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
