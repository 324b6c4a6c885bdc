"""streaq on Redis Streams. Acknowledged after the run; a worker renews its hold each minute."""

import asyncio

import program
from streaq import Worker

o = program.options()
worker = Worker(
    redis_url=o.url,
    concurrency=o.concurrency,
    priorities=["low", "middle", "high"] if o.ranked else None,
    anyio_kwargs={"use_uvloop": True} if o.setting == "best" else None,
)

if o.task == "cpu":
    plain = program.plain_body(o)

    @worker.task(name="job")
    def job(number: int, padding: str) -> None:
        plain(number)

else:
    body = program.async_body(o)

    @worker.task(name="job")
    async def job(number: int, padding: str) -> None:
        await body(number)


class Client(program.Client):
    async def send(self, number):
        await job.enqueue(number, program.PADDING)

    async def send_many(self, numbers):
        await worker.enqueue_many([job.enqueue(number, program.PADDING) for number in numbers])

    async def send_later(self, number, delay_s):
        await job.enqueue(number, program.PADDING).start(delay=delay_s)

    async def send_ranked(self, number, rank):
        priority = ("low", "middle", "high")[rank]
        await job.enqueue(number, program.PADDING).start(priority=priority)


async def main():
    async with worker:
        await program.enqueue_async(o, Client())


if __name__ == "__main__":
    if o.command == "work":
        program.become(o, "streaq", "run", "streaq_rival:worker")
    asyncio.run(main())
