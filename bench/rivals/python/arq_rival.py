"""arq. A job stays in its queue while it runs; a key says for how long it is in progress."""

import asyncio
from datetime import timedelta

import program
from arq import create_pool
from arq.connections import RedisSettings

o = program.options()
body = program.async_body(o)


async def job(ctx, number, padding):
    await body(number)


class WorkerSettings:
    functions = (job,)
    redis_settings = RedisSettings.from_dsn(o.url)
    max_jobs = o.concurrency
    poll_delay = 0.01 if o.setting == "best" else 0.5


class Client(program.Client):
    def __init__(self, pool):
        self.pool = pool

    async def send(self, number):
        await self.pool.enqueue_job("job", number, program.PADDING)

    async def send_later(self, number, delay_s):
        delay = timedelta(seconds=delay_s)
        await self.pool.enqueue_job("job", number, program.PADDING, _defer_by=delay)


async def main():
    await program.enqueue_async(o, Client(await create_pool(WorkerSettings.redis_settings)))


if __name__ == "__main__":
    if o.command == "work":
        program.become(o, "arq", "arq_rival.WorkerSettings")
    asyncio.run(main())
