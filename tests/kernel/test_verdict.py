import copy
import pickle
from datetime import timedelta

import pytest

from ropeway.errors import ConfigError, RopewayError
from ropeway.verdict import Bury, Cancel, Retry, Snooze, Verdict


def test_a_retry_without_a_delay_leaves_it_to_the_backoff_and_counts():
    verdict = Retry()
    assert (verdict.after_ms, verdict.counted, verdict.reason) == (None, True, "")


@pytest.mark.parametrize("after", [90, 90.0, timedelta(seconds=90)])
def test_a_delay_is_seconds_or_timedelta_and_milliseconds_inside(after):
    assert Retry(after).after_ms == 90_000
    assert Retry(after=after, counted=False).counted is False
    assert Snooze(after).after_ms == 90_000


@pytest.mark.parametrize("verdict", [Retry(1), Snooze(1), Cancel("gone"), Bury("broken")])
def test_a_verdict_is_an_answer_and_not_a_ropeway_error(verdict):
    assert isinstance(verdict, Verdict)
    assert not isinstance(verdict, RopewayError)


def test_the_reason_is_its_text():
    assert str(Cancel("gone")) == "gone"
    assert str(Bury("broken")) == "broken"
    assert str(Snooze(5, reason="quota used up")) == "quota used up"
    assert str(Retry()) == "retry"


@pytest.mark.parametrize("rebuild", [copy.copy, lambda v: pickle.loads(pickle.dumps(v))])
@pytest.mark.parametrize(
    "verdict",
    [Retry(2.5, reason="r", counted=False), Retry(), Snooze(3, reason="s"), Cancel("c"), Bury("b")],
)
def test_a_verdict_survives_the_way_back_from_a_process_pool(verdict, rebuild):
    again = rebuild(verdict)
    assert type(again) is type(verdict)
    assert vars(again) == vars(verdict)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Retry(-1), r"Retry\(after\)=-1"),
        (lambda: Retry("flaky"), r"Retry\(after\)='flaky' is a str"),
        (lambda: Snooze(float("nan")), r"Snooze\(after\)=nan"),
        (lambda: Snooze(None), r"Snooze\(after\)=None"),
        (lambda: Cancel(404), r"Cancel\(reason=404\): the reason must be a str"),
    ],
)
def test_a_bad_argument_is_refused_where_the_verdict_is_made(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
