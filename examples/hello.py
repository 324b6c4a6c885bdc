"""Two tasks and a program that uses them.

ropeway worker hello:app      # in one terminal, in this folder
python hello.py               # in another
"""

import asyncio

from ropeway import Ropeway

app = Ropeway("sqlite:///hello.db")


@app.task(attempts=5, timeout=30)
async def greet(name: str) -> str:
    return f"Hello, {name}!"


@app.task  # a plain function runs in a thread
def count_letters(text: str) -> int:
    return sum(letter.isalpha() for letter in text)


async def main() -> None:
    async with app:
        greeting = await greet.enqueue("Ada")  # stored on disk when this returns
        counts = await count_letters.enqueue_many(["one", "two", "three"])
        print(await greeting)
        print([await count for count in counts])


if __name__ == "__main__":
    asyncio.run(main())
