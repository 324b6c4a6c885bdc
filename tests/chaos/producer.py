"""Enqueues jobs until it is killed; notes what it asked for and what was acknowledged."""

import asyncio
import itertools
import os

from killed_app import TASKS, app, note


async def main() -> None:
    async with app:
        for number in itertools.count():
            name = TASKS[number % len(TASKS)]
            job_id = f"{os.getpid()}-{number}"
            note("ask", job_id)
            await app.send(name, {"number": number}, id=job_id)
            note("ack", job_id)
            await asyncio.sleep(0.005)


if __name__ == "__main__":
    asyncio.run(main())
