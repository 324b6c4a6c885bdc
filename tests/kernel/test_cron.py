import copy
import pickle
import time
from datetime import UTC, datetime, timedelta
from random import Random
from zoneinfo import ZoneInfo

import pytest
from croniter import croniter

from ropeway.cron import EXPRESSION_LENGTH_MAX, Cron
from ropeway.errors import ConfigError

BERLIN = "Europe/Berlin"
NEW_YORK = "America/New_York"
FAR_MS = 2**53


def ms(text, tz="UTC"):
    """Read a local time; a text with an offset keeps its own."""
    moment = datetime.fromisoformat(text)
    moment = moment if moment.tzinfo else moment.replace(tzinfo=ZoneInfo(tz))
    return int(moment.timestamp() * 1000)


def ticks(expr, after, count, *, tz="UTC"):
    """Return the next ticks in local time with their offset, to the minute."""
    found = Cron(expr, tz=tz).ticks(ms(after, tz), FAR_MS, limit=count)
    return [
        datetime.fromtimestamp(tick / 1000, ZoneInfo(tz)).isoformat(timespec="minutes")
        for tick in found
    ]


def days(expr, after, count):
    return [tick[:10] for tick in ticks(expr, after, count)]


# --- syntax --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expr", "expected"),
    [
        ("* * * * *", ["2026-01-01T00:01", "2026-01-01T00:02"]),
        ("15 * * * *", ["2026-01-01T00:15", "2026-01-01T01:15"]),
        ("*/20 * * * *", ["2026-01-01T00:20", "2026-01-01T00:40", "2026-01-01T01:00"]),
        ("5/25 * * * *", ["2026-01-01T00:05", "2026-01-01T00:30", "2026-01-01T00:55"]),
        ("10-20/5 3 * * *", ["2026-01-01T03:10", "2026-01-01T03:15", "2026-01-01T03:20"]),
        ("0 9,17 * * *", ["2026-01-01T09:00", "2026-01-01T17:00", "2026-01-02T09:00"]),
        ("0 9 * * MON-FRI", ["2026-01-01T09:00", "2026-01-02T09:00", "2026-01-05T09:00"]),
        ("0 9 * * fri-sun", ["2026-01-02T09:00", "2026-01-03T09:00", "2026-01-04T09:00"]),
        ("0 0 * * 7", ["2026-01-04T00:00", "2026-01-11T00:00"]),
        ("0 0 * * 5-7", ["2026-01-02T00:00", "2026-01-03T00:00", "2026-01-04T00:00"]),
        ("0 0 1 JAN,jul ?", ["2026-07-01T00:00", "2027-01-01T00:00"]),
        ("0 0 29 2 *", ["2028-02-29T00:00", "2032-02-29T00:00"]),
        ("@hourly", ["2026-01-01T01:00", "2026-01-01T02:00"]),
        ("@daily", ["2026-01-02T00:00", "2026-01-03T00:00"]),
        ("@midnight", ["2026-01-02T00:00"]),
        ("@weekly", ["2026-01-04T00:00", "2026-01-11T00:00"]),
        ("@Monthly", ["2026-02-01T00:00", "2026-03-01T00:00"]),
        ("@yearly", ["2027-01-01T00:00", "2028-01-01T00:00"]),
        ("@annually", ["2027-01-01T00:00"]),
    ],
)
def test_the_syntax(expr, expected):
    assert ticks(expr, "2026-01-01T00:00", len(expected)) == [f"{t}+00:00" for t in expected]


def test_six_fields_begin_with_the_second():
    cron = Cron("*/20 30 9 * * *")
    start = ms("2026-01-01T09:30:00")
    assert cron.ticks(start - 1, FAR_MS, limit=4) == [
        start,
        start + 20_000,
        start + 40_000,
        start + 24 * 3600 * 1000,
    ]


@pytest.mark.parametrize(
    ("expr", "expected"),
    [
        ("0 0 L * *", ["2026-01-31", "2026-02-28", "2026-03-31"]),
        ("0 0 L-3 * *", ["2026-01-28", "2026-02-25", "2026-03-28"]),
        ("0 0 LW * *", ["2026-01-30", "2026-02-27", "2026-03-31"]),
        ("0 0 1W * *", ["2026-01-01", "2026-02-02", "2026-03-02"]),  # 1 February is a Sunday
        ("0 0 15W * *", ["2026-01-15", "2026-02-16", "2026-03-16"]),
        ("0 0 31W * *", ["2026-01-30", "2026-03-31", "2026-05-29"]),  # 31 May is a Sunday
        ("0 0 * * 5L", ["2026-01-30", "2026-02-27", "2026-03-27"]),
        ("0 0 lw * *", ["2026-01-30", "2026-02-27", "2026-03-31"]),
        ("0 0 15w * *", ["2026-01-15", "2026-02-16", "2026-03-16"]),
        ("0 0 * * fril", ["2026-01-30", "2026-02-27", "2026-03-27"]),
        ("0 0 * * FRIL", ["2026-01-30", "2026-02-27", "2026-03-27"]),
        ("0 0 * * 6L", ["2026-01-31", "2026-02-28", "2026-03-28"]),  # 24 January is not the last
        ("0 0 * * 1/2", ["2026-01-02", "2026-01-05", "2026-01-07"]),  # Sunday is not the 7th here
        ("0 0 * * 7L", ["2026-01-25", "2026-02-22", "2026-03-29"]),
        ("0 0 * * MON#1", ["2026-01-05", "2026-02-02", "2026-03-02"]),
        ("0 0 * * 1#5", ["2026-03-30", "2026-06-29", "2026-08-31"]),
        ("0 0 1,L * *", ["2026-01-31", "2026-02-01", "2026-02-28"]),
        ("0 0 * * MON#1,FRIL", ["2026-01-05", "2026-01-30", "2026-02-02"]),
    ],
)
def test_last_nearest_and_nth_days(expr, expected):
    assert days(expr, "2026-01-01T00:00" if "1W" not in expr else "2025-12-31T00:00", 3) == expected


def test_two_restricted_day_fields_mean_either_and_a_star_means_both():
    assert days("0 0 13 * FRI", "2026-01-01T00:00", 4) == [
        "2026-01-02",
        "2026-01-09",
        "2026-01-13",
        "2026-01-16",
    ]
    assert days("0 0 ? * FRI", "2026-01-01T00:00", 2) == ["2026-01-02", "2026-01-09"]
    # As in Vixie cron a step on the star is a star still: odd days that are Mondays.
    assert days("0 0 */2 * MON", "2026-01-01T00:00", 2) == ["2026-01-05", "2026-01-19"]


def test_every_counts_elapsed_time_from_the_epoch_so_that_all_processes_agree():
    assert Cron("@every 90s").ticks(0, FAR_MS, limit=2) == [90_000, 180_000]
    assert Cron("@every 1h30m").next_after_ms(1) == 5_400_000
    assert Cron("@every 5m", tz=BERLIN).next_after_ms(299_999) == 300_000
    assert Cron("@every 2d").next_after_ms(0) == 172_800_000


def test_the_zone_may_be_in_the_expression():
    cron = Cron("CRON_TZ=Europe/Berlin 0 9 * * *")
    assert cron == Cron("CRON_TZ=Europe/Berlin 0 9 * * *", tz=BERLIN)
    assert cron.tz == BERLIN
    assert cron.next_after_ms(ms("2026-01-01T00:00")) == ms("2026-01-01T08:00")
    assert Cron("TZ=Europe/Berlin @daily").tz == BERLIN


# --- ticks ---------------------------------------------------------------------------------------


def test_a_tick_is_strictly_after_the_moment_given():
    cron = Cron("0 * * * *")
    hour = ms("2026-01-01T01:00")
    assert cron.next_after_ms(hour - 1) == hour
    assert cron.next_after_ms(hour) == hour + 3_600_000
    assert cron.next_after_ms(hour + 1) == hour + 3_600_000


def test_ticks_include_the_end_and_stop_at_the_limit():
    cron = Cron("@every 1m")
    assert cron.ticks(0, 180_000, limit=10) == [60_000, 120_000, 180_000]
    assert cron.ticks(0, 179_999, limit=10) == [60_000, 120_000]
    assert cron.ticks(0, FAR_MS, limit=1) == [60_000]
    assert cron.ticks(5000, 5000, limit=1) == []


@pytest.mark.parametrize("expr", ["0 0 1 1 *", "* * * * *", "@every 1h"])
def test_at_the_end_of_the_calendar_there_is_no_tick(expr):
    assert Cron(expr).next_after_ms(ms("9999-01-01T00:00")) is None
    assert Cron(expr, tz=NEW_YORK).next_after_ms(ms("9998-12-29T23:59") * 1000) is None


def test_moments_before_the_epoch_are_fine():
    assert Cron("0 0 1 1 *").next_after_ms(ms("1960-06-01T00:00")) == ms("1961-01-01T00:00")


# --- clock changes -------------------------------------------------------------------------------
# Europe/Berlin 2026: 29 March 02:00 → 03:00, 25 October 03:00 → 02:00
# America/New_York 2026: 8 March 02:00 → 03:00, 1 November 02:00 → 01:00


@pytest.mark.parametrize(
    ("tz", "expr", "after", "expected"),
    [
        (
            BERLIN,
            "30 2 * * *",
            "2026-03-28T12:00",
            ["2026-03-29T03:00+02:00", "2026-03-30T02:30+02:00"],
        ),
        (
            BERLIN,
            "0 2 * * *",
            "2026-03-28T12:00",
            ["2026-03-29T03:00+02:00", "2026-03-30T02:00+02:00"],
        ),
        (
            BERLIN,
            "0 3 * * *",
            "2026-03-28T12:00",
            ["2026-03-29T03:00+02:00", "2026-03-30T03:00+02:00"],
        ),
        (
            BERLIN,
            "15,45 2 * * *",
            "2026-03-28T12:00",
            ["2026-03-29T03:00+02:00", "2026-03-30T02:15+02:00"],
        ),
        (
            NEW_YORK,
            "30 2 * * *",
            "2026-03-07T12:00",
            ["2026-03-08T03:00-04:00", "2026-03-09T02:30-04:00"],
        ),
        (
            NEW_YORK,
            "59 1 * * *",
            "2026-03-07T12:00",
            ["2026-03-08T01:59-05:00", "2026-03-09T01:59-04:00"],
        ),
        (
            "Australia/Lord_Howe",
            "15 2 * * *",
            "2026-10-03T12:00",
            ["2026-10-04T02:30+11:00", "2026-10-05T02:15+11:00"],
        ),
        (
            "Africa/Cairo",
            "0 0 * * *",
            "2026-04-23T12:00",
            ["2026-04-24T01:00+03:00", "2026-04-25T00:00+03:00"],
        ),
        (
            "Pacific/Apia",
            "0 9 30 12 *",
            "2011-12-29T12:00",
            ["2011-12-31T00:00+14:00", "2012-12-30T09:00+14:00"],
        ),
    ],
)
def test_a_fixed_time_that_the_clock_skips_runs_at_the_end_of_the_gap(tz, expr, after, expected):
    assert ticks(expr, after, len(expected), tz=tz) == expected


@pytest.mark.parametrize(
    ("tz", "expr", "after", "expected"),
    [
        (
            BERLIN,
            "30 2 * * *",
            "2026-10-24T12:00",
            ["2026-10-25T02:30+02:00", "2026-10-26T02:30+01:00"],
        ),
        (
            BERLIN,
            "0 3 * * *",
            "2026-10-24T12:00",
            ["2026-10-25T03:00+01:00", "2026-10-26T03:00+01:00"],
        ),
        (
            NEW_YORK,
            "0,30 1 * * *",
            "2026-10-31T12:00",
            ["2026-11-01T01:00-04:00", "2026-11-01T01:30-04:00", "2026-11-02T01:00-05:00"],
        ),
        # Asked in the middle of the second pass.
        (
            NEW_YORK,
            "30 1,2 * * *",
            "2026-11-01T01:10-05:00",
            ["2026-11-01T02:30-05:00", "2026-11-02T01:30-05:00"],
        ),
    ],
)
def test_a_fixed_time_that_comes_twice_runs_the_first_time_only(tz, expr, after, expected):
    assert ticks(expr, after, len(expected), tz=tz) == expected


@pytest.mark.parametrize(
    ("tz", "expr", "after", "expected"),
    [
        (
            BERLIN,
            "*/30 * * * *",
            "2026-03-29T01:00",
            ["2026-03-29T01:30+01:00", "2026-03-29T03:00+02:00", "2026-03-29T03:30+02:00"],
        ),
        (
            BERLIN,
            "0 * * * *",
            "2026-10-25T01:30",
            ["2026-10-25T02:00+02:00", "2026-10-25T02:00+01:00", "2026-10-25T03:00+01:00"],
        ),
        (
            NEW_YORK,
            "*/30 1 * * *",
            "2026-11-01T00:30",
            [
                "2026-11-01T01:00-04:00",
                "2026-11-01T01:30-04:00",
                "2026-11-01T01:00-05:00",
                "2026-11-01T01:30-05:00",
                "2026-11-02T01:00-05:00",
            ],
        ),
        (
            NEW_YORK,
            "*/30 2 * * *",
            "2026-03-08T00:30",
            ["2026-03-09T02:00-04:00", "2026-03-09T02:30-04:00"],
        ),
        (
            BERLIN,
            "0 */2 * * *",
            "2026-10-25T01:30",
            ["2026-10-25T02:00+02:00", "2026-10-25T02:00+01:00", "2026-10-25T04:00+01:00"],
        ),
    ],
)
def test_a_wildcard_follows_the_wall_clock_through_both_passes(tz, expr, after, expected):
    assert ticks(expr, after, len(expected), tz=tz) == expected


def wall_matches(cron, instant, *, tz):
    """Match by definition: does the wall clock at this UTC second show a time of the schedule?"""
    wall = datetime.fromtimestamp(instant, ZoneInfo(tz)).replace(tzinfo=UTC)
    at_ms = int(wall.timestamp()) * 1000
    return cron.next_after_ms(at_ms - 1000) == at_ms


@pytest.mark.parametrize(
    ("tz", "start"),
    [
        (BERLIN, "2026-03-28T20:00"),
        (BERLIN, "2026-10-24T20:00"),
        (NEW_YORK, "2026-03-07T20:00"),
        (NEW_YORK, "2026-10-31T20:00"),
        ("Australia/Lord_Howe", "2026-04-04T20:00"),
        ("America/Havana", "2026-10-31T20:00"),
        ("Africa/Casablanca", "2026-03-21T20:00"),
        ("Pacific/Apia", "2011-12-29T20:00"),
    ],
)
@pytest.mark.parametrize("expr", ["*/7 * * * *", "* 1-3 * * *", "30 */3 * * 0", "5 * 29-31 * *"])
def test_wildcard_ticks_are_exactly_the_instants_whose_wall_clock_matches(tz, start, expr):
    first = ms(start, tz) // 1000
    last = first + 36 * 3600
    in_utc = Cron(expr)
    expected = [s * 1000 for s in range(first + 60, last + 1, 60) if wall_matches(in_utc, s, tz=tz)]
    assert Cron(expr, tz=tz).ticks(first * 1000, last * 1000, limit=10_000) == expected


@pytest.mark.parametrize("tz", [BERLIN, NEW_YORK, "Australia/Lord_Howe", "Africa/Casablanca"])
@pytest.mark.parametrize("hour", range(4))
def test_a_fixed_time_runs_once_on_every_day_of_a_decade(tz, hour):
    cron = Cron(f"30 {hour} * * *", tz=tz)
    start, end = ms("2020-01-01T00:00", tz), ms("2030-01-01T00:00", tz)
    found = cron.ticks(start, end, limit=10_000)
    dates = [datetime.fromtimestamp(tick / 1000, ZoneInfo(tz)).date() for tick in found]
    assert dates == [dates[0] + timedelta(days=n) for n in range(3653)]


def test_the_answer_does_not_depend_on_where_the_search_began():
    for expr in ("30 2 * * *", "*/20 * * * *", "0 2 L * *", "0 0 29 2 *", "* 3 25 10 *"):
        cron = Cron(expr, tz=BERLIN)
        tick = cron.next_after_ms(ms("2026-10-24T00:00"))
        before = max(ms("2026-10-24T00:00"), tick - 400 * 86_400_000)
        for start in range(before, tick, max(1, (tick - before) // 50)):
            assert cron.next_after_ms(start) == tick


# --- against croniter ----------------------------------------------------------------------------


def random_item(random, low, high, *, names=()):
    value = random.randint(low, high)
    kind = random.choice(["value", "value", "range", "step", "range_step", "from"])
    if kind == "value":
        return random.choice(names) if names and random.random() < 0.4 else str(value)
    other = random.randint(value, high)
    step = random.randint(1, max(1, (high - low) // 2))
    if kind == "step":
        return f"*/{step}"
    if kind == "from" and value < high:
        return f"{value}-{high}/{step}"
    text = f"{value}-{other}" if value < other else str(value)
    fits = kind == "range_step" and other - value > 1
    return f"{text}/{random.randint(1, other - value)}" if fits else text


def random_field(random, low, high, *, names=(), star=0.3):
    if random.random() < star:
        return "*"
    return ",".join(
        random_item(random, low, high, names=names) for _ in range(random.choice([1, 1, 1, 2, 3]))
    )


def random_expression(random):
    weekdays = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
    fields = [
        random_field(random, 0, 59),
        random_field(random, 0, 23),
        random_field(random, 1, 28, star=0.5),
        random_field(random, 1, 12, names=("JAN", "JUN", "DEC"), star=0.6),
        random_field(random, 0, 6, names=weekdays, star=0.5),
    ]
    if random.random() < 0.2:
        fields.insert(0, random_field(random, 0, 59))
    # Outside the common dialect: croniter takes a list of all seven days for a star.
    if fields[-1][0] != "*" and croniter.expand(f"0 0 * * {fields[-1]}")[0][-1] == ["*"]:
        fields[-1] = "*"
    return " ".join(fields)


@pytest.mark.parametrize("seed", range(8))
def test_random_expressions_have_the_ticks_that_croniter_finds(seed):
    random = Random(seed)
    for _ in range(400):
        expr = random_expression(random)
        start_s = random.randint(ms("2000-01-01T00:00"), ms("2050-01-01T00:00")) // 1000
        theirs = croniter(
            expr,
            datetime.fromtimestamp(start_s, UTC),
            second_at_beginning=True,
            implement_cron_bug=True,
        )
        expected = [int(theirs.get_next(float)) * 1000 for _ in range(4)]
        found = Cron(expr).ticks(start_s * 1000, FAR_MS, limit=4)
        assert found == expected, (expr, start_s)


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expr", "message"),
    [
        ("60 * * * *", "minute '60': '60' is not in 0-59"),
        ("* 24 * * *", "hour '24': '24' is not in 0-23"),
        ("* * 0 * *", "day of month '0': '0' is not in 1-31"),
        ("* * * 13 *", "month '13': '13' is not in 1-12 or JAN-DEC"),
        ("* * * FOO *", "month 'FOO': 'FOO' is not in 1-12 or JAN-DEC"),
        ("* * * * 8", "day of week '8': '8' is not in 0-7 or SUN-SAT"),
        ("* * * * L", "day of week 'L': 'L' is not in 0-7 or SUN-SAT"),
        ("* * * * MON#6", "day of week 'MON#6'"),
        ("60 * * * * *", "second '60': '60' is not in 0-59"),
        ("? * * * *", "minute '?': '?' is not in 0-59"),
        ("-1 * * * *", "minute '-1': '' is not in 0-59"),
        ("1, * * * *", "minute '': '' is not in 0-59"),
        ("5-1 * * * *", "minute '5-1': the range runs backwards"),
        ("*/0 * * * *", "minute '*/0': a step must be from 1 to 59"),
        (
            "*/90 * * * *",
            "minute '*/90': a step must be from 1 to 59 (for other periods use @every)",
        ),
        ("*/x * * * *", "minute '*/x': a step must be from 1 to 59"),
        ("1-2-3 * * * *", "minute '1-2-3': '2-3' is not in 0-59"),
        ("\u0661 * * * *", "is not in 0-59"),  # an Arabic digit
        ("* * 32W * *", "day of month '32W': '32' is not in 1-31"),
        ("* * L-40 * *", "day of month 'L-40': '40' is not in 1-31"),
        ("", "0 fields: give 5"),
        ("* * *", "3 fields: give 5"),
        ("* * * * * * *", "7 fields: give 5"),
        ("@reboot", "'@reboot' is none of @yearly"),
        ("@every", "@every '': give a period"),
        ("@every 5", "@every '5': give a period such as 90s"),
        ("@every 0s", "the period must be from 1 second"),
        ("@every 1h junk", "@every '1h junk': give a period"),
        ("@every -5m", "give a period"),
        ("@every 999999999999d", "to 100 years"),
        ("CRON_TZ= 0 9 * * *", "the zone after CRON_TZ= is empty"),
        ("CRON_TZ=Mars/Base 0 9 * * *", "tz='Mars/Base' is not a known time zone"),
        ("0 0 30 2 *", "no date ever matches: day of month '30', month '2', day of week '*'"),
        ("0 0 31 4,6,9,11 ?", "no date ever matches"),
        ("0 0 31W 2 *", "no date ever matches"),
        ("0 0 */31 * MON#5", "no date ever matches"),
        (",".join(["1"] * 101) + " * * * *", "minute has a list of 101 items: at most 100"),
        ("0 " * EXPRESSION_LENGTH_MAX, "has 2000 characters: at most 1000"),
    ],
)
def test_a_bad_expression_is_refused_by_field_value_and_range(expr, message):
    with pytest.raises(ConfigError) as caught:
        Cron(expr)
    assert message in str(caught.value)


@pytest.mark.parametrize("expr", ["0 0 30 2 *", "0 0 */31 * MON#5", "0 0 31 2,4,6,9,11 *"])
def test_an_impossible_date_is_refused_within_10_ms(expr):
    def refuse():
        start = time.perf_counter()
        with pytest.raises(ConfigError):
            Cron(expr)
        return time.perf_counter() - start

    assert min(refuse() for _ in range(5)) < 0.01


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tz": "Mars/Base"}, "tz='Mars/Base' is not a known time zone"),
        ({"tz": "../etc/passwd"}, "is not a known time zone"),
        ({"tz": ""}, "is not a known time zone"),
        ({"tz": "Europe"}, "is not a known time zone"),
        ({"tz": None}, "both must be str"),
        ({"missed": "twice"}, "missed='twice': give one of 'run_once', 'skip', 'run_all'"),
        ({"overlap": "queue"}, "overlap='queue': give one of 'allow', 'skip'"),
    ],
)
def test_a_bad_option_is_refused_by_name_and_value(options, message):
    with pytest.raises(ConfigError) as caught:
        Cron("@daily", **options)
    assert message in str(caught.value)


def test_two_different_zones_are_a_contradiction():
    with pytest.raises(ConfigError, match="tz='America/New_York' contradicts 'Europe/Berlin'"):
        Cron("TZ=Europe/Berlin @daily", tz=NEW_YORK)


def test_a_bad_call_is_refused():
    with pytest.raises(ConfigError, match="limit=0"):
        Cron("@daily").ticks(0, 1, limit=0)
    with pytest.raises(ConfigError, match="before the year 1900"):
        Cron("@daily").next_after_ms(ms("1890-01-01T00:00"))


def test_a_cron_is_an_immutable_value():
    cron = Cron("0 9 * * *", tz=BERLIN, missed="skip")
    assert cron == Cron("0 9 * * *", tz=BERLIN, missed="skip") != Cron("0 9 * * *", tz=BERLIN)
    assert repr(cron) == (
        "Cron(expr='0 9 * * *', tz='Europe/Berlin', missed='skip', overlap='allow')"
    )
    for again in (copy.deepcopy(cron), pickle.loads(pickle.dumps(cron))):
        assert again == cron
        assert again.next_after_ms(0) == cron.next_after_ms(0)
    with pytest.raises(AttributeError):
        cron.expr = "* * * * *"


@pytest.mark.parametrize("seed", range(4))
def test_garbage_is_refused_with_a_config_error_and_nothing_else(seed):
    random = Random(seed)
    pieces = ["*", "/", "-", ",", "#", "L", "W", "?", " ", " ", "0", "7", "31", "99", "MON", "jan"]
    pieces += ["@every ", "1h", "TZ=", "UTC ", "\0", "\n", "٣", "é", "1e3", "0x1"]
    for _ in range(2000):
        expr = "".join(random.choices(pieces, k=random.randint(0, 14)))
        try:
            cron = Cron(expr)
        except ConfigError:
            continue
        assert cron.next_after_ms(0) > 0
