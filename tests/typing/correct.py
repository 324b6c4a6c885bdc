"""Correct uses: both type checkers accept every line."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import assert_type

from ropeway import (
    Backoff,
    BatchContext,
    CircuitBreaker,
    Concurrency,
    Context,
    Event,
    Fair,
    Filter,
    Handle,
    JobRecord,
    RateLimit,
    Ropeway,
    Snooze,
    State,
    Task,
    Tasks,
    Unique,
    current_job,
)

from ropeway.operate import Changed
from ropeway.task import Call


@dataclass
class Services:
    base: str


@asynccontextmanager
async def lifespan() -> AsyncGenerator[Services]:
    yield Services("https://a.example")


app = Ropeway("memory://", lifespan=lifespan, routes={"mail.*": "mail"}, defaults={"attempts": 3})
plain_app = Ropeway("memory://")
named_app = Ropeway[Services]("memory://", lifespan=lifespan)
mail: Tasks[Services] = Tasks(prefix="mail.")
anywhere = Tasks()

assert_type(app, Ropeway[Services])
assert_type(plain_app, Ropeway[None])


@app.task(
    queue="crawl",
    timeout=30,
    attempts=8,
    retry=Backoff.exponential(1, cap=600),
    never=(ValueError,),
    unique=Unique(by=["url"], window=timedelta(minutes=10)),
)
async def fetch(ctx: Context[Services], url: str, *, tenant: str = "-") -> str:
    await ctx.progress(0.5, "half")
    ctx.log.info("from %s", ctx.state.base)
    if not url:
        raise Snooze(30)
    return ctx.state.base + url


@app.task
def words(text: str) -> int:
    return len(text.split()) + current_job().attempt


@app.task(process=True)
def rows(ctx: Context[Services], path: str, limit: int = 10) -> list[int]:
    ctx.progress_sync(1)
    return [limit]


@app.task(
    rate=RateLimit(100, timedelta(minutes=1), key="host", burst=5),
    concurrency=[Concurrency(4, key="tenant"), Concurrency(50, name="all")],
    breaker=CircuitBreaker(5, 30),
    fair=Fair("tenant", weights={"gold": 3}),
)
async def download(host: str, tenant: str) -> int:
    return len(host + tenant)


@app.batch_task(size=50, within=timedelta(seconds=2), grace=0.5, key=str.lower, attempts=3)
async def index(ctx: BatchContext[Services], items: list[str]) -> list[int | Exception]:
    await ctx.progress(0.5)
    return [len(ctx.state.base + item) or ValueError(item) for item in items]


@app.batch_task()
def purge(items: list[int]) -> None:
    print(items)


@app.batch_task(key="base")
def totals(items: list[Services]) -> list[str]:
    return [item.base for item in items]


@fetch.fallback
async def give_up(ctx: Context[Services], url: str, *, tenant: str = "-") -> None:
    print(ctx.failure, url, tenant)


@words.fallback
def forget(text: str) -> None:
    print(text)


@index.fallback
def not_indexed(items: list[str]) -> None:
    print(items)


@app.on("dead", "crashed")
async def alert(event: Event) -> None:
    print(event.job, event.error, event.duration)


app.queue("crawl", max_length=1_000, on_full="wait", wait=5, rate=RateLimit(50, 1))


@plain_app.task
async def tick() -> None: ...


@mail.task
async def send(ctx: Context[Services], to: str, body: str) -> bool:
    return bool(to and body and ctx.attempt)


@anywhere.task(ordering="account")
async def book(account: int, amount: float = 0.0) -> dict[str, float]:
    return {str(account): amount}


@app.stub(name="thumbnails", queue="images")
async def thumbnails(path: str, size: int = 64) -> bytes:
    raise NotImplementedError


app.include(mail)
app.include(anywhere)


async def main() -> None:
    async with app:
        job = await fetch.enqueue("/", tenant="t")
        assert_type(job, Handle[str])
        assert_type(await job, str)
        assert_type(await job.result(timeout=timedelta(seconds=5)), str)
        assert_type(await fetch("/", tenant="t"), str)
        assert_type(words("a b"), int)
        assert_type(rows("x", limit=3), list[int])
        assert_type(await words.enqueue("a b"), Handle[int])
        assert_type(await send.enqueue("a@b.example", body="hello"), Handle[bool])
        assert_type(await (await book.enqueue(1)), dict[str, float])
        assert_type(await thumbnails.enqueue("a.png", size=32), Handle[bytes])

        later = fetch.opts(delay=300, priority=9, tags=["nightly"])
        assert_type(await later.enqueue("/later"), Handle[str])
        assert_type(await later.opts(at=datetime.now(UTC)).enqueue("/then"), Handle[str])
        await fetch.opts(unique=None, parents=[job], headers={"k": "v"}).enqueue("/child")

        assert_type(await fetch.enqueue_many(["/a", "/b"]), list[Handle[str]])
        assert_type(await later.enqueue_many(f"/{n}" for n in range(3)), list[Handle[str]])
        assert_type(await book.enqueue_many([1, 2]), list[Handle[dict[str, float]]])
        assert_type(fetch.s("/", tenant="t"), Call[str])
        assert_type(await app.enqueue_many([words.s("a"), words.s("b")]), list[Handle[int]])
        await app.enqueue_many([words.s("a"), fetch.s("/"), later.s("/")])
        await app.send("elsewhere", {"n": 1}, queue="far", delay=timedelta(hours=1))

        assert_type(await index.enqueue("doc"), Handle[int])
        assert_type(await index.enqueue_many(["a", "b"]), list[Handle[int]])
        assert_type(await index.opts(group_key="k").enqueue("doc"), Handle[int])
        assert_type(await purge.enqueue(3), Handle[None])
        assert_type(await totals.enqueue(Services("b")), Handle[str])
        batch: Task[[str], int] = index
        answers = await index(["a", "b"])
        print(batch, answers[0], purge([1]), forget("x"))

        assert_type(await app.jobs.get(job), JobRecord)
        assert_type(await app.jobs.cancel(Filter(queue="mail"), dry_run=True), Changed)
        await app.jobs.retry([job, "some-id"])
        await app.jobs.edit(job, {"url": "/new"}, priority=3)
        await app.queues.purge("mail", states={State.SCHEDULED})
        async for event in job.events():
            assert_type(event.data, str)
        wide: Handle[object] = job
        task: Task[[str], int] = words
        print(wide, task)
    async with plain_app:
        await tick()
        await tick.enqueue()


def script() -> None:
    assert_type(words.enqueue_sync("a b").result_sync(timeout=3), int)
    assert_type(fetch.enqueue_many_sync(["/"]), list[Handle[str]])
    assert_type(app.run_sync(app.jobs.count()), int)
    assert_type(words.handle("some-id"), Handle[int])
