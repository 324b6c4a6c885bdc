"""Flow control as a program writes it: what becomes of options, and which are refused."""

from datetime import timedelta

import pytest

from ropeway import (
    CircuitBreaker,
    Concurrency,
    ConfigError,
    Fair,
    JobNotFound,
    QueueFull,
    RateLimit,
    Ropeway,
    Unique,
)
from ropeway.flow.rules import Breaker, LimitRule, QueueRule, Rate, Slots
from ropeway.job import Job, LimitKey
from ropeway.task import make_job


@pytest.fixture
def app() -> Ropeway[None]:
    return Ropeway("memory://")


def job_of(task, *args, **kwargs) -> Job:
    call = task.s(*args, **kwargs)
    return make_job(call.site, call.changes, call.args, call.kwargs)


def test_limits_of_a_task_become_rules_and_keys_of_its_jobs(app):
    @app.task(
        rate=RateLimit(100, timedelta(minutes=1), key="host"),
        concurrency=Concurrency(4, key="tenant"),
        breaker=CircuitBreaker(5, 60, name="upstream", scope="app"),
    )
    async def fetch(url: str, *, host: str, tenant: int = 7) -> None: ...

    assert app.rules == [
        LimitRule(name="fetch.rate", limit=Rate(100, 60_000, 1)),
        LimitRule(name="fetch.concurrency", limit=Slots(4)),
        LimitRule(name="upstream", limit=Breaker(5, 60_000), scope="app"),
    ]
    assert job_of(fetch, "u", host="a.example").limits == (
        LimitKey("fetch.rate", "a.example"),
        LimitKey("fetch.concurrency", "7"),
        LimitKey("upstream", ""),
    )


def test_a_limit_without_a_key_is_on_every_job(app):
    @app.task(concurrency=Concurrency(1))
    def nightly() -> None: ...

    assert job_of(nightly).limits == (LimitKey("nightly.concurrency"),)


def test_a_key_may_be_given_at_the_enqueue(app):
    @app.task(concurrency=Concurrency(1))
    def work(n: int) -> None: ...

    given = work.opts(limit_keys={"work.concurrency": "acme"})
    assert job_of(given, 1).limits == (LimitKey("work.concurrency", "acme"),)
    with pytest.raises(ConfigError, match=r"no limit 'work.rate'; its are: 'work.concurrency'"):
        job_of(work.opts(limit_keys={"work.rate": "acme"}), 1)


def test_several_limits_of_one_kind_need_names_of_their_own(app):
    both = [RateLimit(1, 1), RateLimit(100, 3600, name="hourly")]

    @app.task(rate=both)
    def work() -> None: ...

    assert [rule.name for rule in app.rules] == ["work.rate", "hourly"]
    with pytest.raises(ConfigError, match=r"two limits are named 'again.rate'"):

        @app.task(rate=[RateLimit(1, 1), RateLimit(2, 2)])
        def again() -> None: ...


def test_one_name_means_one_limit(app):
    shared = Concurrency(3, name="db")

    @app.task(concurrency=shared)
    def one() -> None: ...

    @app.task(concurrency=shared)
    def two() -> None: ...

    assert app.rules == [LimitRule(name="db", limit=Slots(3))]

    with pytest.raises(ConfigError, match="'three': .* the name 'db': 3 slots, not 4 slots"):

        @app.task(concurrency=Concurrency(4, name="db"))
        def three() -> None: ...

    assert app.rules == [LimitRule(name="db", limit=Slots(3))]


def test_tenants_and_weights_come_from_the_arguments(app):
    @app.task(fair=Fair("tenant", weights={"gold": 3}))
    def work(n: int, tenant: str = "-") -> None: ...

    assert (job_of(work, 1).fair_key, job_of(work, 1).fair_weight) == ("-", 1)
    gold = job_of(work, 1, tenant="gold")
    assert (gold.fair_key, gold.fair_weight) == ("gold", 3)
    given = job_of(work.opts(fair_key="other", fair_weight=2), 1)
    assert (given.fair_key, given.fair_weight) == ("other", 2)


@pytest.mark.parametrize(
    ("rate", "burst"),
    [(RateLimit(100, 60), 1), (RateLimit(1_000, 1), 100), (RateLimit(5, 1, burst=5), 5)],
)
def test_the_default_burst_is_what_a_tenth_of_a_second_allows(rate, burst):
    assert rate.limit().burst == burst


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RateLimit(0, 1), "count=0: give a whole number"),
        (lambda: RateLimit(-5, 1), "count=-5"),
        (lambda: RateLimit(1, 0), "per=0"),
        (lambda: RateLimit(1, 1, burst=0), "burst=0"),
        (lambda: RateLimit(2_000, timedelta(milliseconds=1)), "2000 per 1 ms"),
        (lambda: RateLimit(1.5, 1), "count=1.5: give a whole number"),
        (lambda: Concurrency(0), "slots=0"),
        (lambda: Concurrency(True), "slots=True"),
        (lambda: Concurrency(1, scope="world"), "scope='world': choose 'queue' or 'app'"),
        (lambda: Concurrency(1, scope=[]), r"scope=\[\]: choose"),
        (lambda: Concurrency(10**30), "slots=10+: give a whole number, 1 to 1,000,000,000"),
        (lambda: Concurrency(1, name=""), "name='': give a text"),
        (lambda: Concurrency(1, name=3), "name=3: give a text"),
        (lambda: Concurrency(1, name="queue:mail"), "names with 'queue:' are for the limits of"),
        (lambda: CircuitBreaker(0, 1), "failures=0"),
        (lambda: CircuitBreaker(1, 0), "cooldown=0"),
        (lambda: Fair("tenant", weights={"a": 0}), "weight of 'a'=0"),
        (lambda: Fair("tenant", weights=["a"]), r"weights=\['a'\]: give a mapping"),
        (lambda: Fair("tenant", weights={1: 5}), "1 is no text; .*: '1'"),
        (lambda: Unique(window=1, per=1), "give one of the two"),
        (lambda: Unique(max_wait=1), "max_wait=1 needs on_conflict='replace'"),
        (lambda: Unique.throttle(0), "window=0"),
        (lambda: Unique.once(0), "per=0"),
    ],
)
def test_numbers_that_cannot_be_meant_are_refused_where_they_are_written(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 3}, r"rate=3: give RateLimit"),
        ({"concurrency": 3}, r"concurrency=3: give Concurrency"),
        ({"breaker": RateLimit(1, 1)}, "breaker=RateLimit.* give CircuitBreaker"),
        ({"rate": RateLimit(1, 1, key="host")}, r"rate key='host': name one of its .*\(url\)"),
        ({"concurrency": Concurrency(1, key="x")}, "concurrency key='x'"),
        ({"fair": "tenant"}, "fair='tenant': name one of its parameters"),
        ({"fair": 3}, r"fair=3: give the name of a parameter, or Fair"),
        ({"fair": "url", "ordering": "url"}, "jobs cannot both keep their order and take turns"),
    ],
)
def test_what_contradicts_the_function_is_refused_at_the_declaration(app, options, message):
    with pytest.raises(ConfigError, match=message):

        @app.task(**options)
        def fetch(url: str) -> None: ...


def test_a_queue_is_described_once(app):
    app.queue("q", max_length=10, on_full="drop_oldest", concurrency=Concurrency(2))
    assert app.rules == [
        QueueRule(name="q", max_length=10, on_full="drop_oldest", limits=(Slots(2),))
    ]
    with pytest.raises(ConfigError, match="described already"):
        app.queue("q", max_length=11)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 0}, "queue 'q': max_length=0: give a whole number, 1 to"),
        ({"max_lenght": 5}, "did you mean 'max_length'"),
        ({"on_full": "raise"}, "need a max_length"),
        ({"max_length": 5, "on_full": "explode"}, "on_full='explode': choose"),
        ({"max_length": 5, "wait": 1}, "wait=1 needs on_full='wait'"),
        ({"concurrency": 4}, r"give Concurrency"),
        ({"rate": RateLimit(1, 1, key="host")}, "no key, name or scope of its own"),
        ({"rate": RateLimit(1, 1, scope="app")}, "no key, name or scope of its own"),
    ],
)
def test_a_queue_option_that_cannot_be_meant_is_refused(app, options, message):
    with pytest.raises(ConfigError, match=message):
        app.queue("q", **options)


@pytest.mark.parametrize("key", ["a\0b", "\ud800"])
@pytest.mark.parametrize("option", ["id", "queue", "fair_key", "ordering_key", "unique"])
def test_a_key_that_not_every_store_can_keep_is_refused(app, key, option):
    @app.task(fair="tenant")
    def work(tenant: str) -> None: ...

    with pytest.raises(ConfigError, match=f"{option}=.*: NUL and lone surrogates"):
        work.opts(**{option: key})
    with pytest.raises(ConfigError, match="limit_keys=.*: NUL and lone surrogates"):
        work.opts(limit_keys={"work.rate": key})


def test_an_argument_that_cannot_be_a_key_is_refused(app):
    @app.task(fair="tenant")
    def work(tenant: str) -> None: ...

    with pytest.raises(ConfigError, match="tenant='a.*b': NUL"):
        job_of(work, "a\0b")


@pytest.mark.anyio
async def test_a_full_queue_raises_waits_or_drops_as_it_was_told():
    app = Ropeway("memory://")
    app.queue("raising", max_length=1)
    app.queue("dropping", max_length=1, on_full="drop_new")
    app.queue("waiting", max_length=1, on_full="wait", wait=0.05)

    @app.task
    def work(n: int) -> None: ...

    async with app:
        for queue in ("raising", "dropping", "waiting"):
            await work.opts(queue=queue).enqueue(1)
        with pytest.raises(QueueFull, match="'raising' is full: 1 of 1 job.* nobody serves it"):
            await work.opts(queue="raising").enqueue(2)
        dropped = await work.opts(queue="dropping").enqueue(2)
        assert (dropped.created, dropped.dropped) == (False, True)
        with pytest.raises(QueueFull) as full:
            await work.opts(queue="waiting").enqueue(2)
        assert full.value.retry_after is None
        assert len(full.value.refused) == 1
        with pytest.raises(JobNotFound, match="was not stored: the queue 'dropping' was full"):
            await dropped


@pytest.mark.anyio
async def test_what_is_declared_while_the_app_is_open_holds_from_the_next_enqueue():
    app = Ropeway("memory://")
    async with app:

        @app.task(queue="late", concurrency=Concurrency(1, key="host"))
        def fetch(host: str) -> None: ...

        await fetch.enqueue("a.example")
        assert [info.rule.name for info in await app.limits.list()] == ["fetch.concurrency"]
        app.queue("late", max_length=1)
        with pytest.raises(QueueFull):
            await fetch.enqueue("b.example")


@pytest.mark.anyio
async def test_a_job_sent_by_name_counts_under_the_keys_it_is_given():
    app = Ropeway("memory://")

    @app.task(concurrency=Concurrency(1, name="api", key="host"))
    def fetch(host: str) -> None: ...

    async with app:
        known = await app.send("fetch", {"host": "a"})
        foreign = await app.send("elsewhere", {"host": "a"}, limit_keys={"api": "b"})
        keys = [(await job.record()).job.limits for job in (known, foreign)]
        assert keys == [(LimitKey("api", "a"),), (LimitKey("api", "b"),)]
        with pytest.raises(ConfigError, match="its limit 'apy' is not declared in this store"):
            await app.send("elsewhere", {"host": "a"}, limit_keys={"apy": "b"})
