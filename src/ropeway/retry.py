"""When a failed run is tried again: delay curves (`Backoff`) and what to retry (`RetryPolicy`).

Pure: randomness and the attempt are given, and nothing is read from the clock. The worker asks
`RetryPolicy.decide`, so a curve is the same on every broker.

Guarantees: every delay is bounded by its curve's cap, for any attempt; a retry that costs no
attempt waits at least one second unless the handler named a delay, so that it cannot spin.
"""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from random import Random
from types import MappingProxyType
from typing import Literal

from ropeway.duration import to_ms
from ropeway.errors import ConfigError
from ropeway.verdict import Bury, Cancel, Retry, Snooze, Verdict

CAP_DEFAULT_S = 24 * 3600
"""The bound of every curve that names none: one day."""

UNCOUNTED_DELAY_MIN_MS = 1000
"""The shortest wait before a retry that costs no attempt and names no delay."""

ATTEMPTS_DEFAULT = 8
"""The library's own default. With its backoff: 7 retries within about 2 minutes."""

ATTEMPTS_SPENT = "attempts spent"
"""The reason of a job that failed on its last attempt."""

_POLYNOMIAL_OFFSET_MS = 15_000
_POLYNOMIAL_SPREAD_S = 29

DelayFunction = Callable[[int, BaseException | None], float | timedelta]
"""A delay by (attempt, error): seconds or a `timedelta`. The attempt counts from 1."""

ErrorType = type[BaseException]


@dataclass(frozen=True, slots=True, repr=False)
class Backoff:
    """How long to wait after the n-th attempt. An immutable value; build it by its constructors.

    `jitter=True` means full jitter: a uniform draw between zero and the curve's delay, which
    spreads retries best when many jobs fail together (AWS Architecture Blog, "Exponential
    Backoff And Jitter", 2015). Durations are seconds or `timedelta`.
    """

    _curve: Literal["constant", "linear", "exponential", "fibonacci", "polynomial", "custom"]
    _unit_ms: int
    _cap_ms: int
    _jitter: bool
    _factor: float = 1
    _function: DelayFunction | None = None

    @classmethod
    def constant(cls, delay: float | timedelta, *, jitter: bool = False) -> "Backoff":
        """Wait `delay` after every attempt."""
        delay_ms = to_ms(delay, name="Backoff.constant(delay)")
        return cls("constant", delay_ms, delay_ms, jitter)

    @classmethod
    def linear(
        cls,
        step: float | timedelta,
        *,
        cap: float | timedelta = CAP_DEFAULT_S,
        jitter: bool = False,
    ) -> "Backoff":
        """Wait `step`, 2 · `step`, 3 · `step`, … up to `cap`."""
        step_ms = to_ms(step, name="Backoff.linear(step)")
        return cls("linear", step_ms, _cap_ms(cap), jitter)

    @classmethod
    def exponential(
        cls,
        base: float | timedelta = 1,
        *,
        factor: float = 2,
        cap: float | timedelta = CAP_DEFAULT_S,
        jitter: bool = True,
    ) -> "Backoff":
        """Wait `base · factor ** (attempt - 1)` up to `cap`; with full jitter unless told not to.

        Raises:
            ConfigError: a duration is bad, or `factor` is not a finite number of at least 1.

        """
        base_ms = to_ms(base, name="Backoff.exponential(base)")
        if isinstance(factor, bool) or not 1 <= factor < math.inf:
            raise ConfigError(
                f"Backoff.exponential(factor={factor!r}): must be a finite number of at least 1"
            )
        return cls("exponential", base_ms, _cap_ms(cap), jitter, factor)

    @classmethod
    def fibonacci(
        cls,
        unit: float | timedelta = 1,
        *,
        cap: float | timedelta = CAP_DEFAULT_S,
        jitter: bool = False,
    ) -> "Backoff":
        """Wait 1, 1, 2, 3, 5, 8, … times `unit`, up to `cap`."""
        unit_ms = to_ms(unit, name="Backoff.fibonacci(unit)")
        return cls("fibonacci", unit_ms, _cap_ms(cap), jitter)

    @classmethod
    def polynomial(
        cls, *, cap: float | timedelta = CAP_DEFAULT_S, jitter: bool = True
    ) -> "Backoff":
        """Wait `n**4 + 15 + rand(0..29) · (n + 1)` seconds, n = retries already made.

        The curve of Sidekiq ("Error Handling" in its wiki) and of asynq
        (`DefaultRetryDelayFunc`): 15 s, 16 s, 31 s, 96 s, 271 s … and the random part, 25
        retries in about three weeks (give `cap` for delays over a day). `jitter=False` leaves
        the random part out.
        """
        return cls("polynomial", 1000, _cap_ms(cap), jitter)

    @classmethod
    def custom(
        cls,
        function: DelayFunction,
        *,
        cap: float | timedelta = CAP_DEFAULT_S,
        jitter: bool = False,
    ) -> "Backoff":
        """Wait what `function(attempt, error)` returns, in seconds or as a `timedelta`.

        Args:
            function: called in the worker after each failure that is retried; it must not block.
            cap: the longest delay; longer answers are cut to it.
            jitter: True draws uniformly between zero and the answer.

        Raises:
            ConfigError: `function` is not a callable or is a coroutine function.

        """
        if not callable(function) or inspect.iscoroutinefunction(function):
            raise ConfigError(f"Backoff.custom({function!r}): give a plain (not async) function")
        return cls("custom", 0, _cap_ms(cap), jitter, 1, function)

    def delay_ms(self, attempt: int, *, error: BaseException | None = None, random: Random) -> int:
        """Return the wait after attempt number `attempt`, in milliseconds.

        Args:
            attempt: the attempt that has just failed, counted from 1; any size.
            error: what it raised; passed on to a custom function.
            random: the source of the jitter; the same state gives the same delay.

        Returns:
            From 0 to the curve's cap.

        Raises:
            ConfigError: `attempt` is below 1, or a custom function failed or returned a
                negative, NaN, infinite or non-duration value. The message names the function.

        """
        if attempt < 1:
            raise ConfigError(f"attempt={attempt!r}: attempts count from 1")
        match self._curve:
            case "constant":
                exact_ms = self._unit_ms
            case "linear":
                exact_ms = self._unit_ms * attempt
            case "exponential":
                exact_ms = self._exponential_ms(attempt)
            case "fibonacci":
                exact_ms = self._fibonacci_ms(attempt)
            case "polynomial":
                return self._polynomial_ms(attempt, random)
            case "custom":
                exact_ms = self._custom_ms(attempt, error)
        bounded_ms = min(self._cap_ms, exact_ms)
        return random.randint(0, bounded_ms) if self._jitter else bounded_ms

    def __repr__(self) -> str:
        """Describe the curve with its numbers in seconds."""
        head = {
            "exponential": f"{self._unit_ms / 1000:g}, factor={self._factor:g}, ",
            "polynomial": "",
            "custom": f"{_name_of(self._function)}, ",
        }.get(self._curve, f"{self._unit_ms / 1000:g}, ")
        cap = "" if self._curve == "constant" else f"cap={self._cap_ms / 1000:g}, "
        return f"Backoff.{self._curve}({head}{cap}jitter={self._jitter})"

    def _exponential_ms(self, attempt: int) -> int:
        if not 0 < self._unit_ms < self._cap_ms:
            return self._unit_ms
        # In logarithms first: factor ** 10**6 is no float.
        grown = (attempt - 1) * math.log(self._factor)
        if grown >= math.log(self._cap_ms / self._unit_ms):
            return self._cap_ms
        return round(self._unit_ms * self._factor ** (attempt - 1))

    def _fibonacci_ms(self, attempt: int) -> int:
        if self._unit_ms == 0:
            return 0
        now_ms, next_ms = self._unit_ms, self._unit_ms
        for _ in range(attempt - 1):
            if now_ms >= self._cap_ms:
                break
            now_ms, next_ms = next_ms, now_ms + next_ms
        return now_ms

    def _polynomial_ms(self, attempt: int, random: Random) -> int:
        retries = attempt - 1
        draw = random.randint(0, _POLYNOMIAL_SPREAD_S) if self._jitter else 0
        exact_ms = _POLYNOMIAL_OFFSET_MS + (retries**4 + draw * (retries + 1)) * 1000
        return min(self._cap_ms, exact_ms)

    def _custom_ms(self, attempt: int, error: BaseException | None) -> int:
        if self._function is None:
            raise ConfigError("build a custom Backoff by Backoff.custom(function)")
        name = f"backoff function {_name_of(self._function)}, attempt {attempt}: delay"
        try:
            delay = self._function(attempt, error)
        except Exception as failure:
            raise ConfigError(f"{name} could not be computed: {failure!r}") from failure
        if (
            isinstance(delay, (int, float))
            and not isinstance(delay, bool)
            and self._cap_ms / 1000 < delay < math.inf
        ):
            return self._cap_ms
        return to_ms(delay, name=name)


@dataclass(frozen=True, slots=True)
class Rule:
    """What differs for one exception type. None leaves the policy's own setting.

    Attributes:
        attempts: give up at this attempt of the job already. It lowers the limit and never
            raises it; attempts made for other errors count too.
        backoff: the curve after this exception.

    """

    attempts: int | None = None
    backoff: Backoff | None = None

    def __post_init__(self) -> None:
        if self.attempts is not None:
            _check_attempts(self.attempts, name="Rule(attempts)")


@dataclass(frozen=True, slots=True)
class Again:
    """Run the job again after `delay_ms`; `counted=False` gives the attempt back."""

    delay_ms: int
    counted: bool


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The job is dead; `reason` goes into its record."""

    reason: str


Decision = Again | GiveUp | Snooze | Cancel
"""`Snooze` and `Cancel` are decisions already: `decide` returns them as they came."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Which errors are retried, how often and how far apart.

    The default suits calls to other services: 8 attempts, exponential from 1 s to 10 min, full
    jitter. Which list an exception belongs to is decided by its nearest class in the MRO:
    `never=(OSError,), free=(ConnectionError,)` retries a `ConnectionResetError`.

    Attributes:
        attempts: runs of a job, the first included; a job's own `attempt_max` wins.
        backoff: the curve between them.
        never: give up at once.
        free: retry without costing an attempt, at least one second apart.
        only: retry only these (and `free`), give up at once on all others; None: no such list.
        rules: other attempts or another curve by exception type; the nearest class wins.

    Raises:
        ConfigError: a value is out of its range, no exception type, in two contradicting lists,
            or a rule asks for more attempts than the policy.

    """

    attempts: int = ATTEMPTS_DEFAULT
    backoff: Backoff = field(default_factory=lambda: Backoff.exponential(1, cap=600))
    never: tuple[ErrorType, ...] = ()
    free: tuple[ErrorType, ...] = ()
    only: tuple[ErrorType, ...] | None = None
    rules: Mapping[ErrorType, Rule] = field(default_factory=dict[ErrorType, Rule], hash=False)

    def __post_init__(self) -> None:
        _check_attempts(self.attempts, name="attempts")
        if not isinstance(self.backoff, Backoff):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigError(f"backoff={self.backoff!r}: build it by Backoff.exponential(1) etc.")
        for name in ("never", "free", "only"):
            listed: object = getattr(self, name)
            object.__setattr__(self, name, None if listed is None else _error_types(name, listed))
        if not isinstance(self.rules, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigError(f"rules={self.rules!r}: give a mapping of exception class to Rule")
        _error_types("rules", self.rules)
        for kind, rule in self.rules.items():
            if not isinstance(rule, Rule):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise ConfigError(f"rules[{kind.__name__}]={rule!r}: give Rule(attempts, backoff)")
            if rule.attempts is not None and rule.attempts > self.attempts:
                raise ConfigError(
                    f"rules[{kind.__name__}].attempts={rule.attempts}: a rule can only lower the"
                    f" policy's attempts={self.attempts}; raise that one"
                )
        object.__setattr__(self, "rules", MappingProxyType(dict(self.rules)))
        both = set(self.never) & {*self.free, *(self.only or ()), *self.rules}
        if both:
            names = ", ".join(sorted(kind.__name__ for kind in both))
            raise ConfigError(f"never={names}: listed as retried too; remove it from one of them")

    def decide(
        self, error: BaseException, *, attempt: int, attempt_max: int, random: Random
    ) -> Decision:
        """Decide what follows a run that ended in `error`.

        Args:
            error: what the handler raised, or the verdict that it returned.
            attempt: the attempt that has just ended, counted from 1.
            attempt_max: the job's own limit (its task's `attempts` unless it was given one).
            random: the source of the jitter.

        Returns:
            `Again`, `GiveUp`, or the handler's own `Snooze` or `Cancel`.

        Raises:
            ConfigError: see `Backoff.delay_ms`.

        """
        if isinstance(error, (Snooze, Cancel)):
            return error
        if isinstance(error, Bury):
            return GiveUp(error.reason or "buried by the handler")
        rule = self._rule(error)
        counted = error.counted if isinstance(error, Retry) else not isinstance(error, self.free)
        if not isinstance(error, Verdict) and (refusal := self._refusal(error)):
            return GiveUp(refusal)
        limit = attempt_max if rule.attempts is None else min(attempt_max, rule.attempts)
        if counted and attempt >= limit:
            return GiveUp(ATTEMPTS_SPENT)
        if isinstance(error, Retry) and error.after_ms is not None:
            return Again(error.after_ms, counted)
        delay_ms = (rule.backoff or self.backoff).delay_ms(attempt, error=error, random=random)
        return Again(delay_ms if counted else max(delay_ms, UNCOUNTED_DELAY_MIN_MS), counted)

    def _rule(self, error: BaseException) -> Rule:
        if isinstance(error, Verdict) or not self.rules:
            return _NO_RULE
        return next(
            (self.rules[kind] for kind in type(error).__mro__ if kind in self.rules), _NO_RULE
        )

    def _refusal(self, error: BaseException) -> str | None:
        """Return why this error is not retried, or None."""
        listed = {*self.never, *self.free, *(self.only or ()), *self.rules}
        nearest = next((kind for kind in type(error).__mro__ if kind in listed), None)
        if nearest is not None and nearest in self.never:
            return f"never retried: {nearest.__name__}"
        if self.only is not None and not isinstance(error, (*self.only, *self.free)):
            return f"not in the list of retried errors: {type(error).__name__}"
        return None


_NO_RULE = Rule()


def _cap_ms(cap: float | timedelta) -> int:
    return to_ms(cap, name="Backoff(cap)")


def _check_attempts(value: int, *, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigError(f"{name}={value!r}: give a whole number of at least 1 (1 = no retry)")


def _error_types(name: str, listed: object) -> tuple[ErrorType, ...]:
    """Check a list given by a user, who may have written one class or its name instead."""
    if not isinstance(listed, Iterable) or isinstance(listed, str):
        raise ConfigError(f"{name}={listed!r}: give a tuple of exception classes")
    checked: list[ErrorType] = []
    for kind in listed:  # pyright: ignore[reportUnknownVariableType]
        if not isinstance(kind, type) or not issubclass(kind, BaseException):
            raise ConfigError(f"{name}: {kind!r} is not an exception class")
        if issubclass(kind, Verdict):
            raise ConfigError(f"{name}: {kind.__name__} is a verdict, which no list changes")
        checked.append(kind)
    return tuple(checked)


def _name_of(function: DelayFunction | None) -> str:
    name: str = getattr(function, "__qualname__", None) or repr(function)
    return name
