import math
from datetime import timedelta
from random import Random

import pytest

from ropeway.errors import ConfigError
from ropeway.retry import (
    ATTEMPTS_SPENT,
    UNCOUNTED_DELAY_MIN_MS,
    Again,
    Backoff,
    GiveUp,
    RetryPolicy,
    Rule,
)
from ropeway.verdict import Bury, Cancel, Retry, Snooze

DAY_MS = 24 * 3600 * 1000


def delays(backoff, attempts, seed=0):
    random = Random(seed)
    return [backoff.delay_ms(n, random=random) for n in range(1, attempts + 1)]


def decide(policy, error, *, attempt=1, attempt_max=8):
    return policy.decide(error, attempt=attempt, attempt_max=attempt_max, random=Random(0))


class FixedTop(Random):
    """Draws the largest value every time."""

    def randint(self, a, b):
        return b


# --- curves --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backoff", "expected_ms"),
    [
        (Backoff.constant(2), [2000] * 5),
        (Backoff.constant(timedelta(seconds=2)), [2000] * 5),
        (Backoff.linear(2), [2000, 4000, 6000, 8000, 10_000]),
        (Backoff.linear(2, cap=5), [2000, 4000, 5000, 5000, 5000]),
        (Backoff.exponential(jitter=False), [1000, 2000, 4000, 8000, 16_000]),
        (
            Backoff.exponential(0.5, factor=3, cap=10, jitter=False),
            [500, 1500, 4500, 10_000, 10_000],
        ),
        (Backoff.exponential(5, factor=1, jitter=False), [5000] * 5),
        (Backoff.exponential(100, cap=10, jitter=False), [10_000] * 5),
        (Backoff.exponential(0, jitter=False), [0] * 5),
        (Backoff.fibonacci(1), [1000, 1000, 2000, 3000, 5000]),
        (Backoff.fibonacci(1, cap=3), [1000, 1000, 2000, 3000, 3000]),
        (Backoff.fibonacci(0), [0] * 5),
        (Backoff.polynomial(jitter=False), [15_000, 16_000, 31_000, 96_000, 271_000]),
        (Backoff.custom(lambda attempt, _: attempt * 0.25), [250, 500, 750, 1000, 1250]),
        (
            Backoff.custom(lambda attempt, _: timedelta(minutes=attempt), cap=90),
            [60_000, 90_000, 90_000, 90_000, 90_000],
        ),
    ],
)
def test_the_curve(backoff, expected_ms):
    assert delays(backoff, 5) == expected_ms


@pytest.mark.parametrize(
    "backoff",
    [
        Backoff.constant(8, jitter=True),
        Backoff.linear(8, jitter=True),
        Backoff.exponential(8),
        Backoff.fibonacci(8, jitter=True),
        Backoff.custom(lambda *_: 8, jitter=True),
    ],
)
def test_full_jitter_draws_uniformly_from_zero_to_the_curve(backoff):
    random = Random(7)
    drawn = [backoff.delay_ms(1, random=random) for _ in range(2000)]
    assert 0 <= min(drawn) < 100
    assert 7900 < max(drawn) <= 8000
    assert 3800 < sum(drawn) / len(drawn) < 4200


def test_the_polynomial_adds_up_to_29_seconds_times_the_attempt():
    assert Backoff.polynomial().delay_ms(1, random=FixedTop()) == (15 + 29) * 1000
    assert Backoff.polynomial().delay_ms(4, random=FixedTop()) == (3**4 + 15 + 29 * 4) * 1000


def test_the_same_random_state_gives_the_same_delays():
    backoff = Backoff.exponential(1, cap=600)
    assert delays(backoff, 20, seed=1) == delays(backoff, 20, seed=1)
    assert delays(backoff, 20, seed=1) != delays(backoff, 20, seed=2)


@pytest.mark.parametrize("attempt", [50, 1_000, 10**6, 10**30])
@pytest.mark.parametrize(
    "backoff",
    [
        Backoff.linear(1),
        Backoff.exponential(jitter=False),
        Backoff.exponential(factor=1e300, jitter=False),
        Backoff.fibonacci(1),
        Backoff.polynomial(),
        Backoff.custom(lambda attempt, _: attempt),
        Backoff.custom(lambda *_: 1e308),
    ],
)
def test_every_delay_is_bounded_by_a_day_for_any_attempt(backoff, attempt):
    assert 0 <= backoff.delay_ms(attempt, random=FixedTop()) <= DAY_MS


def test_a_slow_exponential_is_exact_just_below_its_cap():
    backoff = Backoff.exponential(1, factor=1.0001, jitter=False)
    assert backoff.delay_ms(10_001, random=Random(0)) == round(1000 * 1.0001**10_000)


def test_a_custom_function_sees_the_attempt_and_the_error():
    seen = []
    error = OSError()
    backoff = Backoff.custom(lambda *arguments: seen.append(arguments) or 1)
    backoff.delay_ms(3, error=error, random=Random(0))
    assert seen == [(3, error)]


@pytest.mark.parametrize("answer", [-1, math.nan, math.inf, "5", None, True, timedelta(days=-1)])
def test_a_bad_answer_of_a_custom_function_is_refused_by_the_functions_name(answer):
    def my_curve(attempt, error):
        return answer

    with pytest.raises(ConfigError, match=r"my_curve, attempt 2: delay=.*"):
        Backoff.custom(my_curve, cap=0.5).delay_ms(2, random=Random(0))


def test_an_error_in_a_custom_function_is_reported_by_its_name_and_kept_as_the_cause():
    def my_curve(attempt, error):
        return 1 / 0

    with pytest.raises(ConfigError, match="my_curve.*ZeroDivisionError") as caught:
        Backoff.custom(my_curve).delay_ms(1, random=Random(0))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


async def async_curve(attempt, error):
    return 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: Backoff.constant(-1),
        lambda: Backoff.linear(1, cap=-1),
        lambda: Backoff.exponential(math.nan),
        lambda: Backoff.exponential(factor=0.5),
        lambda: Backoff.exponential(factor=math.inf),
        lambda: Backoff.exponential(factor=math.nan),
        lambda: Backoff.fibonacci("1"),
        lambda: Backoff.custom(5),
        lambda: Backoff.custom(async_curve),
        lambda: Backoff.constant(1).delay_ms(0, random=Random(0)),
    ],
)
def test_a_bad_curve_is_refused(make):
    with pytest.raises(ConfigError):
        make()


def test_a_backoff_is_an_immutable_value_with_a_readable_name():
    assert Backoff.exponential(1, cap=600) == Backoff.exponential(timedelta(seconds=1), cap=600.0)
    assert len({Backoff.linear(1), Backoff.linear(1), Backoff.linear(2)}) == 2
    assert repr(Backoff.exponential(1, cap=600)) == (
        "Backoff.exponential(1, factor=2, cap=600, jitter=True)"
    )
    assert repr(Backoff.constant(0.5)) == "Backoff.constant(0.5, jitter=False)"
    assert repr(Backoff.polynomial()) == "Backoff.polynomial(cap=86400, jitter=True)"
    with pytest.raises(AttributeError):
        Backoff.linear(1)._unit_ms = 5


# --- policy --------------------------------------------------------------------------------------

FLAT = Backoff.constant(5)


def test_by_default_a_job_has_eight_attempts_between_zero_and_ten_minutes_apart():
    policy = RetryPolicy()
    assert policy.attempts == 8
    for attempt in range(1, 8):
        decision = decide(policy, ValueError(), attempt=attempt)
        assert isinstance(decision, Again)
        assert decision.counted
        assert 0 <= decision.delay_ms <= 600_000
    assert decide(policy, ValueError(), attempt=8) == GiveUp(ATTEMPTS_SPENT)


def test_the_jobs_own_limit_wins_over_the_policys():
    policy = RetryPolicy(attempts=3, backoff=FLAT)
    assert decide(policy, ValueError(), attempt=3, attempt_max=20) == Again(5000, counted=True)
    assert decide(policy, ValueError(), attempt=1, attempt_max=1) == GiveUp(ATTEMPTS_SPENT)


def test_never_buries_at_once_subclasses_too():
    policy = RetryPolicy(never=(LookupError,))
    assert decide(policy, KeyError("k")) == GiveUp("never retried: LookupError")
    assert isinstance(decide(policy, ValueError()), Again)


def test_only_retries_nothing_else():
    policy = RetryPolicy(backoff=FLAT, only=(OSError,))
    assert decide(policy, TimeoutError()) == Again(5000, counted=True)
    assert decide(policy, KeyError()) == GiveUp("not in the list of retried errors: KeyError")


def test_free_errors_cost_no_attempt_even_on_the_last_one():
    policy = RetryPolicy(backoff=FLAT, free=(ConnectionError,), only=(KeyError,))
    assert decide(policy, ConnectionResetError(), attempt=8) == Again(5000, counted=False)


@pytest.mark.parametrize("error", [ConnectionError(), Retry(counted=False)])
def test_an_uncounted_retry_waits_at_least_a_second(error):
    policy = RetryPolicy(backoff=Backoff.constant(0), free=(ConnectionError,))
    assert decide(policy, error) == Again(UNCOUNTED_DELAY_MIN_MS, counted=False)


def test_the_nearest_class_decides_between_the_lists():
    policy = RetryPolicy(backoff=FLAT, never=(OSError,), free=(ConnectionError,))
    assert decide(policy, ConnectionResetError()) == Again(5000, counted=False)
    assert decide(policy, FileNotFoundError()) == GiveUp("never retried: OSError")
    policy = RetryPolicy(backoff=FLAT, never=(ConnectionResetError,), free=(ConnectionError,))
    assert decide(policy, ConnectionResetError()) == GiveUp("never retried: ConnectionResetError")
    policy = RetryPolicy(never=(OSError,), rules={TimeoutError: Rule(backoff=FLAT)})
    assert decide(policy, TimeoutError()) == Again(5000, counted=True)
    policy = RetryPolicy(backoff=FLAT, never=(OSError,), only=(TimeoutError,))
    assert decide(policy, TimeoutError()) == Again(5000, counted=True)


def test_the_rule_of_the_nearest_class_gives_attempts_and_curve():
    policy = RetryPolicy(
        backoff=FLAT,
        rules={
            OSError: Rule(backoff=Backoff.constant(60)),
            TimeoutError: Rule(attempts=2),
        },
    )
    assert decide(policy, PermissionError()) == Again(60_000, counted=True)
    assert decide(policy, TimeoutError(), attempt=1) == Again(5000, counted=True)
    assert decide(policy, TimeoutError(), attempt=2) == GiveUp(ATTEMPTS_SPENT)
    assert decide(policy, KeyError(), attempt=2) == Again(5000, counted=True)


def test_a_rule_never_raises_the_jobs_limit():
    policy = RetryPolicy(attempts=8, backoff=FLAT, rules={OSError: Rule(attempts=5)})
    assert decide(policy, OSError(), attempt=2, attempt_max=2) == GiveUp(ATTEMPTS_SPENT)


def test_a_rule_may_slow_down_a_free_error():
    rules = {ConnectionError: Rule(backoff=Backoff.constant(30))}
    policy = RetryPolicy(free=(ConnectionError,), rules=rules)
    assert decide(policy, ConnectionError()) == Again(30_000, counted=False)


# --- verdicts ------------------------------------------------------------------------------------


def test_a_retry_verdict_uses_its_delay_or_the_backoff():
    policy = RetryPolicy(backoff=FLAT)
    assert decide(policy, Retry(0.25)) == Again(250, counted=True)
    assert decide(policy, Retry()) == Again(5000, counted=True)
    assert decide(policy, Retry(0, counted=False)) == Again(0, counted=False)


def test_a_counted_retry_verdict_on_the_last_attempt_gives_up():
    policy = RetryPolicy(backoff=FLAT)
    assert decide(policy, Retry(1), attempt=8) == GiveUp("attempts spent")
    assert decide(policy, Retry(1, counted=False), attempt=8) == Again(1000, counted=False)


def test_bury_gives_up_with_its_reason():
    assert decide(RetryPolicy(), Bury("no such user")) == GiveUp("no such user")
    assert decide(RetryPolicy(), Bury()) == GiveUp("buried by the handler")


@pytest.mark.parametrize("verdict", [Snooze(5), Cancel("gone")])
def test_snooze_and_cancel_are_decisions_already(verdict):
    assert decide(RetryPolicy(), verdict, attempt=8) is verdict


def test_the_lists_do_not_apply_to_verdicts():
    policy = RetryPolicy(backoff=FLAT, never=(Exception,))
    assert decide(policy, Retry()) == Again(5000, counted=True)


# --- bad policies --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attempts": 0}, "attempts=0: give a whole number of at least 1"),
        ({"attempts": True}, "attempts=True"),
        ({"attempts": 2.5}, "attempts=2.5"),
        ({"backoff": 5}, "backoff=5: build it by"),
        ({"never": ValueError}, "never=<class 'ValueError'>: give a tuple"),
        ({"never": "ValueError"}, "never='ValueError': give a tuple"),
        ({"free": (ValueError(),)}, "is not an exception class"),
        ({"only": (int,)}, "only: <class 'int'> is not an exception class"),
        ({"never": (Snooze,)}, "Snooze is a verdict"),
        ({"never": (KeyError,), "free": (KeyError,)}, "never=KeyError: listed as retried too"),
        ({"never": (KeyError,), "rules": {KeyError: Rule(2)}}, "never=KeyError"),
        ({"rules": {KeyError: 5}}, r"rules[KeyError]=5: give Rule"),
        ({"rules": {KeyError: Rule(attempts=9)}}, "rules[KeyError].attempts=9: a rule can only"),
        ({"rules": [KeyError]}, "give a mapping"),
    ],
)
def test_a_bad_policy_is_refused_by_name_value_and_rule(options, message):
    with pytest.raises(ConfigError) as caught:
        RetryPolicy(**options)
    assert message in str(caught.value)


def test_a_rule_needs_at_least_one_attempt():
    with pytest.raises(ConfigError, match=r"Rule\(attempts\)=0"):
        Rule(attempts=0)


def test_a_policy_is_an_immutable_hashable_value():
    rules = {KeyError: Rule(2)}
    policy = RetryPolicy(never=[OSError], rules=rules)
    rules.clear()
    assert policy.rules == {KeyError: Rule(2)}
    assert policy.never == (OSError,)
    assert hash(policy) == hash(RetryPolicy(never=(OSError,), rules={KeyError: Rule(2)}))
    with pytest.raises(TypeError):
        policy.rules[ValueError] = Rule(1)
