"""A polite crawler: few requests per second and at a time to each site, each page fetched once.

ropeway worker crawler:app     # in one terminal, in this folder
python crawler.py              # in another: serves three small sites and has them crawled
"""

import asyncio
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.error import HTTPError
from urllib.parse import urljoin, urlsplit
from urllib.request import urlopen

from ropeway import Backoff, Bury, Concurrency, RateLimit, Retry, Ropeway, State, Unique

app = Ropeway("sqlite:///crawler.db")


@app.task(
    queue="crawl",
    rate=RateLimit(10, per=1, burst=3, key="host"),
    concurrency=Concurrency(2, key="host"),
    unique=Unique(by=["url"], window=3600),  # once an hour, however many pages link to it
    attempts=5,
    retry=Backoff.exponential(0.2, cap=60),
    timeout=30,
)
def fetch(url: str, host: str) -> int:
    try:
        with urlopen(url, timeout=10) as response:  # noqa: S310 - what a crawler is for
            page: str = response.read().decode(errors="replace")
    except HTTPError as error:
        if error.code == 404:
            raise Bury("not found") from error
        if seconds := error.headers["Retry-After"]:
            raise Retry(after=float(seconds)) from error  # the site knows better than our backoff
        raise
    links = {urljoin(url, link) for link in re.findall(r'href="([^"#]+)', page)}
    same_host = sorted(link for link in links if urlsplit(link).netloc == host)
    app.enqueue_many_sync(fetch.s(link, host) for link in same_host)  # new ones only: unique
    return len(page)


# ---------------------------------------------------------------------- sites to be crawled

PAGES = 20  # of each site; every page links to the next three, the last one to nowhere
FAILS_ONCE = "/7"
BUSY_ONCE = "/11"


class Site(ThreadingHTTPServer):
    """A site that notes how it is treated."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Page)
        self.requests: Counter[str] = Counter()
        self.now = self.most = 0
        self.lock = threading.Lock()

    @property
    def host(self) -> str:
        """What the crawler knows it by."""
        return f"127.0.0.1:{self.server_port}"

    def report(self) -> str:
        """How it was treated."""
        again = self.requests.total() - len(self.requests)
        return f"{len(self.requests)} pages, {again} again, at most {self.most} at a time"


class Page(BaseHTTPRequestHandler):
    """`GET /N`: links to the pages after it."""

    def do_GET(self) -> None:
        """Answer slowly; fail once at two pages."""
        site = self.server
        assert isinstance(site, Site), "it is made by no other server"
        with site.lock:
            site.requests[self.path] += 1
            site.now += 1
            site.most = max(site.most, site.now)
        time.sleep(0.05)
        with site.lock:
            site.now -= 1
        number = int(self.path.strip("/") or 0)
        first = site.requests[self.path] == 1
        if first and self.path in (FAILS_ONCE, BUSY_ONCE):
            self.send_response(500 if self.path == FAILS_ONCE else 429)
            if self.path == BUSY_ONCE:
                self.send_header("Retry-After", "1")
            self.end_headers()
        elif number >= PAGES:
            self.send_error(404)
        else:
            self.send_response(200)
            self.end_headers()
            links = (f'<a href="/{number + step}">next</a>' for step in (1, 2, 3))
            self.wfile.write("\n".join(links).encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as it is called
        """Say nothing; the site's report tells how it was treated."""


@contextmanager
def serving() -> Generator[Site]:
    """A site while it is served from threads of this process."""
    with Site() as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        try:
            yield site
        finally:
            site.shutdown()


# ------------------------------------------------------------------------------- the crawl


async def crawl(seeds: list[tuple[str, str]]) -> Counter[State]:
    """Fetch the pages and all that they lead to; how the jobs ended."""
    await app.enqueue_many(fetch.s(url, host) for url, host in seeds)
    # A job enqueues what it finds before it ends, so nothing is left when none is unfinished.
    ended = {State.COMPLETED, State.DEAD, State.CANCELLED}
    while True:
        (queue,) = [queue for queue in await app.queues.list() if queue.name == "crawl"]
        counts = Counter(queue.counts)
        if not any(count for state, count in counts.items() if state not in ended):
            return counts
        await asyncio.sleep(0.1)


async def main() -> None:
    async with app:
        await app.queues.purge("crawl")  # what an earlier run has left
        with ExitStack() as stack:
            sites = [stack.enter_context(serving()) for _ in range(3)]
            began = time.monotonic()
            counts = await crawl([(f"http://{site.host}/0", site.host) for site in sites])
            took_s = time.monotonic() - began
    for number, site in enumerate(sites, start=1):
        print(f"site {number}: {site.report()}")
    ended = f"{counts[State.COMPLETED]} fetched, {counts[State.DEAD]} not found"
    print(f"{ended}, in {took_s:.1f} s")


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
