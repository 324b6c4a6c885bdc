"""`ropeway limits set` and `reset`."""

from typing import Annotated

import typer

from ropeway import limits
from ropeway.broker import JobStore
from ropeway.cli.exits import usage
from ropeway.cli.grouped import grouped
from ropeway.cli.limits.look import existing, plain_rule
from ropeway.cli.limits.numbers import Force, Numbers
from ropeway.cli.output.stream import emit, emit_json, one_cell
from ropeway.cli.store import Store
from ropeway.flow.rules import RuleInfo

Name = Annotated[str, typer.Argument(metavar="NAME", help="The limit, as `limits list` names it.")]


@grouped
def set_limit(name: Name, numbers: Numbers, store: Store, force: Force = False) -> None:
    """Give a limit other numbers, at once for all workers and until `limits reset`."""
    given = list(numbers.given().values())
    if len(given) != 1:
        raise usage("give the numbers of one limit: --slots, --rate, or --failures and --cooldown")

    async def do(broker: JobStore) -> RuleInfo:
        await existing(broker, name)
        return await limits.set_limit(broker, name, given[0], force=force)

    told(store.run(do), store)


@grouped
def reset_limit(name: Name, store: Store) -> None:
    """Let the numbers of the code count again."""

    async def do(broker: JobStore) -> bool:
        await existing(broker, name)
        return await limits.reset_limit(broker, name)

    told_reset(name, store, was_set=store.run(do))


def told(info: RuleInfo, store: Store) -> None:
    """Say what is in force now."""
    if store.json:
        emit_json(plain_rule(info))
    else:
        emit(f"{one_cell(info.rule.name)}  {limits.rule_words(info.rule)}")


def told_reset(name: str, store: Store, *, was_set: bool) -> None:
    """Say whether there was an override."""
    if store.json:
        emit_json({"name": name, "reset": was_set})
    else:
        emit(f"{one_cell(name)}  {'as the code says' if was_set else 'was not overridden'}")
