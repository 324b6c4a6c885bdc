"""Misuses: both type checkers reject exactly the lines that end with `# E`, and no other."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from ropeway import Concurrency, Context, Filter, Handle, RateLimit, Ropeway, Tasks


class Services:
    base: str = ""


@asynccontextmanager
async def lifespan() -> AsyncGenerator[Services]:
    yield Services()


app = Ropeway("memory://", lifespan=lifespan)
plain_app = Ropeway("memory://")
strangers: Tasks[int] = Tasks()


@app.task
async def fetch(ctx: Context[Services], url: str, *, tenant: str = "-") -> str:
    return url + tenant


@app.task
def words(text: str) -> int:
    return len(text)


@app.task
async def pair(left: int, right: int) -> int:
    return left + right


@app.stub(name="thumbnails")
async def thumbnails(path: str) -> bytes:
    raise NotImplementedError


@app.batch_task(key="tenant")
async def index(items: list[str]) -> list[int]:
    return [len(item) for item in items]


# Not an error yet: to the checker it is a task that its caller passes a Context to.
@app.task
async def wrong_state(ctx: Context[int], n: int) -> int:
    return ctx.state + n


def settings() -> Ropeway[Services]:
    return Ropeway("memory://", lifetime=lifespan)  # E: the option is called lifespan


app.include(strangers)  # E: tasks for another state
plain_app.task(retries=3)  # E: unknown task option
plain_app.task(attempts="3")  # E: wrong type of a task option
plain_app.stub(process=True)  # E: an option that only the code's own side has


app.task(rate=3)  # E: not a RateLimit
app.task(concurrency=RateLimit(3, 1))  # E: the other kind of limit
app.task(fair=["tenant"])  # E: neither a name nor Fair
app.task(rate=RateLimit("3", 1))  # E: wrong type of a limit's number
app.queue("q", concurrency=[Concurrency(3)])  # E: a queue has one limit of a kind
app.batch_task(size="3")  # E: wrong type of a batch option
app.batch_task(unique=None)  # E: no option of a batch task
app.on("complete")  # E: no such event
app.on("completed")(len)  # E: a hook takes an Event


@app.batch_task()  # E: it takes no list
async def no_list(items: str) -> None: ...


@words.fallback  # E: other arguments than the task's
def forget(text: int) -> None: ...


async def enqueueing(ctx: Context[Services]) -> None:
    await fetch.enqueue(1)  # E: wrong argument type
    await fetch.enqueue()  # E: missing argument
    await fetch.enqueue("/", tennant="t")  # E: unknown keyword
    await fetch.enqueue("/", "t")  # E: keyword-only argument given by position
    await fetch.enqueue(ctx, "/")  # E: the worker supplies the context
    await wrong_state.enqueue(1)  # E: this app's state is not an int
    await fetch.enqueue("/", delay=3)  # E: options are given by opts
    await thumbnails.enqueue(1)  # E: wrong argument type of a stub
    await thumbnails("a.png")  # E: a stub cannot be run here


async def options() -> None:
    await fetch.opts(delay=3).enqueue(1)  # E: wrong argument type, through opts
    fetch.opts(delai=3)  # E: unknown job option
    fetch.opts(delay="3")  # E: wrong type of a job option
    fetch.opts(at=3)  # E: not a datetime
    fetch.opts(codec="pickle")  # E: no such codec
    await fetch.opts(delay=3)("/")  # E: options make no sense for a plain call
    await app.send("elsewhere", {"n": 1}, prio=3)  # E: unknown job option


async def batches() -> None:
    await fetch.enqueue_many([1, 2])  # E: wrong item type
    await pair.enqueue_many([1, 2])  # E: takes two arguments
    await fetch.opts(delay=3).enqueue_many([1])  # E: wrong item type, through opts
    await index.enqueue(1)  # E: wrong item type of a batch task
    await index.enqueue(["a"])  # E: enqueued item by item
    await index("a")  # E: called with a list
    same: Handle[list[int]] = await index.enqueue("a")  # E: the result is that of one item
    print(same)
    fetch.s(1)  # E: wrong argument type
    await app.enqueue_many([words.s("a"), words.s(2)])  # E: wrong argument type of one call
    await app.enqueue_many([words])  # E: not a call


async def results() -> None:
    job = await words.enqueue("a")
    text: str = await job  # E: the result is an int
    other: Handle[str] = job  # E: a handle of an int
    early: int = await words.enqueue("a")  # E: a handle is not yet the result
    unawaited: Handle[int] = words.enqueue("a")  # E: enqueue is a coroutine
    await words("a")  # E: a plain function's result cannot be awaited
    number: int = fetch("/")  # E: an async function's call must be awaited
    await job.result("soon")  # E: timeout is given by keyword
    print(text, other, early, unawaited, number)


def operators() -> None:
    app.jobs.count(Filter(state="dead"))  # E: the field is called states
    total: str = app.run_sync(app.jobs.count())  # E: counts are numbers
    words.enqueue_sync(3)  # E: wrong argument type, without a loop
    print(total)
