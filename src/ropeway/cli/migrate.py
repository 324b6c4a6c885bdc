"""`ropeway migrate`: bring a store to this release's schema."""

import asyncio
from typing import Annotated

import typer

from ropeway.broker import JobStore
from ropeway.cli.exits import Exit, Failure, usage
from ropeway.cli.grouped import grouped
from ropeway.cli.output.stream import emit, emit_json
from ropeway.cli.store import InFile, Store, open_store


@grouped
def migrate(
    store: Store,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit with 1 if there is work to do.")
    ] = False,
) -> None:
    """Make the store, or bring its schema to this release's version.

    Workers and producers do it by themselves when they open the store; this is for doing it at
    a time of your choice. A store of a newer release is refused.
    """
    broker = store.broker(create=not check)
    if not isinstance(broker, InFile):
        raise usage(f"{store.address}: {broker.capabilities.name} has no schema to migrate")
    before, newest = broker.schema_versions()
    if not check and before < newest:
        asyncio.run(_open_once(broker))
    now, _ = broker.schema_versions()
    if store.json:
        emit_json({"url": store.address, "before": before, "now": now, "newest": newest})
    elif before == newest:
        emit(f"schema version {newest}: up to date")
    elif not check:
        emit(f"schema version {now} (was {before or 'none'})")
    if now < newest:
        raise Failure(
            ""
            if store.json
            else f"schema version {now or 'none'}; this release needs {newest}: "
            "run `ropeway migrate`",
            Exit.FAILED,
        )


async def _open_once(broker: JobStore) -> None:
    """Opening is what migrates."""
    async with open_store(broker):
        pass
