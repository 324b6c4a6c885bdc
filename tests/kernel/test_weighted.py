"""Shares of queues: exact over time, work-conserving, and no queue starves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropeway.errors import ConfigError
from ropeway.weighted import Shares

weights = st.dictionaries(st.sampled_from("abcde"), st.integers(1, 20), min_size=1)
calls = st.lists(st.integers(0, 30), max_size=40)


@given(weights=weights, places=st.integers(0, 500))
def test_every_place_is_dealt(weights, places):
    dealt = Shares(weights).deal(places)
    assert sum(dealt.values()) == places
    assert min(dealt.values()) >= 0


@given(weights=weights, rounds=st.integers(1, 5))
def test_a_full_round_is_dealt_exactly_by_weight(weights, rounds):
    dealt = Shares(weights).deal(rounds * sum(weights.values()))
    assert dealt == {queue: rounds * weight for queue, weight in weights.items()}


@given(weights=weights, calls=calls)
def test_many_small_calls_add_up_to_the_shares(weights, calls):
    shares = Shares(weights)
    served = dict.fromkeys(weights, 0)
    for places in calls:
        for queue, count in shares.deal(places).items():
            served[queue] += count
    total = sum(weights.values())
    for queue, weight in weights.items():
        # Smooth weighted round robin is never further off than the number of queues.
        assert abs(served[queue] - sum(calls) * weight / total) <= len(weights)


@given(weights=weights)
def test_each_queue_is_served_within_one_round(weights):
    shares = Shares(weights)
    served: set[str] = set()
    for _ in range(sum(weights.values())):
        served |= {queue for queue, count in shares.deal(1).items() if count}
    assert served == set(weights)


@given(weights=weights, places=st.integers(0, 50), data=st.data())
def test_the_share_of_an_exhausted_queue_goes_to_the_others(weights, places, data):
    exhausted = frozenset(data.draw(st.sets(st.sampled_from(sorted(weights)))))
    dealt = Shares(weights).deal(places, exhausted=exhausted)
    assert set(dealt) == set(weights) - exhausted
    assert sum(dealt.values()) == (places if dealt else 0)


def test_picks_are_spread_not_bunched():
    shares = Shares({"a": 2, "b": 1, "c": 1})
    picks = [q for _ in range(8) for q, n in shares.deal(1).items() if n]
    assert picks == ["a", "b", "c", "a"] * 2


@pytest.mark.parametrize("weight", [0, -1])
def test_a_weight_below_one_is_refused(weight):
    with pytest.raises(ConfigError, match=f"queue 'a': weight {weight}"):
        Shares({"b": 1, "a": weight})
