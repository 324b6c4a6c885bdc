"""Batch tasks as a program writes them: what is enqueued, and which words are refused."""

import inspect
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypedDict

import msgspec
import pytest

from ropeway import BatchContext, CodecError, ConfigError, Context, Ropeway, Tasks, Unique
from ropeway.flow.options import CircuitBreaker, Concurrency, RateLimit
from ropeway.flow.rules import GroupRule
from ropeway.job import Job

pytestmark = pytest.mark.anyio


class Document(msgspec.Struct):
    tenant: str
    number: int = 0


@dataclass
class Point:
    x: int


class Row(TypedDict):
    table: str


@pytest.fixture
def app() -> Ropeway[None]:
    return Ropeway("memory://")


def job_of(task: Any, *args: Any, **options: Any) -> Job:
    return task.opts(**options).s(*args).job()


def test_each_item_is_a_job_that_gathers_with_the_others(app):
    @app.batch_task(size=50, within=3, grace=0.5)
    async def index(items: list[str]) -> None: ...

    job = job_of(index, "doc")
    assert (job.task, job.payload, job.group_key) == ("index", b'{"item":"doc"}', "*")
    assert app.rules == [GroupRule(name="index", size=50, within_ms=3_000, grace_ms=500)]


def test_the_grace_is_a_quarter_of_the_longest_wait_unless_told_otherwise(app):
    @app.batch_task(within=timedelta(seconds=20))
    def index(items: list[str]) -> None: ...

    assert app.rules == [GroupRule(name="index", size=100, within_ms=20_000, grace_ms=5_000)]


@pytest.mark.parametrize(
    ("type_", "key", "item", "group"),
    [
        (Document, "tenant", Document("acme", 3), "acme"),
        (Document, "number", Document("acme", 3), "3"),
        (Document, lambda document: document.tenant.upper(), Document("acme"), "ACME"),
        (Point, "x", Point(7), "7"),
        (Row, "table", {"table": "users"}, "users"),
        (dict[str, int], "shard", {"shard": 2}, "2"),
        (Any, "tenant", {"tenant": "acme"}, "acme"),
        (str, str.lower, "DOC", "doc"),
    ],
)
def test_the_key_of_an_item_says_with_whom_it_gathers(app, type_, key, item, group):
    def index(items): ...

    index.__annotations__["items"] = list[type_]
    assert job_of(app.batch_task(key=key)(index), item).group_key == group


def test_a_single_job_may_name_its_key(app):
    @app.batch_task(key="tenant")
    async def index(items: list[Document]) -> None: ...

    assert job_of(index, Document("acme"), group_key="other").group_key == "other"


@pytest.mark.parametrize(
    ("type_", "key", "message"),
    [
        (Document, "tenat", r"key='tenat': the items are .*Document, which has no such field"),
        (Point, "y", "key='y'"),
        (Row, "row", "key='row'"),
        (str, "tenant", "key='tenant': the items are str"),
        (str, "upper", "key='upper'"),
        (Document, "", "key=''"),
        (Document, 3, "key=3: name a field of the items, or give a function"),
    ],
)
def test_a_key_that_the_items_do_not_have_is_refused_at_the_declaration(app, type_, key, message):
    def index(items): ...

    index.__annotations__["items"] = list[type_]
    with pytest.raises(ConfigError, match=message):
        app.batch_task(key=key)(index)


def test_a_type_that_is_defined_later_is_looked_at_when_it_is_needed(app):
    @app.batch_task(key="tenant")
    def index(items: "list[DefinedLater]") -> None: ...

    assert job_of(index, DefinedLater("acme")).group_key == "acme"


class DefinedLater(msgspec.Struct):
    tenant: str


@pytest.mark.parametrize(
    ("key", "item", "message"),
    [
        ("tenant", {"name": "acme"}, "key='tenant': the item .* has no such field"),
        ("tenant", {"tenant": ""}, "index: the key of an item is an empty text"),
    ],
)
def test_an_item_without_a_key_is_refused_at_the_enqueue(app, key, item, message):
    @app.batch_task(key=key)
    def index(items: list[dict[str, str]]) -> None: ...

    with pytest.raises(ConfigError, match=message):
        job_of(index, item)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unique": Unique()}, "a batch task takes no unique=.*duplicate"),
        ({"ordering": "items"}, "a batch task takes no ordering='items'"),
        ({"fair": "items"}, "a batch task takes no fair='items'"),
        ({"rate": RateLimit(3, 1)}, "a batch task takes no rate="),
        ({"concurrency": Concurrency(3)}, "a batch task takes no concurrency="),
        ({"breaker": CircuitBreaker(3, 1)}, "a batch task takes no breaker="),
        ({"ack": "before"}, "a batch task takes no ack='before'"),
        ({"process": True}, "a batch task takes no process=True"),
        ({"size": 0}, "size=0: give a whole number, 1 to 10,000"),
        ({"size": 10_001}, "size=10001: give a whole number, 1 to 10,000"),
        ({"size": 2.5}, "size=2.5"),
        ({"size": True}, "size=True"),
        ({"within": 0}, "within=0"),
        ({"within": "2"}, "within='2'"),
        ({"grace": -1}, "grace=-1"),
        ({"grace": 3, "within": 2}, "grace=3 is longer than within=2"),
        ({"sise": 3}, "unknown task option 'sise': did you mean 'size'"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_one_clear_error(app, options, message):
    def index(items: list[str]) -> None: ...

    with pytest.raises(ConfigError, match=message) as refused:
        app.batch_task(**options)(index)
    assert "task 'index'" in str(refused.value) or "group 'index'" in str(refused.value)


def no_parameter() -> None: ...
def two_parameters(items: list[str], more: int) -> None: ...
def any_number(*items: str) -> None: ...
def by_keyword(*, items: list[str]) -> None: ...
def no_list(items: str) -> None: ...
def context_of_one_job(ctx: Context[None], items: list[str]) -> None: ...


@pytest.mark.parametrize(
    ("func", "message"),
    [
        (no_parameter, "takes one argument, the list of its items"),
        (two_parameters, "takes one argument"),
        (any_number, "takes one argument"),
        (by_keyword, "takes one argument"),
        (no_list, "annotated as <class 'str'>; a batch task takes a list"),
        (context_of_one_job, "parameter 'ctx' is a Context; the function is given a BatchContext"),
    ],
)
def test_a_function_that_takes_no_list_is_refused(app, func, message):
    with pytest.raises(ConfigError, match=message):
        app.batch_task()(func)


def test_the_context_of_a_batch_is_refused_for_other_tasks(app):
    def fetch(ctx: BatchContext[None], url: str) -> None: ...

    with pytest.raises(ConfigError, match="'ctx' is a BatchContext; the function is given a Cont"):
        app.task(fetch)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout": 3}, "timeout_ms: the items of 'index' share one run"),
        ({"deadline": 3}, "the items of 'index' share one run"),
    ],
)
def test_a_limit_of_one_run_cannot_be_given_for_one_item(app, options, message):
    @app.batch_task()
    def index(items: list[str]) -> None: ...

    with pytest.raises(ConfigError, match=message):
        job_of(index, "doc", **options)


async def test_what_contradicts_gathering_is_refused_for_a_single_job_too(app):
    @app.batch_task()
    def index(items: list[str]) -> None: ...

    async with app:
        for options in ({"unique": "key"}, {"ordering_key": "o"}, {"fair_key": "f"}):
            with pytest.raises(ConfigError, match="group_key"):
                await index.opts(**options).enqueue("doc")


def test_jobs_of_other_tasks_do_not_gather(app):
    @app.task
    def fetch(url: str) -> None: ...

    with pytest.raises(ConfigError, match="group_key: 'fetch' is no batch task"):
        job_of(fetch, "/", group_key="k")


def test_an_item_that_does_not_fit_is_refused_at_the_enqueue(app):
    @app.batch_task()
    def index(items: list[int]) -> None: ...

    with pytest.raises(CodecError, match="the argument `item` does not fit its annotation"):
        job_of(index, "three")


async def test_a_batch_task_stays_an_ordinary_callable():
    tasks = Tasks(prefix="search.")

    @tasks.batch_task()
    async def index(ctx: BatchContext[None], items: list[str]) -> list[int]:
        """Index documents."""
        await ctx.progress(0.5)
        ctx.log.info("%d items", len(items))
        return [len(item) for item in items]

    @tasks.batch_task()
    def count(items: list[str]) -> None: ...

    app = Ropeway("memory://", routes={"search.*": "search"})
    app.include(tasks)
    assert await index(["a", "bc"]) == [1, 2]
    assert count(["a"]) is None
    assert list(inspect.signature(index).parameters) == ["items"]
    assert (index.name, index.__doc__) == ("search.index", "Index documents.")
    assert job_of(index, "a").queue == "search"


async def test_items_that_gather_can_be_seen(app):
    @app.batch_task()
    def index(items: list[str]) -> None: ...

    async with app:
        first, _ = await index.enqueue_many(["a", "b"])
        record = await app.jobs.get(first)
        assert (record.status.state, record.status.blocked_on) == ("available", "group:*")


@pytest.mark.parametrize(
    ("returns", "type_"),
    [
        (None, type(None)),
        (list[int], int),
        (list[int | Exception], int),
        (list[Exception | None], type(None)),
        (list[dict[str, int]], dict[str, int]),
    ],
)
def test_a_result_is_that_of_one_item(app, returns, type_):
    def index(items: list[str]): ...

    index.__annotations__["return"] = returns
    assert app.batch_task()(index).definition.parameters.return_type == type_
