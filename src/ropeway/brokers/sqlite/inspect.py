"""Looking at jobs, queues, streams, signals and workers. Reads only."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from ropeway.broker import FIND_SCAN_MAX, Filter, JobEvent, Page, QueueInfo, Signal, WorkerInfo
from ropeway.brokers.sqlite.connection import Connection
from ropeway.brokers.sqlite.flow.keys import Keys
from ropeway.brokers.sqlite.flow.rules import Rules
from ropeway.brokers.sqlite.rows import (
    CODE,
    COLUMNS,
    FIRST_FINAL,
    Stored,
    load,
    state_of,
    stored,
    texts,
)
from ropeway.errors import ConfigError
from ropeway.job import PRIORITY_MAX, JobRecord, JobRef, State
from ropeway.matching import failure_text

_SIGNAL = msgspec.msgpack.Decoder(Signal)
_WORKER = msgspec.msgpack.Decoder(WorkerInfo)
_UNION_MAX: Final = 50  # (queue, state) pairs that a find merges by their index
# Neither available nor running jobs have an index by seq, which would cost each job two more
# changes of an index on its way: few of them are sorted, many are met soon on a walk.
_SORTED_MAX: Final = FIND_SCAN_MAX
_BY_STATE: Final = {
    **dict.fromkeys(State, "state NOT IN (2, 3) AND queue = ? AND state = ?"),
    State.AVAILABLE: "state = 2 AND queue = ? AND state = ?",
    State.RUNNING: "state = 3 AND +queue = ? AND state = ?",
}


class Reader(NamedTuple):
    """A read transaction: its connection and its time."""

    sql: Connection
    now_ms: int


def get(reader: Reader, refs: Sequence[JobRef]) -> list[JobRecord | None]:
    """Records by position."""
    rows = [load(reader.sql, ref) for ref in refs]
    return [None if row is None else row.record for row in rows]


def unfinished(reader: Reader, refs: Sequence[JobRef]) -> list[JobRef]:
    """Those of the jobs that exist and are not final."""
    found = reader.sql.rows(
        "SELECT j.id, j.queue, j.state FROM carray(?) AS wanted CROSS JOIN jobs AS j"
        " ON j.id = wanted.value ORDER BY j.seq",
        (texts({ref.id for ref in refs}),),
    )
    states: dict[JobRef, int] = {}
    for job_id, queue, state in found:
        states[JobRef(job_id, queue)] = state
        states.setdefault(JobRef(job_id), state)
    return [ref for ref in refs if states.get(ref, FIRST_FINAL) < FIRST_FINAL]


def unretained(reader: Reader, refs: Sequence[JobRef]) -> list[JobRef]:
    """Those of the unfinished jobs whose records go with their end."""
    rows = [load(reader.sql, ref) for ref in unfinished(reader, refs)]
    return [row.job.ref for row in rows if row is not None and row.job.retention_ms == 0]


class Find(NamedTuple):
    """The arguments of one call of `find`."""

    where: Filter
    after: str | None
    limit: int


def find(reader: Reader, call: Find) -> Page:
    """One page, newest first; the cursor is the seq of the last record looked at."""
    before_seq = _parse(call.after)
    source = _source(reader, call.where)
    if source is None:
        return Page([], None)
    sql, values = source
    matches = _leftover(call.where)
    conditions, condition_values = _conditions(call.where)
    rows = reader.sql.walk(
        f"SELECT {COLUMNS}, {conditions} FROM jobs WHERE seq IN"
        f" (SELECT seq FROM ({sql}) WHERE seq < ? ORDER BY seq DESC LIMIT {FIND_SCAN_MAX + 1})"
        " ORDER BY seq DESC",
        (*condition_values, *values, before_seq),
    )
    records: list[JobRecord] = []
    seq = before_seq
    for scanned, row in enumerate(rows):
        if len(records) >= call.limit or scanned >= FIND_SCAN_MAX:
            return Page(records, str(seq))
        seq = row[0]
        if row[-1]:
            found = stored(row[:-1])
            if matches(found):
                records.append(found.record)
    return Page(records, None)


def _parse(cursor: str | None) -> int:
    if cursor is None:
        return 2**62
    if not cursor.isdecimal():
        raise ConfigError(f"cursor {cursor!r} is not one that find() returned")
    return min(int(cursor), 2**62)


def _source(reader: Reader, where: Filter) -> tuple[str, tuple[Any, ...]] | None:
    """A query for candidate seqs that can be walked downwards; None: there are none."""
    if where.queue is None and where.states is None:
        return "SELECT seq FROM jobs", ()
    pairs = [
        (queue, state_of(state), n)
        for queue, state, n in reader.sql.rows(
            "SELECT queue, state, n FROM counters WHERE n > 0 ORDER BY queue, state"
        )
        if (where.queue is None or queue == where.queue)
        and (where.states is None or state_of(state) in where.states)
    ]
    if not pairs:
        return None
    indexed = all(
        n <= _SORTED_MAX or state not in (State.AVAILABLE, State.RUNNING) for _, state, n in pairs
    )
    if not indexed or len(pairs) > _UNION_MAX:
        return "SELECT seq FROM jobs", ()
    parts = [f"SELECT seq FROM jobs WHERE {_BY_STATE[state]}" for _, state, _ in pairs]
    values = [value for queue, state, _ in pairs for value in (queue, CODE[state])]
    return " UNION ALL ".join(parts), tuple(values)


def _conditions(where: Filter) -> tuple[str, tuple[Any, ...]]:
    """The part of the filter that columns answer, as one SQL expression."""
    parts: list[str] = ["1"]
    values: list[Any] = []
    for column, value in (
        ("queue = ?", where.queue),
        ("task = ?", where.task),
        ("worker = ?", where.worker),
        ("created_at_ms >= ?", where.created_from_ms),
        ("created_at_ms < ?", where.created_before_ms),
        ("finished_at_ms >= ?", where.finished_from_ms),
        ("finished_at_ms < ?", where.finished_before_ms),
    ):
        if value is not None:
            parts.append(f"coalesce({column}, 0)")
            values.append(value)
    if where.states is not None:
        codes = ", ".join(str(CODE[state]) for state in sorted(where.states))
        parts.append(f"state IN ({codes})")
    return " AND ".join(parts), tuple(values)


def _leftover(where: Filter) -> Callable[[Stored], bool]:
    """The part of the filter that needs the record itself."""
    tag, key, error = where.tag, where.unique_key, where.error

    def matches(row: Stored) -> bool:
        unique = row.job.unique
        return (
            (tag is None or tag in row.job.tags)
            and (key is None or (unique is not None and unique.key == key))
            and (error is None or error in failure_text(row.status))
        )

    return matches


def count(reader: Reader, where: Filter) -> int:
    """How many records match, exactly; by the counters where those know it."""
    only = Filter(states=where.states, queue=where.queue)
    source = _source(reader, where)
    if source is None:
        return 0
    if where == only:
        return _counted(reader, where)
    conditions, values = _conditions(where)
    if where.tag is None and where.unique_key is None and where.error is None:
        return _one(
            reader,
            f"SELECT count(*) FROM jobs WHERE seq IN ({source[0]}) AND {conditions}",
            (*source[1], *values),
        )
    matches = _leftover(where)
    rows = reader.sql.walk(
        f"SELECT {COLUMNS} FROM jobs WHERE seq IN ({source[0]}) AND {conditions}",
        (*source[1], *values),
    )
    return sum(1 for row in rows if matches(stored(row)))


def _counted(reader: Reader, where: Filter) -> int:
    conditions, values = "1", ()
    if where.queue is not None:
        conditions, values = "queue = ?", (where.queue,)
    states = where.states if where.states is not None else frozenset(State)
    codes = ", ".join(str(CODE[state]) for state in sorted(states))
    return _one(
        reader,
        f"SELECT coalesce(sum(n), 0) FROM counters WHERE {conditions} AND state IN ({codes})",
        values,
    )


def _one(reader: Reader, sql: str, values: tuple[Any, ...]) -> int:
    return reader.sql.rows(sql, values)[0][0]


class Peek(NamedTuple):
    """The arguments of one call of `peek`."""

    queue: str
    limit: int
    offset: int


def peek(reader: Reader, call: Peek) -> list[JobRecord]:
    """Available jobs in the order of reserve. The offset walks the index alone."""
    rows = reader.sql.rows(
        f"SELECT {COLUMNS} FROM jobs WHERE seq IN (SELECT seq FROM jobs"
        " WHERE queue = ? AND blocked = 0 AND state = 2"
        " ORDER BY priority DESC, rank, due_ms, seq LIMIT ? OFFSET ?)"
        " ORDER BY priority DESC, rank, due_ms, seq",
        call,
    )
    return [stored(row).record for row in rows]


def queues(reader: Reader, _: None) -> list[QueueInfo]:
    """Every queue that has records or is paused, by name, from the counters."""
    sql = reader.sql
    paused = {name for (name,) in sql.rows("SELECT queue FROM paused")}
    counts: dict[str, dict[State, int]] = {name: {} for name in paused}
    found = sql.rows("SELECT queue, state, n FROM counters WHERE n > 0 ORDER BY 1, 2")
    for queue, state, n in found:
        counts.setdefault(queue, {})[state_of(state)] = n
    return [
        QueueInfo(
            name=name,
            paused=name in paused,
            counts=counts[name],
            oldest_due_ms=_oldest_due_ms(sql, name),
        )
        for name in sorted(counts)
    ]


def _oldest_due_ms(sql: Connection, queue: str) -> int | None:
    """The earliest due time among the available jobs: the first entry of each priority.

    Where jobs are ranked first, all of them have to be looked at.
    """
    if sql.rows("SELECT 1 FROM fair WHERE queue = ? LIMIT 1", (queue,)):
        ((due_ms,),) = sql.rows(
            "SELECT min(due_ms) FROM jobs WHERE queue = ? AND blocked = 0 AND state = 2", (queue,)
        )
        return due_ms
    found = [
        sql.rows(
            "SELECT due_ms FROM jobs WHERE queue = ? AND blocked = 0 AND state = 2"
            " AND priority = ? ORDER BY rank, due_ms LIMIT 1",
            (queue, priority),
        )
        for priority in range(PRIORITY_MAX + 1)
    ]
    return min((rows[0][0] for rows in found if rows), default=None)


class Events(NamedTuple):
    """The arguments of one call of `events`."""

    ref: JobRef
    after: int
    limit: int


def events(reader: Reader, call: Events) -> list[JobEvent]:
    """Entries of a job's stream, oldest first."""
    row = load(reader.sql, call.ref)
    if row is None:
        return []
    found = reader.sql.rows(
        "SELECT n, at_ms, kind, data FROM events WHERE job_seq = ? AND n > ? ORDER BY n LIMIT ?",
        (row.status.seq, call.after, call.limit),
    )
    return [JobEvent(seq=n, at_ms=at_ms, kind=kind, data=data) for n, at_ms, kind, data in found]


def signals(reader: Reader, after: int | None) -> list[Signal]:
    """Signals with a seq greater than `after`; None: the newest only."""
    if after is None:
        found = reader.sql.rows("SELECT seq, data FROM signals ORDER BY seq DESC LIMIT 1")
    else:
        found = reader.sql.rows(
            "SELECT seq, data FROM signals WHERE seq > ? ORDER BY seq", (after,)
        )
    return [msgspec.structs.replace(_SIGNAL.decode(data), seq=seq) for seq, data in found]


def workers(reader: Reader, gone_ms: int) -> list[WorkerInfo]:
    """The workers heard of in the last `gone_ms`."""
    found = reader.sql.rows(
        "SELECT data FROM workers WHERE seen_at_ms > ?", (reader.now_ms - gone_ms,)
    )
    infos = [_WORKER.decode(data) for (data,) in found]
    return sorted(infos, key=lambda worker: worker.started_at_ms)


def next_chance_ms(reader: Reader, queues: Iterable[str], rules: Rules) -> int | None:
    """Milliseconds until a reserve of these queues may find a job: 0 is now, None is unknown."""
    times: list[int | None] = []
    if rules.limits:
        ((wake_ms,),) = reader.sql.rows("SELECT min(wake_at_ms) FROM limit_keys")
        times.append(wake_ms)
    for queue in queues:
        if reader.sql.rows("SELECT 1 FROM paused WHERE queue = ?", (queue,)):
            continue
        if rules.queue(queue).limits and (shut := _shut(reader, queue, rules)):
            times += shut
            continue
        if reader.sql.rows(
            "SELECT 1 FROM jobs WHERE queue = ? AND blocked = 0 AND state = 2 LIMIT 1", (queue,)
        ):
            return 0
        ((due_ms,),) = reader.sql.rows(
            "SELECT min(due_ms) FROM jobs WHERE queue = ? AND state IN (1, 4)", (queue,)
        )
        times.append(due_ms)
    waits = [max(0, at_ms - reader.now_ms) for at_ms in times if at_ms is not None]
    return min(waits, default=None)


def _shut(reader: Reader, queue: str, rules: Rules) -> list[int | None]:
    """When a queue without room may have some, as far as that is known; [] when it has room."""
    keys = Keys(reader.sql, rules)
    found = reader.sql.first("SELECT n FROM counters WHERE queue = ? AND state = 3", (queue,))
    if keys.queue_room(queue, found[0] if found else 0, reader.now_ms):
        return []
    return [keys.queue_opens_ms(queue, reader.now_ms)]
