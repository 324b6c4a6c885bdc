"""Declaring tasks: what the decorators keep, and what they refuse."""

import inspect
from datetime import timedelta

import pytest

from ropeway import Backoff, ConfigError, Context, Ropeway, Tasks, Unique
from ropeway.context import CURRENT
from ropeway.job import Job, Lease
from ropeway.retry import Rule

pytestmark = pytest.mark.anyio


@pytest.fixture
def app() -> Ropeway[None]:
    return Ropeway("memory://")


def test_a_task_keeps_the_name_and_the_docstring_of_its_function(app):
    @app.task
    async def fetch(url: str) -> str:
        """Fetch a page."""
        return url

    assert (fetch.__name__, fetch.__doc__, fetch.name) == ("fetch", "Fetch a page.", "fetch")
    assert app.definitions["fetch"].kind == "async"


async def test_a_task_stays_an_ordinary_callable(app):
    @app.task
    async def double(n: int) -> int:
        return 2 * n

    @app.task()
    def half(n: int) -> float:
        return n / 2

    assert await double(4) == 8
    assert half(4) == 2.0


async def test_a_plain_call_gets_a_context_that_reports_to_nobody(app):
    @app.task
    async def fetch(ctx: Context[None], url: str) -> str:
        await ctx.progress(0.5, "half")
        await ctx.save({"page": 1})
        ctx.log.info("done")
        return f"{url} {ctx.attempt}"

    assert await fetch("/") == "/ 1"
    assert list(inspect.signature(fetch).parameters) == ["url"]


async def test_a_plain_call_inside_a_job_sees_the_state_of_that_job(app):
    @app.task
    async def state_of(ctx: Context[str]) -> str:
        return ctx.state

    lease = Lease(job=Job(id="x", task="outer"), attempt=1, token=1, expires_at_ms=0)
    token = CURRENT.set(Context(lease, state="opened once"))
    try:
        assert await state_of() == "opened once"
    finally:
        CURRENT.reset(token)


@pytest.mark.parametrize("annotation", ["Context[None]", "ropeway.Context[int]", '"Context"'])
def test_a_context_is_found_in_annotations_kept_as_text(app, annotation):
    def handler(ctx, n: int) -> int:
        return n

    handler.__annotations__["ctx"] = annotation
    task = app.task(handler)
    assert task.definition.wants_ctx
    assert task.definition.parameters.names == ("n",)


def test_a_context_that_is_not_the_first_parameter_is_refused(app):
    with pytest.raises(ConfigError, match=r"'fetch'.*'ctx' is a Context, but only the first"):

        @app.task
        async def fetch(url: str, ctx: Context[None]) -> None: ...


def test_options_become_milliseconds_and_a_policy(app):
    @app.task(
        queue="crawl",
        timeout=1.5,
        soft_timeout=timedelta(seconds=1),
        attempts=3,
        retry=Backoff.constant(1),
        never=(ValueError,),
        rules={OSError: Rule(attempts=2)},
        expires=60,
        retention=0,
        crash_max=0,
        ack="before",
        tags=["a", "b"],
        process=True,
    )
    def fetch(url: str) -> str:
        return url

    found = app.definitions["fetch"]
    assert (found.queue, found.timeout_ms, found.soft_timeout_ms) == ("crawl", 1500, 1000)
    assert (found.policy.attempts, found.policy.never) == (3, (ValueError,))
    assert (found.expires_after_ms, found.retention_ms, found.crash_max) == (60_000, 0, 0)
    assert (found.ack, found.tags, found.kind) == ("before", ("a", "b"), "process")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeot": 3}, "unknown task option 'timeot': did you mean 'timeout'"),
        ({"rates": 3}, "unknown task option 'rates': did you mean 'rate'"),
        ({"timeout": -1}, "timeout=-1"),
        ({"timeout": 0}, "timeout=0"),
        ({"timeout": "3"}, "timeout='3' is a str"),
        ({"timeout": 1, "soft_timeout": 2}, "soft_timeout=2 must be shorter"),
        ({"attempts": 0}, "attempts=0"),
        ({"attempts": True}, "attempts=True"),
        ({"priority": 11}, "priority=11: give a whole number, 0 to 10"),
        ({"crash_max": -1}, "crash_max=-1"),
        ({"expires": -5}, "expires=-5"),
        ({"retention": float("nan")}, "retention=nan"),
        ({"queue": ""}, "queue=''"),
        ({"queue": " q"}, "queue=' q'"),
        ({"queue": 3}, "queue=3"),
        ({"codec": "pickle"}, "codec='pickle': choose 'json' or 'msgpack'"),
        ({"ack": "never"}, "ack='never'"),
        ({"tags": "nightly"}, "tags='nightly': give a list"),
        ({"unique": True}, "unique=True: give Unique"),
        ({"unique": Unique(by=["page"])}, "'page'"),
        ({"ordering": "page"}, r"ordering='page': name one of its parameters \(url\)"),
        ({"never": ("ValueError",)}, "never: 'ValueError' is not an exception class"),
        ({"process": "yes"}, "process='yes'"),
        ({"name": ""}, "name=''"),
        ({"payload_max_bytes": 0}, "payload_max_bytes=0"),
        ({"on_parent_failed": "ignore"}, "on_parent_failed='ignore'"),
    ],
)
def test_an_option_that_cannot_be_meant_is_refused_at_the_declaration(app, options, message):
    def fetch(url: str) -> str:
        return url

    with pytest.raises(ConfigError, match=message):
        app.task(**options)(fetch)
    assert app.definitions == {}


def test_an_async_function_cannot_run_in_a_process(app):
    with pytest.raises(ConfigError, match="'fetch'.*process=True needs a plain `def`"):

        @app.task(process=True)
        async def fetch() -> None: ...


def test_a_generator_is_no_task(app):
    with pytest.raises(ConfigError, match="generator"):

        @app.task
        def numbers():
            yield 1


def test_a_lambda_needs_a_name(app):
    with pytest.raises(ConfigError, match="give name="):
        app.task(lambda: 3)
    assert app.task(name="three")(lambda: 3)() == 3


def test_two_tasks_of_one_name_are_refused_naming_both_places(app):
    @app.task
    async def fetch() -> None: ...

    def other() -> None: ...

    with pytest.raises(ConfigError, match=r"two tasks are named 'fetch': .*fetch and .*other"):
        app.task(name="fetch")(other)
    with pytest.raises(ConfigError, match="two tasks are named 'fetch'"):
        app.stub(name="fetch")(other)


def test_a_task_cannot_be_declared_twice(app):
    @app.task
    async def fetch() -> None: ...

    with pytest.raises(ConfigError, match="is a task already"):
        app.task(name="again")(fetch)


# -- Tasks() --------------------------------------------------------------------------------


async def test_tasks_collected_in_a_module_join_the_app_with_their_prefix(app):
    mail = Tasks(prefix="mail.")

    @mail.task
    async def send(to: str) -> str:
        return to

    app.include(mail)

    @mail.task
    async def bounce(to: str) -> str:
        return to

    assert set(app.definitions) == {"mail.send", "mail.bounce"}
    async with app:
        assert (await send.enqueue("a")).created
        assert (await bounce.enqueue("a")).created


async def test_a_task_that_belongs_to_no_app_says_how_to_include_it():
    mail = Tasks()

    @mail.task
    async def send(to: str) -> None: ...

    with pytest.raises(ConfigError, match=r"'send' belongs to no app yet: app.include"):
        await send.enqueue("a")
    with pytest.raises(ConfigError, match="belongs to no app yet"):
        send.enqueue_sync("a")


def test_including_twice_changes_nothing(app):
    mail = Tasks()
    mail.task(name="send")(print_it)
    app.include(mail)
    app.include(mail)
    assert set(app.definitions) == {"send"}


def test_tasks_belong_to_one_app(app):
    mail = Tasks()
    mail.task(print_it)
    app.include(mail)
    with pytest.raises(ConfigError, match="belong to another app"):
        Ropeway("memory://").include(mail)


def test_an_included_task_may_not_take_a_name_of_the_app(app):
    mail = Tasks()
    mail.task(name="first")(print_it)
    mail.task(name="send")(print_it)
    app.task(name="send")(lambda: None)
    with pytest.raises(ConfigError, match="two tasks are named 'send'"):
        app.include(mail)
    assert set(app.definitions) == {"send"}  # all of them or none


def test_an_app_is_not_included_in_an_app(app):
    with pytest.raises(ConfigError, match="collect the tasks in a Tasks"):
        app.include(Ropeway("memory://"))


def print_it(text: str) -> None:
    print(text)


# -- routes, defaults, stubs ----------------------------------------------------------------


def test_a_queue_comes_from_the_task_then_the_routes_then_the_defaults():
    app = Ropeway(
        "memory://", routes={"mail.*": "mail", "mail.x": "never"}, defaults={"queue": "rest"}
    )
    for name, options in {
        "mail.x": {},
        "mail.own": {"queue": "own"},
        "other": {},
    }.items():
        app.task(name=name, **options)(print_it)
    assert {name: found.queue for name, found in app.definitions.items()} == {
        "mail.x": "mail",
        "mail.own": "own",
        "other": "rest",
    }


def test_defaults_apply_where_a_task_says_nothing():
    app = Ropeway("memory://", defaults={"attempts": 2, "timeout": 5})
    app.task(name="a")(print_it)
    app.task(name="b", attempts=9)(print_it)
    assert [d.policy.attempts for d in app.definitions.values()] == [2, 9]
    assert app.definitions["b"].timeout_ms == 5000


@pytest.mark.parametrize("defaults", [{"attemps": 2}, {"attempts": 0}, {"name": "x"}])
def test_wrong_defaults_are_refused_where_they_are_written(defaults):
    with pytest.raises(ConfigError, match=next(iter(defaults))):
        Ropeway("memory://", defaults=defaults)


async def test_a_stub_enqueues_by_its_signature_and_refuses_to_run(app):
    @app.stub(name="images.thumbnail", queue="images")
    async def thumbnail(path: str, size: int = 64) -> bytes:
        raise NotImplementedError

    assert app.definitions == {}
    async with app:
        job = await thumbnail.enqueue("a.png", size=32)
        record = await job.record()
        with pytest.raises(TypeError, match="path"):
            await thumbnail.enqueue()
    assert (record.job.task, record.job.queue) == ("images.thumbnail", "images")
    assert record.job.payload == b'{"path":"a.png","size":32}'
    with pytest.raises(ConfigError, match="a stub: its code is elsewhere"):
        thumbnail("a.png")


def test_a_stub_has_no_options_of_the_code_and_no_context(app):
    with pytest.raises(ConfigError, match="unknown task option 'process'"):
        app.stub(process=True)(print_it)

    async def thumbnail(ctx: Context[None], path: str) -> bytes:
        raise NotImplementedError

    with pytest.raises(ConfigError, match="leave out the Context"):
        app.stub()(thumbnail)
