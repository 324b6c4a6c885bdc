"""From the options of a command to an open broker and back."""

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol, TypeVar, runtime_checkable

import typer

from ropeway.broker import JobStore
from ropeway.brokers.registry import broker_from_url
from ropeway.cli.exits import missing, usage
from ropeway.connection import URL_DEFAULT, URL_VARIABLE

T = TypeVar("T")


@dataclass(frozen=True)
class Store:
    """Which broker a command talks to, and how it answers."""

    url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help=f"The broker. Default: ${URL_VARIABLE}, else {URL_DEFAULT}.",
        ),
    ] = None
    json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False

    @property
    def address(self) -> str:
        """The URL as given, else of the environment, else the default."""
        return self.url or os.environ.get(URL_VARIABLE) or URL_DEFAULT

    def run(self, work: Callable[[JobStore], Awaitable[T]]) -> T:
        """Open the broker, which must exist, do the work, close it."""
        return asyncio.run(_with(self.broker(), work))

    def broker(self, *, create: bool = False) -> JobStore:
        """The broker, not opened yet. Without `create`, a database file must exist."""
        broker = broker_from_url(self.address)
        if not broker.capabilities.shared:
            raise usage(
                f"{self.address}: such a store lives inside one process, so there is nothing "
                "here to look at; use one that processes share, e.g. sqlite:///jobs.db"
            )
        if not create:
            _require_file(broker, self.address, is_default=self.address == URL_DEFAULT)
        return broker


@runtime_checkable
class InFile(Protocol):
    """What a store adds to the contract that keeps everything in one file."""

    @property
    def path(self) -> Path:
        """The file."""
        ...

    def schema_versions(self) -> tuple[int, int]:
        """The version of its schema (0: no file yet), and the one that this release uses."""
        ...


def _require_file(broker: JobStore, url: str, *, is_default: bool) -> None:
    """Looking at a store must not create it: a mistyped path would answer "no jobs"."""
    if isinstance(broker, InFile) and not broker.path.exists():
        way_out = (
            f"name your app's with --url or ${URL_VARIABLE}"
            if is_default
            else "check the path (a relative one starts in this directory)"
        )
        raise missing(
            f"{url}: there is no database {broker.path}; {way_out}, or make it with "
            "`ropeway migrate` or the first enqueue"
        )


@asynccontextmanager
async def open_store(broker: JobStore) -> AsyncGenerator[JobStore]:
    """The broker, open inside the block."""
    try:
        await broker.open()
        yield broker
    finally:
        await broker.close()


async def _with(broker: JobStore, work: Callable[[JobStore], Awaitable[T]]) -> T:
    async with open_store(broker) as opened:
        return await work(opened)
