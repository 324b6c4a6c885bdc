"""Ropeway, by the public API and the worker of `ropeway worker`. Settled after the run; leases."""

import asyncio
from contextlib import suppress

import program

from ropeway import Ropeway

o = program.options()
app = Ropeway(o.url)

if o.task == "cpu":
    plain = program.plain_body(o)

    @app.task(name="job")
    def job(number: int, padding: str) -> None:
        plain(number)

else:
    body = program.async_body(o)

    @app.task(name="job")
    async def job(number: int, padding: str) -> None:
        await body(number)


class Client(program.Client):
    async def send(self, number):
        await job.enqueue(number, program.PADDING)

    async def send_many(self, numbers):
        await app.enqueue_many([job.s(number, program.PADDING) for number in numbers])

    async def send_later(self, number, delay_s):
        await job.opts(delay=delay_s).enqueue(number, program.PADDING)

    async def send_ranked(self, number, rank):
        await job.opts(priority=rank).enqueue(number, program.PADDING)


async def main():
    async with app:
        await program.enqueue_async(o, Client())


if __name__ == "__main__":
    if o.command == "work":
        processes = 2 if o.setting == "processes" else 1
        command = ("ropeway", "worker", "ropeway_rival:app", "--processes", str(processes))
        program.become(o, *command, "--concurrency", str(o.concurrency // processes))
    run = asyncio.run
    with suppress(ImportError):
        import uvloop

        run = uvloop.run
    run(main())
