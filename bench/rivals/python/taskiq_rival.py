"""TaskIQ on a Redis list (taken is gone) or stream (acknowledged after the run)."""

import asyncio

import program
from taskiq_redis import ListQueueBroker, RedisStreamBroker

o = program.options()
broker = (RedisStreamBroker if o.setting.startswith("stream") else ListQueueBroker)(o.url)

if o.task == "cpu":
    plain = program.plain_body(o)

    @broker.task(task_name="job")
    def job(number: int, padding: str) -> None:
        plain(number)

else:
    body = program.async_body(o)

    @broker.task(task_name="job")
    async def job(number: int, padding: str) -> None:
        await body(number)


class Client(program.Client):
    async def send(self, number):
        await job.kiq(number, program.PADDING)


async def main():
    await broker.startup()
    await program.enqueue_async(o, Client())
    await broker.shutdown()


if __name__ == "__main__":
    if o.command == "work":
        best = o.setting.endswith("best")
        tuned = ("--workers", "2", "--max-prefetch", "100") if best else ("--workers", "1")
        command = ("taskiq", "worker", "taskiq_rival:broker", "--log-level", "WARNING", *tuned)
        program.become(o, *command, "--max-async-tasks", str(o.concurrency))
    asyncio.run(main())
