import datetime as dt
import re
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ropeway.errors import CodecError, ConfigError
from ropeway.job import State, UniqueKey
from ropeway.unique import Unique, unique_key

# -- the policy -------------------------------------------------------------------------------


def test_by_default_all_arguments_count_until_the_job_has_ended():
    unique = Unique()
    assert unique.by is None
    assert unique.key_of("t", {}).window_ms == 0
    assert unique.during == {"pending", "scheduled", "available", "running", "retryable"}
    assert unique.on_conflict == "return"
    assert unique.release_on_failure


@pytest.mark.parametrize(
    ("window", "expected_ms"),
    [(1, 1000), (0.25, 250), (dt.timedelta(minutes=10), 600_000), (0.001, 1)],
)
def test_a_window_is_seconds_or_a_timedelta(window, expected_ms):
    assert Unique(window=window).key_of("t", {}).window_ms == expected_ms


def test_the_collections_are_frozen_so_that_a_policy_can_be_shared():
    by, during = ["url"], {"available"}
    unique = Unique(by=by, during=during)
    by.append("x")
    during.add("running")
    assert unique.by == ("url",)
    assert unique.during == frozenset({"available"})
    assert hash(unique) == hash(Unique(by=("url",), during=frozenset({"available"})))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"window": 0}, "window=0: this duration must be at least 0.001 s"),
        ({"window": -1.5}, "window=-1.5"),
        ({"window": float("nan")}, "window=nan"),
        ({"window": float("inf")}, "window=inf"),
        ({"window": dt.timedelta(0)}, "window="),
        ({"window": "5m"}, "window='5m' is a str: give seconds"),
        ({"during": {"runing"}}, "'runing' is no state; use available, pending"),
        ({"during": {"completed"}}, "'completed' is a final state.*set window"),
        ({"during": "running"}, r"during='running' must be a set"),
        ({"during": None}, "during=None must be a set"),
        ({"during": ()}, "never be held"),
        ({"by": "url"}, r"write by=\['url'\]"),
        ({"on_conflict": "ignore"}, "'ignore' is unknown; use one of 'return', 'reject'"),
    ],
)
def test_a_wrong_option_is_named_with_the_rule_and_the_way_out(options: dict[str, Any], words: str):
    with pytest.raises(ConfigError, match=words):
        Unique(**options)


def test_only_a_window_may_hold_the_key():
    assert Unique(during=frozenset(), window=5).during == frozenset()


def test_by_must_name_parameters_of_the_task():
    Unique(by=["a"]).check_against(["a", "b"])
    Unique(by=[]).check_against([])
    Unique().check_against([])
    with pytest.raises(ConfigError, match="crawl: unique by 'ulr', but its parameters are: url, n"):
        Unique(by=["ulr"]).check_against(["url", "n"], task="crawl")


# -- the key ----------------------------------------------------------------------------------


def test_a_key_begins_with_the_task_and_is_short():
    key = unique_key("crawl.fetch", {"url": "https://a.example"})
    assert re.fullmatch(r"crawl\.fetch:[0-9a-f]{32}", key)


def test_a_key_never_changes_between_releases():
    values = {"b": [1, 2.5, None], "a": "ü"}
    assert unique_key("t", values) == "t:c239a4a8c77eaa057e329e97f7c35441"
    assert unique_key("t", values, []) == "t:2afb9b83f9314e5d029766197f539792"


def test_a_key_is_the_same_in_another_process():
    code = (
        "from ropeway.unique import unique_key\n"
        "print(unique_key('t', {'tags': {'x', 'y', 'z'}, 'n': 1}))"
    )
    answers = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert answers == {unique_key("t", {"n": 1, "tags": {"z", "y", "x"}})}


def test_only_the_chosen_arguments_count_in_any_order():
    first = unique_key("t", {"a": 1, "b": 2, "c": 3}, ["a", "b"])
    assert first == unique_key("t", {"b": 2, "a": 1, "c": 4}, ["b", "a"])
    assert first != unique_key("t", {"a": 1, "b": 3, "c": 3}, ["a", "b"])


def test_without_arguments_the_task_alone_counts():
    assert unique_key("t", {"a": 1}, []) == unique_key("t", {"a": 2}, [])
    assert unique_key("t", {"a": 1}, []) != unique_key("u", {"a": 1}, [])


@pytest.mark.parametrize(
    ("one", "other"), [({"a": "1"}, {"a": 1}), ({"a": None}, {}), ({"a": [1, 2]}, {"a": [2, 1]})]
)
def test_values_that_differ_have_different_keys(one, other):
    assert unique_key("t", one) != unique_key("t", other)


@given(values=st.dictionaries(st.text("abc", max_size=3), st.integers() | st.text("xyz")))
@settings(max_examples=50, deadline=None)
def test_the_order_of_arguments_never_counts(values):
    assert unique_key("t", values) == unique_key("t", dict(reversed(values.items())))


def test_a_missing_argument_and_a_value_without_a_form_are_refused():
    with pytest.raises(ConfigError, match="unique by 'b', but its arguments are: a"):
        unique_key("t", {"a": 1}, ["b"])
    with pytest.raises(CodecError, match=r"unique key of t.*`\$\.a`"):
        unique_key("t", {"a": object()})


def test_a_policy_says_what_the_job_has_to_hold():
    unique = Unique(
        by=["url"], window=5, during={"available"}, on_conflict="reject", release_on_failure=False
    )
    assert unique.key_of("t", {"url": "u", "n": 1}) == UniqueKey(
        key=unique_key("t", {"url": "u"}),
        during=frozenset({State.AVAILABLE}),
        window_ms=5_000,
        on_conflict="reject",
        release_on_failure=False,
    )
