"""Documents are enqueued one by one and indexed many at a time: one transaction a batch.

ropeway worker indexer:app     # in one terminal, in this folder
python indexer.py              # in another: enqueues documents and searches them
"""

import asyncio
import re
import sqlite3
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from ropeway import BatchContext, JobFailed, Ropeway

INDEX = Path("indexer-index.db")
DOCUMENTS = 1_000
SHELVES = ("novels", "plays")

app = Ropeway("sqlite:///indexer.db")


@dataclass
class Document:
    """What is indexed."""

    shelf: str
    number: int
    text: str


@app.batch_task(size=200, within=0.5, key="shelf", attempts=3)
def index(ctx: BatchContext[None], documents: list[Document]) -> list[int | Exception]:
    """Words a document; those that have none fail alone, the others of the batch are indexed."""
    answers: list[int | Exception] = []
    rows: list[tuple[str, str, int]] = []
    for document in documents:
        words = set(re.findall(r"\w+", document.text.lower()))
        rows += [(word, document.shelf, document.number) for word in words]
        answers.append(len(words) or ValueError(f"document {document.number} has no words"))
    with closing(sqlite3.connect(INDEX, timeout=30)) as database, database:  # one transaction
        # A batch may run again after a crash, so that it must be harmless to index twice.
        database.executemany("INSERT OR IGNORE INTO words VALUES (?, ?, ?)", rows)
        shelf = documents[0].shelf
        database.execute("INSERT INTO batches VALUES (?, ?)", (shelf, len(documents)))
    ctx.log.info("indexed %d documents of %s", len(documents), shelf)
    return answers


def make_index() -> None:
    """An empty index."""
    with closing(sqlite3.connect(INDEX)) as database, database:
        database.executescript(
            "DROP TABLE IF EXISTS words; DROP TABLE IF EXISTS batches;"
            "CREATE TABLE words (word TEXT, shelf TEXT, number INT, UNIQUE (word, shelf, number));"
            "CREATE TABLE batches (shelf TEXT, size INT);"
        )


def ask(query: str) -> list[tuple[str, int]]:
    """What the index answers: a shelf and a number a row."""
    with closing(sqlite3.connect(INDEX)) as database:
        return database.execute(query).fetchall()


async def main() -> None:
    make_index()
    documents = [
        Document(SHELVES[number % 2], number, f"chapter {number} of a long story")
        for number in range(DOCUMENTS)
    ]
    async with app:
        empty = await index.opts(attempts=1).enqueue(Document("novels", DOCUMENTS, "—"))
        jobs = await index.enqueue_many(documents)
        words = sum([await job for job in jobs])
        try:
            await empty
        except JobFailed as error:
            print(error)
    print(f"{len(jobs):,} documents, {words:,} words")
    for shelf, count in ask("SELECT shelf, count(*) FROM batches GROUP BY shelf ORDER BY shelf"):
        print(f"{shelf}: {count} batches")
    print("“story” is in", ask("SELECT '', count(*) FROM words WHERE word = 'story'")[0][1])


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
