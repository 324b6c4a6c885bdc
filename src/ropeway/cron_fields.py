"""The fields of a cron expression: text → which wall-clock seconds match, whatever the zone.

The syntax is described in `cron.py`; zones and changes of the clock are its business too.
"""

import re
from bisect import bisect_left
from calendar import monthrange
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache

from ropeway.errors import ConfigError

LIST_LENGTH_MAX = 100
YEAR_MAX = 9998

_DAY_S = 86_400
_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()
_ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


@dataclass(frozen=True, slots=True)
class _Field:
    title: str
    low: int
    high: int
    names: Mapping[str, int] = field(default_factory=dict[str, int])

    @property
    def allowed(self) -> str:
        names = f" or {'-'.join((*self.names,)[:: len(self.names) - 1])}" if self.names else ""
        return f"{self.low}-{self.high}{names}"


_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_SATURDAY = 6
_SECOND = _Field("second", 0, 59)
_MINUTE = _Field("minute", 0, 59)
_HOUR = _Field("hour", 0, 23)
_DAY = _Field("day of month", 1, 31)
_MONTH = _Field("month", 1, 12, {name: n for n, name in enumerate(_MONTHS, 1)})
_WEEKDAY = _Field("day of week", 0, 7, {name: n for n, name in enumerate(_WEEKDAYS)})


@dataclass(frozen=True, slots=True)
class _Days:
    """The two day fields: which days of a given month match."""

    days: frozenset[int]
    before_last: frozenset[int]  # L = 0, L-3 = 3
    nearest: frozenset[int]  # 15W = 15
    last_workday: bool  # LW
    weekdays: frozenset[int]  # Sunday = 0
    last_weekdays: frozenset[int]  # 5L = 5
    nth_weekdays: frozenset[tuple[int, int]]  # FRI#2 = (5, 2)
    either: bool

    def matches(self, day: int, *, length: int, first_weekday: int) -> bool:
        """Say whether `day` of a month of `length` days that begins on `first_weekday` counts."""
        weekday = (first_weekday + day - 1) % 7
        by_weekday = (
            weekday in self.weekdays
            or (weekday in self.last_weekdays and day + 7 > length)
            or (weekday, (day + 6) // 7) in self.nth_weekdays
        )
        by_day = (
            day in self.days
            or length - day in self.before_last
            or (self.last_workday and day == _nearest_workday(length, length, first_weekday))
            or any(day == _nearest_workday(n, length, first_weekday) for n in self.nearest)
        )
        return by_day or by_weekday if self.either else by_day and by_weekday


@dataclass(frozen=True, slots=True)
class CronFields:
    """A parsed expression: which wall-clock seconds match, whatever the zone."""

    seconds: tuple[int, ...]
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    months: tuple[int, ...]
    days: _Days
    wildcard: bool

    def is_possible(self) -> bool:
        """Say whether any date matches: 28 years hold each of the 14 possible calendars."""
        return any(
            _matching_days(self.days, *_month_shape(year, month))
            for year in range(2000, 2028)
            for month in self.months
        )

    def after(self, wall_s: int) -> int | None:
        """Return the first matching wall-clock second after `wall_s`, or None after year 9998."""
        days, second = divmod(wall_s + 1, _DAY_S)
        for ordinal in self._dates_from(days + _EPOCH_ORDINAL):
            start = second if ordinal == days + _EPOCH_ORDINAL else 0
            found = self._time_from(start)
            if found is not None:
                return (ordinal - _EPOCH_ORDINAL) * _DAY_S + found
        return None

    def _dates_from(self, ordinal: int) -> Iterator[int]:
        start = date.fromordinal(ordinal)
        for year in range(start.year, YEAR_MAX + 1):
            for month in self.months:
                if (year, month) < (start.year, start.month):
                    continue
                first = date(year, month, 1).toordinal()
                for day in _matching_days(self.days, *_month_shape(year, month)):
                    if first + day - 1 >= ordinal:
                        yield first + day - 1

    def _time_from(self, second_of_day: int) -> int | None:
        """Return the first matching second of a day from `second_of_day` on, by jumps."""
        minute_of_day, second = divmod(second_of_day, 60)
        hour, minute = divmod(minute_of_day, 60)
        if hour in self.hours:
            if minute in self.minutes and (found := _from(self.seconds, second)) is not None:
                return hour * 3600 + minute * 60 + found
            if (found := _from(self.minutes, minute + 1)) is not None:
                return hour * 3600 + found * 60 + self.seconds[0]
        if (found := _from(self.hours, hour + 1)) is not None:
            return found * 3600 + self.minutes[0] * 60 + self.seconds[0]
        return None


def parse(body: str) -> CronFields:
    """Read five or six fields, or an alias such as `@daily`.

    Raises:
        ConfigError: naming the field, its value and what is allowed; or no date ever matches.

    """
    if body.startswith("@"):
        if body.lower() not in _ALIASES:
            raise ConfigError(f"{body!r} is none of {', '.join(_ALIASES)}, @every PERIOD")
        body = _ALIASES[body.lower()]
    texts = body.split()
    if len(texts) not in {5, 6}:
        raise ConfigError(
            f"{len(texts)} fields: give 5 (minute hour day month weekday) or 6 (second first)"
        )
    second, minute, hour, day, month, weekday = texts if len(texts) == 6 else ["0", *texts]
    fields = CronFields(
        seconds=_parse_numbers(_SECOND, second),
        minutes=_parse_numbers(_MINUTE, minute),
        hours=_parse_numbers(_HOUR, hour),
        months=_parse_numbers(_MONTH, month),
        days=_parse_days(day, weekday),
        wildcard=any(text.startswith("*") for text in (second, minute, hour)),
    )
    if not fields.is_possible():
        raise ConfigError(
            f"no date ever matches: day of month {day!r}, month {month!r}, day of week {weekday!r}"
        )
    return fields


def _parse_numbers(spec: _Field, text: str) -> tuple[int, ...]:
    return tuple(sorted({n for item in _items(spec, text) for n in _parse_item(spec, item)}))


def _parse_days(day_text: str, weekday_text: str) -> _Days:
    days: set[int] = set()
    before_last: set[int] = set()
    nearest: set[int] = set()
    last_workday = False
    for item in _items(_DAY, day_text):
        if item.upper() == "LW":
            last_workday = True
        elif match := re.fullmatch(r"[Ll](?:-([0-9]{1,2}))?", item):
            before_last.add(_number(_DAY, match[1], item) if match[1] else 0)
        elif match := re.fullmatch(r"([0-9]{1,2})[Ww]", item):
            nearest.add(_number(_DAY, match[1], item))
        else:
            days |= _parse_item(_DAY, item)
    weekdays: set[int] = set()
    last_weekdays: set[int] = set()
    nth_weekdays: set[tuple[int, int]] = set()
    for item in _items(_WEEKDAY, weekday_text):
        if match := re.fullmatch(r"([0-7]|[A-Za-z]{3})[Ll]", item):
            last_weekdays.add(_number(_WEEKDAY, match[1], item) % 7)
        elif match := re.fullmatch(r"([0-9A-Za-z]+)#([1-5])", item):
            nth_weekdays.add((_number(_WEEKDAY, match[1], item) % 7, int(match[2])))
        else:
            weekdays |= {day % 7 for day in _parse_item(_WEEKDAY, item)}
    return _Days(
        days=frozenset(days),
        before_last=frozenset(before_last),
        nearest=frozenset(nearest),
        last_workday=last_workday,
        weekdays=frozenset(weekdays),
        last_weekdays=frozenset(last_weekdays),
        nth_weekdays=frozenset(nth_weekdays),
        either=day_text[0] not in "*?" and weekday_text[0] not in "*?",
    )


def _items(spec: _Field, text: str) -> list[str]:
    items = text.split(",")
    if len(items) > LIST_LENGTH_MAX:
        raise ConfigError(
            f"{spec.title} has a list of {len(items)} items: at most {LIST_LENGTH_MAX} are allowed"
        )
    return items


def _parse_item(spec: _Field, item: str) -> set[int]:
    """Read `*`, `5`, `1-5`, `MON-FRI`, each with or without `/step`."""
    span, slash, step_text = item.partition("/")
    first_text, dash, last_text = span.partition("-")
    # 7 is Sunday again: an open end stops at Saturday, or `1/2` would catch Sunday through it.
    last_open = _SATURDAY if spec is _WEEKDAY else spec.high
    if span == "*" or (item == "?" and spec in (_DAY, _WEEKDAY)):
        first, last = spec.low, last_open
    else:
        first = last = _number(spec, first_text, item)
        if dash:
            last = _number(spec, last_text, item)
        elif slash:
            last = max(first, last_open)
    if spec is _WEEKDAY and last == 0 and dash:
        last = 7
    if last < first:
        raise ConfigError(f"{spec.title} {item!r}: the range runs backwards; write two ranges")
    step = 1
    if slash:
        if not re.fullmatch(r"[0-9]{1,4}", step_text) or not 1 <= int(step_text) <= spec.high:
            raise ConfigError(
                f"{spec.title} {item!r}: a step must be from 1 to {spec.high}"
                " (for other periods use @every)"
            )
        step = int(step_text)
    return set(range(first, last + 1, step))


def _number(spec: _Field, text: str, item: str) -> int:
    value = spec.names.get(text.upper())
    if value is None and re.fullmatch(r"[0-9]{1,4}", text):
        value = int(text)
    if value is None or not spec.low <= value <= spec.high:
        raise ConfigError(f"{spec.title} {item!r}: {text!r} is not in {spec.allowed}")
    return value


def _from(values: tuple[int, ...], least: int) -> int | None:
    """Return the first of the sorted values that is at least `least`."""
    index = bisect_left(values, least)
    return values[index] if index < len(values) else None


def _month_shape(year: int, month: int) -> tuple[int, int]:
    first_weekday, length = monthrange(year, month)
    return length, (first_weekday + 1) % 7


@lru_cache(maxsize=1024)
def _matching_days(days: _Days, length: int, first_weekday: int) -> tuple[int, ...]:
    return tuple(
        day
        for day in range(1, length + 1)
        if days.matches(day, length=length, first_weekday=first_weekday)
    )


def _nearest_workday(day: int, length: int, first_weekday: int) -> int | None:
    """Return the Monday-to-Friday nearest to a day, in the same month; None if no such day."""
    if day > length:
        return None
    weekday = (first_weekday + day - 1) % 7
    if weekday == _SATURDAY:
        return day - 1 if day > 1 else day + 2
    if weekday == 0:
        return day + 1 if day < length else day - 2
    return day
