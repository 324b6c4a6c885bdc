"""`ropeway jobs retry`, `cancel`, `run-now`, `bury`, `delete`, `move`: by id or by filter."""

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Final

import typer

from ropeway.action import (
    Acted,
    Action,
    Answer,
    BuryJob,
    CancelJob,
    DeleteJob,
    MoveJob,
    RetryJob,
    RunNow,
)
from ropeway.broker import Filter, JobStore
from ropeway.cli.exits import Exit, Failure, usage
from ropeway.cli.grouped import grouped
from ropeway.cli.jobs.selection import Selection, found
from ropeway.cli.output.spell import count_of
from ropeway.cli.output.stream import emit, emit_json, note, one_cell
from ropeway.cli.store import Store
from ropeway.job import FINAL, UNFINISHED, WAITING, JobRef, State

Make = Callable[[JobRef], Action]


@dataclass(frozen=True)
class Verb:
    """An action in words, and the states it means when a filter names none."""

    name: str
    done: str
    states: frozenset[State]


RETRY: Final = Verb("retry", "made available", frozenset({State.DEAD}))
CANCEL: Final = Verb("cancel", "cancelled", UNFINISHED)
RUN_NOW: Final = Verb("run-now", "made available", frozenset({State.SCHEDULED, State.RETRYABLE}))
BURY: Final = Verb("bury", "buried", WAITING)
MOVE: Final = Verb("move", "moved", WAITING)
DELETE: Final = Verb("delete", "deleted", FINAL)


@dataclass(frozen=True)
class Which:
    """The jobs to act on: ids, or a filter over all of them."""

    ids: Annotated[list[str] | None, typer.Argument(metavar="ID", help="Ids of jobs.")] = None
    all: Annotated[bool, typer.Option("--all", help="Every job that the action is for.")] = False
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say how many, change nothing.")] = (
        False
    )
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False


@grouped
def retry(which: Which, where: Selection, store: Store) -> None:
    """Make dead jobs available again, with fresh attempts.

    By id: any finished or retryable job. By filter: dead jobs, unless --state says otherwise.
    """
    _act(RETRY, lambda ref: RetryJob(ref=ref), which, where, store)


@grouped
def cancel(
    which: Which,
    where: Selection,
    store: Store,
    reason: Annotated[str, typer.Option(help="Kept in the record.")] = "cancelled",
) -> None:
    """Cancel jobs; running ones are asked to stop."""
    _act(CANCEL, lambda ref: CancelJob(ref=ref, reason=reason), which, where, store)


@grouped
def run_now(which: Which, where: Selection, store: Store) -> None:
    """Start scheduled and retryable jobs now; their attempts stay."""
    _act(RUN_NOW, lambda ref: RunNow(ref=ref), which, where, store)


@grouped
def bury(
    which: Which,
    where: Selection,
    store: Store,
    reason: Annotated[str, typer.Option(help="Kept in the record.")] = "buried",
) -> None:
    """Give up on waiting jobs: they end dead, kept for later."""
    _act(BURY, lambda ref: BuryJob(ref=ref, reason=reason), which, where, store)


@grouped
def delete(which: Which, where: Selection, store: Store) -> None:
    """Remove jobs that are not running, record and all.

    By id: any job that is not running. By filter: finished jobs, unless --state says otherwise.
    """
    _act(DELETE, lambda ref: DeleteJob(ref=ref), which, where, store)


@grouped
def move(
    to: Annotated[str, typer.Option("--to", metavar="QUEUE", help="The queue they go to.")],
    which: Which,
    where: Selection,
    store: Store,
) -> None:
    """Move waiting jobs to another queue; their time and order stay."""
    if not to:
        raise usage("--to must not be empty")
    _act(MOVE, lambda ref: MoveJob(ref=ref, queue=to), which, where, store)


def _act(verb: Verb, make: Make, which: Which, where: Selection, store: Store) -> None:
    if which.ids:
        if which.all or where.state or replace(where, queue=None).narrows:
            raise usage("give ids, or a filter, not both; only --queue goes with ids")
        _by_id(verb, [make(JobRef(id, where.queue)) for id in which.ids], which, store)
    elif which.all or where.narrows:
        _by_filter(verb, make, which, where.filter(states=verb.states), store)
    else:
        raise usage("name the jobs by id, by a filter such as --task NAME, or with --all")


def _by_id(verb: Verb, actions: Sequence[Action], which: Which, store: Store) -> None:
    if which.dry_run:
        raise usage("--dry-run counts what a filter finds; ids are as many as you gave")

    async def do(broker: JobStore) -> list[Acted]:
        return await broker.act(actions)

    answers = store.run(do)
    if store.json:
        emit_json(
            {
                "results": [
                    {
                        "id": action.ref.id,
                        "answer": answer.answer,
                        "state": answer.state,
                        "detail": answer.detail,
                    }
                    for action, answer in zip(actions, answers, strict=True)
                ]
            }
        )
    for action, answer in zip(actions, answers, strict=True):
        _report(verb, action, answer, json=store.json)
    seen = {answer.answer for answer in answers}
    if Answer.REFUSED in seen:
        raise Failure("", Exit.FAILED)
    if Answer.NOT_FOUND in seen:
        raise Failure("", Exit.NOT_FOUND)


def _report(verb: Verb, action: Action, answer: Acted, *, json: bool) -> None:
    id = one_cell(action.ref.id)
    if answer.answer is Answer.NOT_FOUND:
        note(f"error: there is no job {id!r}")
    elif answer.answer is Answer.REFUSED:
        note(f"error: job {id}: {verb.name} refused: {answer.detail or answer.state}")
    elif not json:
        asked = answer.answer is Answer.REQUESTED
        emit(f"{id}  {'asked to stop' if asked else verb.done}")


def _by_filter(verb: Verb, make: Make, which: Which, where: Filter, store: Store) -> None:
    async def count(broker: JobStore) -> int:
        return await broker.count(where)

    async def do(broker: JobStore) -> Counter[Answer]:
        tally: Counter[Answer] = Counter()
        async for records, _ in found(broker, where):
            answers = await broker.act([make(record.job.ref) for record in records])
            tally.update(answer.answer for answer in answers)
        return tally

    if which.dry_run or not which.yes:
        matching = store.run(count)
        if which.dry_run:
            _say_count(verb, matching, store)
            return
        if matching == 0:
            note("no jobs match")
            return
        confirm(f"{verb.name} {count_of(matching, 'job')}?")
    _say_tally(verb, store.run(do), store)


def is_terminal() -> bool:
    """Whether somebody can answer a question."""
    return sys.stdin.isatty()


def confirm(question: str) -> None:
    """Ask at the terminal; without one, --yes is needed."""
    if not is_terminal():
        raise usage(f"{question} Nobody can answer here: add --yes (or --dry-run to look)")
    if not typer.confirm(question, err=True):
        raise Failure("nothing was changed", Exit.FAILED)


def _say_count(verb: Verb, matching: int, store: Store) -> None:
    if store.json:
        emit_json({"dry_run": True, "matching": matching})
    else:
        emit(f"{verb.name} would apply to {count_of(matching, 'job')}")


def _say_tally(verb: Verb, tally: Counter[Answer], store: Store) -> None:
    if store.json:
        emit_json({answer.value: tally[answer] for answer in Answer})
    else:
        emit(f"{count_of(tally[Answer.DONE], 'job')} {verb.done}")
        if tally[Answer.REQUESTED]:
            emit(f"{count_of(tally[Answer.REQUESTED], 'running job')} asked to stop")
    if refused := tally[Answer.REFUSED]:
        raise Failure(
            f"{count_of(refused, 'job')} refused: their state does not allow it, or a key is taken"
        )
