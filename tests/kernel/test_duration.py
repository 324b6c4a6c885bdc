import math
from datetime import timedelta

import pytest

from ropeway.duration import DURATION_MAX_MS, to_ms
from ropeway.errors import ConfigError


@pytest.mark.parametrize(
    ("value", "expected_ms"),
    [
        (0, 0),
        (30, 30_000),
        (1.5, 1_500),
        (1.1, 1_100),  # 1.1 * 1000 is 1100.0000000000002 in binary
        (4.35, 4_350),
        (0.0001, 1),
        (timedelta(minutes=10), 600_000),
        (timedelta(microseconds=1), 1),
        (timedelta(days=36_600), DURATION_MAX_MS),
    ],
)
def test_seconds_and_timedelta_become_whole_milliseconds_never_fewer(value, expected_ms):
    assert to_ms(value, name="delay") == expected_ms


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        (-1, "zero or more"),
        (-1e-9, "zero or more"),
        (-1e308, "zero or more"),
        (timedelta(seconds=-1), "zero or more"),
        (math.nan, "finite"),
        (math.inf, "finite"),
        (-math.inf, "finite"),
        (True, "seconds (a number) or a timedelta"),
        ("30", "seconds (a number) or a timedelta"),
        (None, "seconds (a number) or a timedelta"),
        (1e300, "at most 100 years"),
        (10**400, "at most 100 years"),
        (timedelta.max, "at most 100 years"),
    ],
)
def test_what_is_no_duration_is_refused_by_name_value_and_rule(value, rule):
    with pytest.raises(ConfigError) as caught:
        to_ms(value, name="delay")
    assert f"delay={value!r}" in str(caught.value)
    assert rule in str(caught.value)


def test_a_minimum_is_named_in_seconds():
    assert to_ms(0.25, name="lease", minimum_ms=250) == 250
    with pytest.raises(ConfigError, match=r"lease=0\.2: this duration must be at least 0\.25 s"):
        to_ms(0.2, name="lease", minimum_ms=250)
