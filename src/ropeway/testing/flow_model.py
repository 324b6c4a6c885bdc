"""The model test with flow control: limits, fair turns, bounds, batches, and rules that change."""

from collections.abc import Sequence
from typing import Any, ClassVar, Final

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, multiple, rule

from ropeway.flow.rules import Breaker, GroupRule, LimitRule, QueueRule, Rate, Rule, Slots
from ropeway.job import WAITING, LimitKey, UniqueKey
from ropeway.testing.model import LEASE_MS, QUEUES, WORKERS, BrokerMachine, of_machine, words

LIMITS: Final = ("slots", "rate", "breaker")

limit_keys: st.SearchStrategy[LimitKey] = st.builds(
    LimitKey, name=st.sampled_from(LIMITS), key=st.sampled_from(["", "k", "l"])
)
nothing: dict[str, Any] = {}
one_or_two: st.SearchStrategy[tuple[LimitKey, ...]] = st.lists(
    limit_keys, min_size=1, max_size=2, unique_by=lambda limit: limit.name
).map(tuple)
flow_words: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just(nothing),
    st.fixed_dictionaries({"limits": one_or_two}),
    st.fixed_dictionaries(
        {"fair_key": st.sampled_from(["x", "y", "z"]), "fair_weight": st.sampled_from([1, 1, 2, 3])}
    ),
    st.fixed_dictionaries({"group_key": st.sampled_from(["g", "h"])}),
)
"""What a job has of flow control: nothing, limits, a tenant, or a batch."""

rules: st.SearchStrategy[Any] = st.one_of(
    st.builds(
        LimitRule,
        name=st.just("slots"),
        limit=st.builds(Slots, st.integers(1, 2)),
        scope=st.sampled_from(["queue", "app"]),
    ),
    st.builds(
        LimitRule,
        name=st.just("rate"),
        limit=st.builds(Rate, st.just(2), st.just(1_000), st.integers(1, 3)),
        scope=st.sampled_from(["queue", "app"]),
    ),
    st.builds(
        LimitRule,
        name=st.just("breaker"),
        limit=st.builds(Breaker, st.integers(1, 2), st.just(700)),
        scope=st.sampled_from(["queue", "app"]),
    ),
    st.builds(
        QueueRule,
        name=st.sampled_from(QUEUES),
        max_length=st.sampled_from([None, 1, 2, 4]),
        on_full=st.sampled_from(["refuse", "drop_oldest", "drop_new"]),
        limits=st.sampled_from([(), (), (Slots(2),), (Rate(5, 1_000, 2), Breaker(2, 700))]),
    ),
    st.builds(
        GroupRule,
        name=st.just("t"),
        size=st.integers(1, 3),
        within_ms=st.just(900),
        grace_ms=st.just(300),
    ),
)


def _together(parts: tuple[dict[str, Any], dict[str, Any]]) -> dict[str, Any]:
    """The plain words of a job with those of flow control, as far as they go together."""
    fields = {**parts[0], **parts[1]}
    if fields.get("fair_key") or fields.get("group_key"):
        fields["ordering_key"] = None
    return fields


class FlowMachine(BrokerMachine):
    """Both brokers, with rules declared, overridden and reset at any time."""

    words: ClassVar[st.SearchStrategy[dict[str, Any]]] = st.tuples(words, flow_words).map(_together)
    uniques: ClassVar[st.SearchStrategy[Any]] = st.none() | st.builds(
        UniqueKey,
        key=st.sampled_from(["k", "l"]),
        during=st.sampled_from([WAITING, frozenset()]),
        period_ms=st.just(2_000),
        delay_max_ms=st.sampled_from([None, 700]),
        on_conflict=st.sampled_from(["return", "replace"]),
        release_on_failure=st.booleans(),
    )

    @initialize(given=st.lists(rules, max_size=3), shared=st.sampled_from(["queue", "app"]))
    def declare_first(self, given: Sequence[Rule], shared: Any) -> None:
        """Every limit that jobs may name, and some other rules."""
        known: tuple[Rule, ...] = (
            LimitRule(name="slots", limit=Slots(1), scope=shared),
            LimitRule(name="rate", limit=Rate(2, 1_000, 1)),
            LimitRule(name="breaker", limit=Breaker(1, 700)),
        )
        self.same(lambda broker: broker.declare([*known, *given]))

    @rule(given=st.lists(rules, min_size=1, max_size=2))
    def declare(self, given: Sequence[Rule]) -> None:
        """A program starts whose code asks for other rules."""
        self.same(lambda broker: broker.declare(given))

    @rule(given=rules, force=st.booleans())
    def override(self, given: Rule, *, force: bool) -> None:
        """An operator changes a rule; refused where it leaves runs without a slot."""
        self.same(lambda broker: broker.override([given], force=force))

    @rule(given=rules)
    def reset(self, given: Rule) -> None:
        """The operator takes it back."""
        self.same(lambda broker: broker.reset([given]))

    @rule(
        target=BrokerMachine.leases,
        queues=st.sampled_from([("a",), ("a", "b")]),
        worker=st.sampled_from(WORKERS),
    )
    def reserve_group(self, queues: tuple[str, ...], worker: str) -> Any:
        """Both hand out the same batch."""
        oracle, subject = self.both(
            lambda broker: broker.reserve_group(queues, worker=worker, lease_ms=LEASE_MS)
        )
        assert [_member(lease) for lease in subject] == [_member(lease) for lease in oracle]
        return multiple(*zip(oracle, subject, strict=True))

    @rule(target=BrokerMachine.jobs, batch=st.lists(of_machine("words"), min_size=3, max_size=6))
    def enqueue_tenants(self, batch: list[dict[str, Any]]) -> Any:
        """A call of several jobs of several tenants, keys and batches."""
        made = [self._make(fields) for fields in batch]
        self.same(lambda broker: broker.enqueue(made))
        return multiple(*made)

    @invariant()
    def both_show_the_same_rules_and_keys(self) -> None:
        """What is in force, who holds a slot, how many wait for it, and until when."""
        self.same(lambda broker: broker.rules())
        for name in (*LIMITS, *(f"queue:{queue}" for queue in QUEUES)):
            self.same(lambda broker, name=name: broker.keys(name))


def _member(lease: Any) -> tuple[object, ...]:
    return lease.job, lease.attempt, lease.expires_at_ms, lease.crashes
