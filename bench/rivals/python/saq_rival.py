"""SAQ on Redis. A job moves to a list while it runs; a sweep looks for those that stopped."""

import asyncio
import time

import program
from saq import Queue

o = program.options()
queue = Queue.from_url(o.url)

if o.task == "cpu":
    plain = program.plain_body(o)

    def job(ctx, *, number, padding):
        plain(number)

else:
    body = program.async_body(o)

    async def job(ctx, *, number, padding):
        await body(number)


settings = {"queue": queue, "functions": [("job", job)], "concurrency": o.concurrency}


class Client(program.Client):
    async def send(self, number):
        await queue.enqueue("job", number=number, padding=program.PADDING)

    async def send_later(self, number, delay_s):
        at = int(time.time() + delay_s)
        await queue.enqueue("job", number=number, padding=program.PADDING, scheduled=at)


async def main():
    await program.enqueue_async(o, Client())
    await queue.disconnect()


if __name__ == "__main__":
    if o.command == "work":
        program.become(o, "saq", "saq_rival.settings", "--quiet")
    asyncio.run(main())
