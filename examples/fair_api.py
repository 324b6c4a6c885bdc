"""An API that buffers its tenants' requests; a tenant with 10,000 jobs does not delay the others.

ropeway worker fair_api:app --concurrency 10   # in one terminal, in this folder
python fair_api.py                             # in another: serves the API and plays its clients
"""

import asyncio
import json
import math
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from ropeway import Fair, QueueFull, Ropeway, State

FLOOD = 10_000
WORK_S = 0.02

app = Ropeway("sqlite:///fair_api.db")
app.queue("reports", max_length=FLOOD + 500, on_full="raise")  # a buffer with an end


@app.task(queue="reports", fair=Fair("tenant", weights={"gold": 5}))  # others have one turn each
async def report(tenant: str, page: int) -> str:
    await asyncio.sleep(WORK_S)
    return f"page {page} of {tenant}"


class Api(BaseHTTPRequestHandler):
    """POST /TENANT with a JSON list of pages: 202 and the ids of the jobs, or 429."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Enqueue a job for each page."""
        tenant = self.path.strip("/")
        pages: list[int] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            jobs = app.enqueue_many_sync(report.s(tenant, page) for page in pages)
        except QueueFull as full:
            # Those that found room are stored; the client asks again for the others.
            seconds = 60 if full.retry_after is None else math.ceil(full.retry_after)
            self.answer(429, {"refused": len(full.refused)}, {"Retry-After": str(seconds)})
        else:
            self.answer(202, {"ids": [job.id for job in jobs]})

    def answer(self, code: int, body: object, headers: dict[str, str] | None = None) -> None:
        """Send a response with a JSON body."""
        data = json.dumps(body).encode()
        self.send_response(code)
        for name, value in {**(headers or {}), "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing; the clients tell what happens."""


@contextmanager
def serving() -> Generator[str]:
    """The API's address while it is served from threads of this process."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def post(url: str, pages: list[int]) -> tuple[list[str], str]:
    """The ids that a request was answered with; or none, and what the refusal says."""
    request = Request(url, json.dumps(pages).encode(), method="POST")  # noqa: S310 - our own
    try:
        with urlopen(request, timeout=30) as response:  # noqa: S310
            return json.load(response)["ids"], ""
    except HTTPError as error:
        refused = json.load(error)["refused"]
        retry_after = error.headers["Retry-After"]
        return [], f"{error.code} {error.reason}, {refused} refused, Retry-After: {retry_after} s"


async def waiting() -> int:
    """How many jobs the queue holds that have not been started."""
    return sum(q.counts.get(State.AVAILABLE, 0) for q in await app.queues.list())


async def clients(url: str) -> None:
    """One tenant floods the queue, then others ask for a page each."""
    for start in range(0, FLOOD, 1_000):
        await asyncio.to_thread(post, f"{url}/flood", list(range(start, start + 1_000)))
    print(f"flood: {FLOOD:,} jobs accepted, {await waiting():,} waiting", flush=True)
    for tenant in ("small", "gold"):
        began = time.monotonic()
        (job,), _ = await asyncio.to_thread(post, f"{url}/{tenant}", [1])
        answer = await report.handle(job).result(timeout=60)
        took_ms = (time.monotonic() - began) * 1000
        print(f"{tenant}: {answer!r} after {took_ms:.0f} ms, {await waiting():,} waiting")
    _, refusal = await asyncio.to_thread(post, f"{url}/flood", list(range(FLOOD)))
    print(f"flood: {refusal}")


async def main() -> None:
    async with app:
        await app.queues.purge("reports")  # what an earlier run has left
        with serving() as url:
            await clients(url)
        await app.queues.purge("reports")


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
