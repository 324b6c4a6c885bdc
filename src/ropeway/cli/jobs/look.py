"""`ropeway jobs list`, `show` and `logs`."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from ropeway.broker import JobEvent, JobStore
from ropeway.cli.exits import missing
from ropeway.cli.grouped import grouped
from ropeway.cli.jobs.selection import Selection
from ropeway.cli.output.record import as_plain, decoded, job_rows
from ropeway.cli.output.spell import ago, clock, count_of, duration, now_ms, size, stamp
from ropeway.cli.output.stream import emit, emit_json, emit_json_line, emit_text, note, printable
from ropeway.cli.store import Store
from ropeway.job import FINAL, WAITING, Failure, JobRecord, JobRef, State

_FOLLOW_EVERY_S = 0.25
_SHOWN_VALUE_MAX = 2_000  # characters of arguments and results; --json has all of them
_SHOWN_EVENTS = 20


@dataclass(frozen=True)
class Paging:
    """How many, from where."""

    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Jobs at most.")] = 20
    after: Annotated[
        str | None, typer.Option(metavar="CURSOR", help="Go on behind an earlier page.")
    ] = None


@dataclass(frozen=True)
class One:
    """Names one job."""

    id: Annotated[str, typer.Argument(metavar="ID", help="The job's id.")]
    queue: Annotated[
        str | None, typer.Option(help="Its queue, where two have a job of this id.")
    ] = None

    @property
    def ref(self) -> JobRef:
        """The job's name for the broker."""
        return JobRef(self.id, self.queue)


@grouped
def list_jobs(where: Selection, paging: Paging, store: Store) -> None:
    """List jobs, newest first.

    With --json: one document {"jobs": [...], "cursor": "..."}; cursor is null at the end.
    """
    wanted = where.filter()

    async def read(broker: JobStore) -> tuple[list[JobRecord], str | None]:
        records: list[JobRecord] = []
        cursor = paging.after
        while True:
            page = await broker.find(wanted, after=cursor, limit=paging.limit - len(records))
            records += page.records
            cursor = page.cursor
            if cursor is None or len(records) >= paging.limit:
                return records, cursor

    records, cursor = store.run(read)
    if store.json:
        emit_json({"jobs": [as_plain(record) for record in records], "cursor": cursor})
    elif not records:
        note("no jobs match" if where.narrows or paging.after else "no jobs")
    else:
        emit_text(job_rows(records))
        if cursor is not None:
            note(f"there are more: add --after {cursor}")


@grouped
def show_job(job: One, store: Store) -> None:
    """Show all that is known of a job: its words, errors, progress and log."""

    async def read(broker: JobStore) -> tuple[JobRecord, list[JobEvent]]:
        record = await record_of(broker, job.ref)
        return record, await broker.events(record.job.ref)

    record, events = store.run(read)
    if store.json:
        emit_json({**as_plain(record), "events": [event_plain(event) for event in events]})
        return
    from ropeway.cli.output.table import pairs

    emit_text(pairs([*_what(record), *_how(record), *_when(record)]))
    for failure in record.status.errors:
        _show_failure(failure, whole=failure is record.status.errors[-1])
    _show_events(events)


@grouped
def job_logs(
    job: One,
    store: Store,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")
    ] = False,
) -> None:
    """Print the log lines, progress and partial results of a job.

    With --json: one JSON document a line, {"seq", "at_ms", "kind", "data"}.
    """

    async def read(broker: JobStore) -> None:
        ref = (await record_of(broker, job.ref)).job.ref
        after = 0
        while True:
            # Looked at first: what was written before the end is then surely read after it.
            record = (await broker.get([ref]))[0]
            while events := await broker.events(ref, after=after):
                after = events[-1].seq
                for event in events:
                    _print_event(event, json=store.json)
            if not follow or record is None or record.status.state in FINAL:
                return
            await asyncio.sleep(_FOLLOW_EVERY_S)

    store.run(read)


async def record_of(broker: JobStore, ref: JobRef) -> JobRecord:
    """The record of a job that must exist."""
    record = (await broker.get([ref]))[0]
    if record is None:
        where = "" if ref.queue is None else f" in queue {ref.queue!r}"
        raise missing(f"there is no job {ref.id!r}{where}; records go when their retention ends")
    return record


def event_plain(event: JobEvent) -> dict[str, Any]:
    """An event for `--json`."""
    return {"seq": event.seq, "at_ms": event.at_ms, "kind": event.kind, "data": event.data}


def _print_event(event: JobEvent, *, json: bool) -> None:
    if json:
        emit_json_line(event_plain(event))
    else:
        emit(_event_line(event))


def _event_line(event: JobEvent) -> str:
    kind = "" if event.kind == "log" else f"{event.kind}  "
    return f"{clock(event.at_ms)}  {kind}{printable(event.data)}"


def _what(record: JobRecord) -> list[tuple[str, str]]:
    job, status = record.job, record.status
    return [
        ("id", job.id),
        ("task", job.task),
        ("queue", job.queue),
        ("state", status.state.value),
        ("reason", status.reason or ""),
        ("blocked on", status.blocked_on or ""),
        ("waits for", ", ".join(sorted(status.waiting_on))),
        ("unblocks", ", ".join(ref.id for ref in job.unblocks)),
        ("args", _value(job.payload, job.codec, "args")),
        ("result", _value(status.result, status.result_codec, "result")),
    ]


def _how(record: JobRecord) -> list[tuple[str, str]]:
    job, status = record.job, record.status
    progress, unique = status.progress, job.unique
    tries = (
        str(status.attempt) if job.attempt_max is None else f"{status.attempt} of {job.attempt_max}"
    )
    return [
        ("progress", "" if progress is None else f"{progress.fraction:.0%} {progress.note}"),
        ("attempts", tries),
        ("crashes", str(len(status.crashes) or "")),
        ("priority", str(job.priority or "")),
        ("tags", ", ".join(job.tags)),
        ("headers", ", ".join(f"{name}={value}" for name, value in job.headers.items())),
        ("unique key", "" if unique is None else unique.key),
        ("ordering", job.ordering_key or ""),
        ("timeout", "" if job.timeout_ms is None else duration(job.timeout_ms)),
        ("revision", str(job.revision or "")),
        ("worker", status.worker or ""),
        ("stop", "asked to stop" if status.cancel_requested else ""),
        ("saved", "" if status.saved is None else size(len(status.saved))),
    ]


def _when(record: JobRecord) -> list[tuple[str, str]]:
    job, status, now = record.job, record.status, now_ms()
    waits = status.state in WAITING - {State.AVAILABLE, State.PENDING}
    ran_ms = None
    if status.started_at_ms is not None and status.finished_at_ms is not None:
        ran_ms = status.finished_at_ms - status.started_at_ms
    times = (
        ("enqueued", job.created_at_ms),
        ("due", status.due_ms if waits else None),
        ("started", status.started_at_ms),
        ("finished", status.finished_at_ms),
        ("expires", job.expires_at_ms if status.state in WAITING else None),
        ("deadline", job.deadline_at_ms if status.state not in FINAL else None),
    )
    return [
        *((n, "" if ms is None else f"{stamp(ms)} ({ago(ms, now=now)})") for n, ms in times),
        ("ran for", "" if ran_ms is None else duration(max(0, ran_ms))),
    ]


def _value(data: bytes | None, codec_name: str, what: str) -> str:
    import msgspec

    if data is None:
        return ""
    value, error = decoded(data, codec_name, what)
    if error is not None:
        return f"({size(len(data))}, unreadable: {error})"
    text = msgspec.json.encode(value).decode()
    if len(text) <= _SHOWN_VALUE_MAX:
        return text
    return f"{text[:_SHOWN_VALUE_MAX]}… ({size(len(text))}; all of it with --json)"


def _show_failure(failure: Failure, *, whole: bool) -> None:
    from rich.text import Text

    head = f"\nattempt {failure.attempt}, {stamp(failure.at_ms)}: "
    emit_text(
        Text.assemble((head, "dim"), (printable(f"{failure.type}: {failure.message}"), "red"))
    )
    if whole and failure.traceback:
        emit(printable(failure.traceback.rstrip()))


def _show_events(events: Sequence[JobEvent]) -> None:
    if not events:
        return
    left_out = len(events) - _SHOWN_EVENTS
    more = f" (the last {_SHOWN_EVENTS} of {count_of(len(events), 'line')})" if left_out > 0 else ""
    emit(f"\nlog{more}")
    for event in events[-_SHOWN_EVENTS:]:
        emit(_event_line(event))
