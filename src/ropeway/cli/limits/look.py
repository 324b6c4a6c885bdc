"""`ropeway limits list` and `show`."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from ropeway.broker import JobStore, KeyInfo
from ropeway.cli.exits import missing
from ropeway.cli.grouped import grouped
from ropeway.cli.output.spell import ago, now_ms
from ropeway.cli.output.stream import emit, emit_json, emit_text, note, one_cell
from ropeway.cli.store import Store
from ropeway.flow.rules import LimitRule, Rule, RuleInfo, Slots, kind_of
from ropeway.job import JobRecord, JobRef
from ropeway.limits import find_rule, limit_of, rule_words

if TYPE_CHECKING:
    from rich.text import Text


@grouped
def list_limits(store: Store) -> None:
    """List limits, rules of queues and batches: in force, and what the code says where it differs.

    With --json: {"rules": [...]}, each with "declared", "override" and "in_force".
    """

    async def read(broker: JobStore) -> list[RuleInfo]:
        return await broker.rules()

    rules = store.run(read)
    if store.json:
        emit_json({"rules": [plain_rule(info) for info in rules]})
    elif not rules:
        note("no limits")
    else:
        _show_rules(rules)


def plain_rule(info: RuleInfo) -> dict[str, Any]:
    """A rule for `--json`."""
    return {
        "kind": kind_of(info.rule),
        "name": info.rule.name,
        "declared": None if info.declared is None else msgspec.to_builtins(info.declared),
        "override": None if info.override is None else msgspec.to_builtins(info.override),
        "in_force": msgspec.to_builtins(info.rule),
    }


def _show_rules(rules: Sequence[RuleInfo]) -> None:
    from ropeway.cli.output.table import Column, table

    columns = (
        Column("NAME", shrink=True),
        Column("KIND"),
        Column("COUNTED"),
        Column("BY"),
        Column("RULE", shrink=True),
    )
    rows = [
        (
            info.rule.name,
            kind_of(info.rule),
            f"per {info.rule.scope}" if isinstance(info.rule, LimitRule) else "-",
            "code" if info.override is None else "operator",
            rule_words(info.rule),
        )
        for info in rules
    ]
    emit_text(table(columns, rows, notes=[_code_says(info) for info in rules]))


def _code_says(info: RuleInfo) -> str:
    if info.override is None:
        return ""
    return f"the code says: {'nothing' if info.declared is None else rule_words(info.declared)}"


@grouped
def show_limit(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The limit; `queue:NAME` for a queue's own.")
    ],
    store: Store,
    key: Annotated[str | None, typer.Option(help="Only this key, with its jobs.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Keys at most.")] = 100,
) -> None:
    """Show who holds a limit, key by key: jobs and workers, how many wait, when it opens.

    Keys that nothing holds and nothing waits for are left out.
    """

    async def read(broker: JobStore) -> tuple[RuleInfo, list[KeyInfo], list[JobRecord]]:
        info = await existing(broker, name)
        keys = await broker.keys(name, key=key, limit=limit)
        records = await broker.get([ref for one in keys for ref in one.running])
        return info, keys, [record for record in records if record is not None]

    info, keys, records = store.run(read)
    holders = {record.job.ref: record for record in records}
    if store.json:
        emit_json({**plain_rule(info), "keys": [_plain_key(one, holders) for one in keys]})
        return
    says = _code_says(info)
    emit(f"{one_cell(name)}  {rule_words(info.rule)}{f' ({says})' if says else ''}")
    if not keys:
        note("no job holds it or waits for it" if key is None else f"key {key!r} is free")
        return
    emit_text(_key_rows(info.rule, keys, holders))
    if key is not None and holders:
        emit("")
        emit_text(_holder_rows(records))


async def existing(broker: JobStore, name: str) -> RuleInfo:
    """The rule of a limit that must exist."""
    info = await find_rule(broker, name)
    if info is None:
        raise missing(f"there is no limit {name!r}; see `ropeway limits list`")
    return info


def _plain_key(info: KeyInfo, holders: Mapping[JobRef, JobRecord]) -> dict[str, Any]:
    return {
        "queue": info.queue or None,
        "key": info.key,
        "used": info.used,
        "parked": info.parked,
        "opens_at_ms": info.opens_at_ms,
        "running": [
            {"id": ref.id, "queue": ref.queue, "worker": _worker(ref, holders)}
            for ref in info.running
        ],
    }


def _worker(ref: JobRef, holders: Mapping[JobRef, JobRecord]) -> str | None:
    return holders[ref].status.worker if ref in holders else None


def _key_rows(rule: Rule, keys: Sequence[KeyInfo], holders: Mapping[JobRef, JobRecord]) -> "Text":
    from ropeway.cli.output.table import Column, table

    now = now_ms()
    columns = (
        Column("KEY", shrink=True),
        Column("QUEUE", shrink=True),
        Column("RUN", right=True),
        Column("WAIT", right=True),
        Column("OPENS", right=True),
        Column("HELD BY", shrink=True),
    )
    rows = [
        (
            info.key or "-",
            info.queue or "-",
            _used(rule, info),
            str(info.parked or "-"),
            ago(info.opens_at_ms, now=now),
            ", ".join(f"{r.id} on {_worker(r, holders) or '-'}" for r in info.running) or "-",
        )
        for info in keys
    ]
    return table(columns, rows)


def _used(rule: Rule, info: KeyInfo) -> str:
    limit = limit_of(rule, info)
    return f"{info.used}/{limit.n}" if isinstance(limit, Slots) else str(info.used or "-")


def _holder_rows(records: Sequence[JobRecord]) -> "Text":
    from ropeway.cli.output.table import Column, table

    now = now_ms()
    columns = (Column("JOB"), Column("TASK", shrink=True), Column("WORKER"), Column("STARTED"))
    rows = [
        (
            record.job.id,
            record.job.task,
            record.status.worker or "-",
            ago(record.status.started_at_ms, now=now),
        )
        for record in records
    ]
    return table(columns, rows)
