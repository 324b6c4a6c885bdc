"""Cron expressions: when is the next tick? Pure; the scheduler turns ticks into jobs.

Fields: `[second] minute hour day-of-month month day-of-week`, five or six of them.

    *  ?          any value (`?` in the two day fields only)
    1,5  1-5      list, range           */15  5-50/10  10/15     step (`10/15` = from 10 on)
    JAN MON-FRI   names, any case       0 and 7 are both Sunday
    L  L-3  LW    last day of the month, three days before it, last Monday-to-Friday of it
    15W           the Monday-to-Friday nearest to the 15th, never in another month
    5L  FRI#2     last Friday of the month, second Friday
    @hourly @daily @midnight @weekly @monthly @yearly @annually, @every 1h30m (d h m s)
    CRON_TZ=Europe/Berlin 0 9 * * *     the zone inside the expression (also TZ=)

Day of month and day of week follow Vixie cron: when neither field begins with `*` (or is `?`) a
day that matches either one counts, else it must match both.

Daylight saving follows Vixie cron too (cron(8), "Daylight Saving Time and other time changes"):

- *Fixed* times, no time field beginning with `*`, run exactly once a day. A time that the clock
  skips runs at the first instant after the gap; a time that comes twice runs the first time.
- *Wildcard* times (`*/15 * * * *`, `0 * * * *`) run whenever the wall clock shows a match: not
  in a gap, and in both passes of a repeated hour, so that they stay evenly spaced.

`@every` counts elapsed time in multiples since the Unix epoch, in any zone, so that every process
computes the same ticks.
"""

import re
from bisect import bisect_left
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Literal, get_args
from zoneinfo import ZoneInfo

from ropeway.cron_fields import YEAR_MAX, CronFields, parse
from ropeway.errors import ConfigError

Missed = Literal["run_once", "skip", "run_all"]
"""What to do with ticks that passed while no scheduler ran."""

Overlap = Literal["allow", "skip"]
"""Whether a tick runs while the job of the tick before it has not ended."""

EXPRESSION_LENGTH_MAX = 1000

_DAY_S = 86_400
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATEST_S = (date(YEAR_MAX, 12, 30) - _EPOCH.date()).days * _DAY_S
_EARLIEST_MS = -(70 * 366) * _DAY_S * 1000
_EVERY_MAX_S = 100 * 366 * _DAY_S
_UNIT_S = {"d": _DAY_S, "h": 3600, "m": 60, "s": 1}


@dataclass(frozen=True, slots=True)
class Cron:
    """A schedule: an expression, its zone, and what happens to late and overlapping ticks.

    An immutable value, checked when it is made. The syntax, and what happens when clocks change,
    is described at the top of this module.

    Args:
        expr: the expression, or an alias.
        tz: an IANA zone; a `CRON_TZ=` in the expression says the same and must not contradict.
        missed: ticks that passed while no scheduler ran: "run_once" makes one job for all of
            them, "skip" none, "run_all" one each.
        overlap: "skip" drops a tick while the job of the tick before it has not ended.

    Raises:
        ConfigError: a field is wrong (the message names it, its value and what is allowed), no
            date can ever match (30 February), the zone is unknown, an option is unknown.

    Guarantees:
        Ticks are whole seconds, strictly increasing, and depend on nothing but the expression
        and the zone's rules: every process computes the same ones.

    """

    expr: str
    tz: str = field(default="UTC", kw_only=True)
    missed: Missed = field(default="run_once", kw_only=True)
    overlap: Overlap = field(default="allow", kw_only=True)
    _zone: tzinfo = field(init=False, repr=False, compare=False)
    _fields: CronFields | None = field(init=False, repr=False, compare=False)
    _every_s: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_option("missed", self.missed, get_args(Missed))
        _check_option("overlap", self.overlap, get_args(Overlap))
        if not isinstance(self.expr, str) or not isinstance(self.tz, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConfigError(f"Cron({self.expr!r}, tz={self.tz!r}): both must be str")
        if len(self.expr) > EXPRESSION_LENGTH_MAX:
            raise ConfigError(
                f"cron expression {self.expr[:60]!r}… has {len(self.expr)} characters:"
                f" at most {EXPRESSION_LENGTH_MAX} are allowed"
            )
        try:
            inner_tz, body = _split_zone(self.expr)
            if inner_tz and self.tz not in {"UTC", inner_tz}:
                raise ConfigError(f"tz={self.tz!r} contradicts {inner_tz!r}; name one zone")  # noqa: TRY301
            every_s = _parse_every(body)
            fields = None if every_s else parse(body)
        except ConfigError as error:
            raise ConfigError(f"cron expression {self.expr!r}: {error}") from None
        object.__setattr__(self, "tz", inner_tz or self.tz)
        object.__setattr__(self, "_zone", _zone(self.tz))
        object.__setattr__(self, "_every_s", every_s)
        object.__setattr__(self, "_fields", fields)

    def next_after_ms(self, after_ms: int) -> int | None:
        """Return the first tick strictly after a moment.

        Args:
            after_ms: milliseconds since the Unix epoch, from the year 1900 on.

        Returns:
            Milliseconds since the Unix epoch, or None when there is none before the
            last days of the year 9998.

        Raises:
            ConfigError: `after_ms` is before 1900.

        """
        if after_ms < _EARLIEST_MS:
            raise ConfigError(f"after_ms={after_ms!r}: moments before the year 1900 have no ticks")
        after_s = after_ms // 1000
        if after_s >= _LATEST_S:
            return None
        if self._fields is None:
            found = (after_s // self._every_s + 1) * self._every_s
        elif self._fields.wildcard:
            found = self._next_wildcard(self._fields, after_s)
        else:
            found = self._next_fixed(self._fields, after_s)
        return None if found is None or found > _LATEST_S else found * 1000

    def ticks(self, after_ms: int, until_ms: int, *, limit: int) -> list[int]:
        """Return the ticks after `after_ms` up to and including `until_ms`, the earliest `limit`.

        Raises:
            ConfigError: `limit` is below 1, or `after_ms` is before 1900.

        """
        if limit < 1:
            raise ConfigError(f"limit={limit!r}: give a whole number of at least 1")
        found: list[int] = []
        tick_ms = self.next_after_ms(after_ms)
        while tick_ms is not None and tick_ms <= until_ms and len(found) < limit:
            found.append(tick_ms)
            tick_ms = self.next_after_ms(tick_ms)
        return found

    def _next_fixed(self, fields: CronFields, after_s: int) -> int | None:
        wall_s = fields.after(after_s + self._offset_s(after_s))
        # In the second pass of a repeated hour the walls ahead may already have had their turn.
        while wall_s is not None:
            if (instant_s := self._instant_s(wall_s)) > after_s:
                return instant_s
            wall_s = fields.after(wall_s)
        return None

    def _next_wildcard(self, fields: CronFields, after_s: int) -> int | None:
        """Search wall time under one offset at a time, restarting at each change of offset."""
        now_s, offset_s = after_s, self._offset_s(after_s)
        while True:
            wall_s = fields.after(now_s + offset_s)
            if wall_s is None:
                return None
            candidate_s = wall_s - offset_s
            change_s = self._change_s(now_s, min(candidate_s, now_s + 2 * _DAY_S), offset_s)
            if change_s is not None:
                now_s, offset_s = change_s - 1, self._offset_s(change_s)
            elif candidate_s <= now_s + 2 * _DAY_S:
                return candidate_s
            else:
                # No wall time in between matches, under any offset: go close and look there.
                now_s = max(now_s + _DAY_S, candidate_s - 3 * _DAY_S // 2)
                offset_s = self._offset_s(now_s)

    def _instant_s(self, wall_s: int) -> int:
        """Return the first instant at which the wall clock shows `wall_s`, or leaps over it."""
        wall = _EPOCH + timedelta(seconds=wall_s)
        early = wall.replace(tzinfo=self._zone, fold=0)
        instant_s = wall_s - _seconds(early.utcoffset())
        if self._offset_s(instant_s) == wall_s - instant_s:
            return instant_s
        before_gap_s = wall_s - _seconds(early.replace(fold=1).utcoffset())
        change_s = self._change_s(before_gap_s, instant_s, wall_s - instant_s)
        return instant_s if change_s is None else change_s

    def _offset_s(self, instant_s: int) -> int:
        moment = _EPOCH + timedelta(seconds=instant_s)
        return _seconds(moment.astimezone(self._zone).utcoffset())

    def _change_s(self, low_s: int, high_s: int, offset_s: int) -> int | None:
        """Return the first second in (low, high] at another offset than `offset_s`.

        Looks every 12 hours, then bisects; no zone changes twice within 12 hours.
        """
        while low_s < high_s:
            probe_s = min(low_s + _DAY_S // 2, high_s)
            if self._offset_s(probe_s) != offset_s:
                inside = range(low_s + 1, probe_s)
                return inside.start + bisect_left(
                    inside, 1, key=lambda second: self._offset_s(second) != offset_s
                )
            low_s = probe_s
        return None


def _seconds(offset: timedelta | None) -> int:
    return 0 if offset is None else offset // timedelta(seconds=1)


def _check_option(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name}={value!r}: give one of {', '.join(map(repr, allowed))}")


def _zone(name: str) -> tzinfo:
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError):
        raise ConfigError(
            f"tz={name!r} is not a known time zone: give an IANA name such as 'Europe/Berlin'"
            " (systems without a zone database need the package tzdata)"
        ) from None


def _split_zone(expr: str) -> tuple[str, str]:
    match = re.match(r"\s*(?:CRON_TZ|TZ)=(\S*)\s*(.*)", expr, re.DOTALL)
    if match is None:
        return "", expr.strip()
    if not match[1]:
        raise ConfigError("the zone after CRON_TZ= is empty")
    return match[1], match[2].strip()


def _parse_every(body: str) -> int:
    """Return the period of `@every 1h30m` in seconds, or 0 for any other expression."""
    head, _, text = body.partition(" ")
    if head.lower() != "@every":
        return 0
    text = text.strip()
    parts = re.findall(r"([0-9]{1,12})([dhms])", text)
    if not parts or "".join(n + unit for n, unit in parts) != text:
        raise ConfigError(f"@every {text!r}: give a period such as 90s, 5m, 1h30m or 2d")
    period_s = sum(int(n) * _UNIT_S[unit] for n, unit in parts)
    if not 1 <= period_s <= _EVERY_MAX_S:
        raise ConfigError(f"@every {text!r}: the period must be from 1 second to 100 years")
    return period_s
