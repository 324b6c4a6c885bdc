"""An operator changes limits and bounds while jobs run, and asks why a job does not."""

from typing import Any

import pytest
from app_under_test import Desk

from ropeway import ConfigError, JobNotFound, Ropeway
from ropeway.flow.options import CircuitBreaker, Concurrency, FlowLimit, RateLimit
from ropeway.flow.rules import Breaker, LimitRule, QueueRule, Rate, Slots
from ropeway.why import Kind

pytestmark = pytest.mark.anyio


@pytest.fixture
def app(url: str) -> Ropeway[None]:
    """An app with a limited task, `call`, and a described queue, `busy`."""
    app = Ropeway(url)

    @app.task(
        name="call",
        concurrency=Concurrency(2, key="tenant"),
        rate=RateLimit(100, per=1, burst=50, scope="app"),
    )
    async def _call(tenant: str) -> None: ...

    app.queue("busy", max_length=3, on_full="drop_new", concurrency=Concurrency(1))
    return app


async def call(desk: Desk, *tenants: str) -> list[str]:
    return [(await desk.app.send("call", {"tenant": tenant})).id for tenant in tenants]


# -- limits -------------------------------------------------------------------------------------


async def test_limits_are_listed_as_declared_and_as_overridden(desk: Desk):
    slots, rate = await desk.app.limits.list()
    assert slots.rule == LimitRule(name="call.concurrency", limit=Slots(2))
    assert rate.rule == LimitRule(name="call.rate", limit=Rate(100, 1_000, 50), scope="app")
    info = await desk.app.limits.set("call.concurrency", Concurrency(9))
    assert (info.declared, info.override) == (slots.rule, info.rule)
    assert info.rule == LimitRule(name="call.concurrency", limit=Slots(9))
    assert (await desk.app.limits.list())[0] == info


async def test_an_override_keeps_what_the_code_says_is_counted(desk: Desk):
    info = await desk.app.limits.set("call.rate", RateLimit(5, per=60))
    assert info.rule == LimitRule(name="call.rate", limit=Rate(5, 60_000, 1), scope="app")


async def test_a_reset_lets_the_code_count_again(desk: Desk):
    declared, _ = await desk.app.limits.list()
    await desk.app.limits.set("call.concurrency", Concurrency(9))
    assert await desk.app.limits.reset("call.concurrency")
    assert not await desk.app.limits.reset("call.concurrency")
    assert (await desk.app.limits.list())[0] == declared


async def test_keys_say_who_holds_and_how_many_wait(desk: Desk):
    ids = await call(desk, "a", "a", "a", "b")
    for _ in range(3):
        await desk.take()
    assert await desk.store.reserve(["default"], worker="w", limit=1, lease_ms=1_000) == []
    keys = await desk.app.limits.keys("call.concurrency")
    assert [(info.key, info.used, info.parked) for info in keys] == [("a", 2, 1), ("b", 1, 0)]
    assert [ref.id for ref in keys[0].running] == ids[:2]
    (only,) = await desk.app.limits.keys("call.concurrency", "b")
    assert only == keys[1]
    assert len(await desk.app.limits.keys("call.concurrency", limit=1)) == 1


async def test_fewer_slots_than_run_need_force(desk: Desk):
    await call(desk, "a", "a")
    for _ in range(2):
        await desk.take()
    with pytest.raises(ConfigError, match="2 in use"):
        await desk.app.limits.set("call.concurrency", Concurrency(1))
    info = await desk.app.limits.set("call.concurrency", Concurrency(1), force=True)
    assert info.rule == LimitRule(name="call.concurrency", limit=Slots(1))


@pytest.mark.parametrize(
    ("limit", "says"),
    [
        (RateLimit(1, per=1), r"give Concurrency\(...\)"),
        (CircuitBreaker(1, cooldown=1), r"give Concurrency\(...\)"),
        (Concurrency(1, key="tenant"), "key, name and scope are the code's"),
        (Concurrency(1, name="call.concurrency"), "key, name and scope are the code's"),
        (Concurrency(1, scope="app"), "key, name and scope are the code's"),
    ],
)
async def test_what_is_limited_is_not_the_operators_word(desk: Desk, limit: FlowLimit, says: str):
    with pytest.raises(ConfigError, match=says):
        await desk.app.limits.set("call.concurrency", limit)
    assert all(info.override is None for info in await desk.app.limits.list())


async def test_a_limit_that_nobody_declared_is_refused_with_those_known(desk: Desk):
    limits = desk.app.limits
    for work in (limits.keys("x"), limits.set("x", Concurrency(1)), limits.reset("x")):
        with pytest.raises(ConfigError, match="no limit 'x'; declared are call.concurrency, call"):
            await work
    with pytest.raises(ConfigError, match="a queue's own"):
        await limits.set("queue:busy", Concurrency(1))


# -- queues -------------------------------------------------------------------------------------


async def test_what_is_not_set_of_a_queue_stays(desk: Desk):
    (declared,) = await desk.app.queues.rules()
    info = await desk.app.queues.set("busy", rate=RateLimit(10, per=1))
    assert info.declared == declared.rule
    assert info.rule == QueueRule(
        name="busy", max_length=3, on_full="drop_new", limits=(Slots(1), Rate(10, 1_000, 1))
    )
    info = await desk.app.queues.set("busy", max_length=9, on_full="raise")
    assert info.rule == QueueRule(
        name="busy", max_length=9, on_full="refuse", limits=(Slots(1), Rate(10, 1_000, 1))
    )
    assert await desk.app.queues.rules() == [info]


async def test_a_part_of_a_queue_is_lifted_with_none(desk: Desk):
    info = await desk.app.queues.set("busy", max_length=None, concurrency=None)
    assert info.rule == QueueRule(name="busy", on_full="drop_new")
    assert await desk.app.queues.reset("busy")
    assert not await desk.app.queues.reset("busy")


async def test_a_queue_that_the_code_does_not_mention_can_be_limited(desk: Desk):
    info = await desk.app.queues.set("words", breaker=CircuitBreaker(3, cooldown=60))
    assert info.rule == QueueRule(name="words", limits=(Breaker(3, 60_000),))
    assert await desk.app.queues.reset("words")
    assert [info.rule.name for info in await desk.app.queues.rules()] == ["busy"]


async def test_the_keys_of_a_queue_are_its_kinds_of_limits(desk: Desk):
    await desk.words.opts(queue="busy").enqueue("a")
    lease = await desk.take("busy")
    (info,) = await desk.app.limits.keys("queue:busy")
    assert (info.key, info.used, info.running) == ("slots", 1, (lease.job.ref,))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "nothing to change"),
        ({"length": 3}, "unknown queue setting 'length'"),
        ({"max_length": 0}, "max_length=0"),
        ({"on_full": "wait"}, "on_full='wait'"),
        ({"concurrency": 3}, r"concurrency=3: give Concurrency\(...\)"),
        ({"rate": RateLimit(1, per=1, key="x")}, "no key, name or scope"),
        ({"max_length": None, "on_full": "raise"}, "need a max_length"),
    ],
)
async def test_what_a_queue_cannot_be_set_to_is_refused(
    desk: Desk, settings: dict[str, Any], says: str
):
    with pytest.raises(ConfigError, match=says):
        await desk.app.queues.set("busy", **settings)
    assert [info.override for info in await desk.app.queues.rules()] == [None]


# -- why ----------------------------------------------------------------------------------------


async def test_why_takes_an_id_a_reference_or_a_handle(desk: Desk):
    job = await desk.words.opts(delay=60).enqueue("a")
    for name in (job, job.id, job.ref):
        assert (await desk.app.jobs.why(name)).kind is Kind.SCHEDULED
    with pytest.raises(JobNotFound, match="ghost"):
        await desk.app.jobs.why("ghost")


async def test_why_names_the_limit_of_a_task(desk: Desk):
    *_, last = await call(desk, "a", "a", "a")
    for _ in range(2):
        await desk.take()
    why = await desk.app.jobs.why(last)
    assert [reason.kind for reason in why.reasons] == [Kind.NO_WORKER, Kind.LIMIT]
    assert "limit 'call.concurrency' of key 'a' has no free slot: 2 of 2" in why.reasons[1].text
