"""How a job is written as a row of `jobs`, and read back."""

from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, cast

import apsw
import msgspec

from ropeway.brokers.sqlite.connection import Connection
from ropeway.errors import StorageCorrupt
from ropeway.job import (
    UNFINISHED,
    Crash,
    Failure,
    Job,
    JobRecord,
    JobRef,
    Progress,
    State,
    Status,
)

FORMAT: Final = 1
_STATES: Final = tuple(State)
CODE: Final[dict[State, int]] = {state: code for code, state in enumerate(State)}
FIRST_FINAL: Final = CODE[State.COMPLETED]


def state_of(code: int) -> State:
    """The state that a code in the column `state` stands for."""
    return _STATES[code]


class Flag:
    """Bits of the column `flags`: what keeps a job off the short paths.

    Plain integers: `&` with a member of an enum takes longer than the row's own statement.
    """

    UNIQUE = 1
    UNIQUE_PARTLY = 2  # some unfinished states do not hold its key
    EDGES = 4  # it waits for jobs, or jobs wait for it
    ORDERED = 8
    SUSPECT = 16
    EVENTS = 32
    LIMITED = 64
    FAIR = 128
    GROUPED = 256


# A default is left out when it is this very object; another empty set would be written.
_NO_PARENTS: Final[frozenset[str]] = frozenset()


class Extra(msgspec.Struct, omit_defaults=True):
    """The cold part of `Status`."""

    snoozes: int = 0
    crashes: tuple[Crash, ...] = ()
    waiting_on: frozenset[str] = _NO_PARENTS
    reason: str | None = None
    errors: tuple[Failure, ...] = ()
    progress: Progress | None = None
    saved: bytes | None = None
    cancel_requested: bool = False


encode: Callable[[Any], bytes] = msgspec.msgpack.Encoder().encode
decode_job: Callable[[bytes], Job] = msgspec.msgpack.Decoder(Job).decode
decode_jobs: Callable[[bytes], list[Job]] = msgspec.msgpack.Decoder(list[Job]).decode
_decode_extra = msgspec.msgpack.Decoder(Extra).decode
_decode_parked = msgspec.json.Decoder(tuple[str, str, str]).decode
_EMPTY: Final = encode(Extra())
_NO_EXTRA: Final = Extra()
_carray: Final[Any] = cast(Any, apsw).carray

COLUMNS: Final = (
    "seq, state, due_ms, rank, blocked, flags, attempt, token, lease_until_ms, settled_token,"
    " worker, started_at_ms, finished_at_ms, unique_key, parked_on, result_codec, format, result,"
    " extra, job"
)


class Stored(msgspec.Struct, frozen=True):
    """A row as it was read."""

    job: Job
    status: Status
    flags: int
    unique_key: str | None
    parked_on: str | None = None

    @property
    def record(self) -> JobRecord:
        return JobRecord(self.job, self.status)


def stored(row: Sequence[Any]) -> Stored:
    """Decode a row of `COLUMNS`.

    Raises:
        StorageCorrupt: the row does not hold what was written, or a newer release wrote it.
    """
    seq, state, due_ms, rank, blocked, flags, attempt, token, lease_until_ms = row[:9]
    settled_token, worker, started_at_ms, finished_at_ms, unique_key, parked_on = row[9:15]
    result_codec, version, result, extra_blob, job_blob = row[15:]
    if version != FORMAT:
        raise StorageCorrupt(
            f"the record with seq {seq} has format {version}; this release reads {FORMAT}. "
            "It was left in place: upgrade Ropeway here"
        )
    try:
        job = decode_job(job_blob)
        extra = _NO_EXTRA if extra_blob is None else _decode_extra(extra_blob)
    except msgspec.MsgspecError as error:
        raise StorageCorrupt(f"the record with seq {seq} is damaged: {error}") from error
    status = Status(
        state=state_of(state),
        seq=seq,
        due_ms=due_ms,
        rank=rank,
        attempt=attempt,
        snoozes=extra.snoozes,
        crashes=extra.crashes,
        token=token,
        lease_until_ms=lease_until_ms,
        worker=worker,
        started_at_ms=started_at_ms,
        finished_at_ms=finished_at_ms,
        waiting_on=extra.waiting_on,
        blocked_on=_blocked_on(job, parked_on) if blocked else None,
        reason=extra.reason,
        errors=extra.errors,
        progress=extra.progress,
        saved=extra.saved,
        result=result,
        result_codec=result_codec or "json",
        cancel_requested=extra.cancel_requested,
        settled_token=settled_token,
    )
    return Stored(job, status, flags, unique_key, parked_on)


def _blocked_on(job: Job, parked_on: str | None) -> str:
    """`Status.blocked_on` of an available job that is not the head of its line, or parked."""
    if parked_on is None:
        return f"ordering:{job.ordering_key}"
    _, name, key = _decode_parked(parked_on[1:])
    return f"group:{key}" if parked_on[0] == "G" else f"limit:{name}:{key}"


def extra_of(status: Status) -> bytes | None:
    """The cold part of a status as bytes; None when there is nothing in it."""
    blob = encode(
        Extra(
            snoozes=status.snoozes,
            crashes=status.crashes,
            waiting_on=status.waiting_on or _NO_PARENTS,
            reason=status.reason,
            errors=status.errors,
            progress=status.progress,
            saved=status.saved,
            cancel_requested=status.cancel_requested,
        )
    )
    return None if blob == _EMPTY else blob


def flags_of(job: Job, status: Status, *, kept: int = 0) -> int:
    """The flags of a row; `kept` are its flags so far, of which EDGES and EVENTS stay."""
    flags = kept & (Flag.EDGES | Flag.EVENTS)
    if job.unique is not None:
        flags |= Flag.UNIQUE
        if not job.unique.during >= UNFINISHED:
            flags |= Flag.UNIQUE_PARTLY
    if job.parents or job.unblocks:
        flags |= Flag.EDGES
    if job.ordering_key is not None:
        flags |= Flag.ORDERED
    if job.limits:
        flags |= Flag.LIMITED
    if job.fair_key is not None:
        flags |= Flag.FAIR
    if job.group_key is not None:
        flags |= Flag.GROUPED
    if len(status.crashes) >= 2:
        flags |= Flag.SUSPECT
    return flags


def overdue_at_ms(job: Job) -> int | None:
    """From when on the job must not be started; None: never."""
    if job.expires_at_ms is None or job.deadline_at_ms is None:
        return job.deadline_at_ms if job.expires_at_ms is None else job.expires_at_ms
    return min(job.expires_at_ms, job.deadline_at_ms)


def numbers(values: Iterable[int]) -> Any:
    """Integers as one parameter of `carray`: one statement for a whole batch.

    One statement matters twice: it costs less, and a thread that runs it asks for the
    interpreter's lock once and not once a row, against a busy event loop. None stands for no
    values, since the driver refuses an empty array.
    """
    packed = array("q", values)
    return _carray(packed) if packed else None


def texts(values: Iterable[str]) -> Any:
    """Strings as one parameter of `carray`."""
    packed = tuple(values)
    return _carray(packed) if packed else None


def blobs_of(values: Iterable[bytes]) -> Any:
    """Bytes as one parameter of `carray`."""
    packed = tuple(values)
    return _carray(packed) if packed else None


def load(sql: Connection, ref: JobRef) -> Stored | None:
    """One row by id; without a queue, the first with that id."""
    if ref.queue is None:
        found = sql.rows(f"SELECT {COLUMNS} FROM jobs WHERE id = ? ORDER BY seq LIMIT 1", (ref.id,))
    else:
        found = sql.rows(
            f"SELECT {COLUMNS} FROM jobs WHERE id = ? AND queue = ?", (ref.id, ref.queue)
        )
    return stored(found[0]) if found else None


def load_seqs(sql: Connection, seqs: Sequence[int]) -> list[Stored]:
    """Rows by seq, in the order of `seqs`; those that are gone are left out."""
    if not seqs:
        return []
    found = sql.rows(
        f"SELECT {COLUMNS} FROM jobs WHERE seq IN (SELECT value FROM carray(?))", (numbers(seqs),)
    )
    by_seq = {row[0]: stored(row) for row in found}
    return [by_seq[seq] for seq in seqs if seq in by_seq]
