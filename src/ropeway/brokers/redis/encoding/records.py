"""How a job is written in Redis, and read back. The layout is described in `lua/row.lua`.

What the scripts must know of a job are its traits; everything else they keep unread. A release
reads what the one before wrote: fields are named, and names are never given another meaning.
"""

from collections.abc import Callable
from struct import Struct
from typing import Any, Final

import msgspec

from ropeway.errors import StorageCorrupt, Unsupported
from ropeway.job import (
    Crash,
    Failure,
    Job,
    JobRecord,
    JobRef,
    LimitKey,
    OnConflict,
    OnParentFailed,
    Progress,
    State,
    Status,
    UniqueKey,
)

_HEAD: Final = Struct(">HIHIHBI")  # seq, created (6 bytes each), lengths of traits (3) and task
_HEAD_BYTES: Final = _HEAD.size
_EXACT: Final = 2**53  # Lua's numbers are doubles
_NUMBERS: Final = (
    "delay_ms",
    "scheduled_at_ms",
    "expires_after_ms",
    "expires_at_ms",
    "deadline_after_ms",
    "deadline_at_ms",
    "retention_ms",
    "crash_max",
    "revision",
)
_UNIQUE_NUMBERS: Final = ("window_ms", "period_ms", "delay_max_ms")
_LENGTHS: Final = Struct(">HBI").pack
_encode: Callable[[Any], bytes] = msgspec.msgpack.Encoder().encode


class _Unique(msgspec.Struct, omit_defaults=True):
    k: str
    d: tuple[str, ...]
    w: int = 0
    pp: int = 0
    dm: int | None = None
    c: OnConflict = "return"
    r: bool = False


class Traits(msgspec.Struct, omit_defaults=True):
    """What the scripts must know of a job; `dl`, `ex` and `dx` only on the way there."""

    p: int = 0
    t: str = ""
    cm: int = 3
    rt: int | None = None
    dl: int = 0
    ex: int | None = None
    dx: int | None = None
    sa: int | None = None
    ea: int | None = None
    da: int | None = None
    u: _Unique | None = None
    o: str | None = None
    pa: tuple[str, ...] = ()
    ub: tuple[str | bool, ...] = ()
    of: OnParentFailed = "cancel"
    fk: str | None = None
    fw: int = 1
    li: tuple[str, ...] = ()
    gk: str | None = None
    rv: int = 0


class _Rest(msgspec.Struct, omit_defaults=True):
    c: str = "json"
    h: dict[str, str] = {}
    g: tuple[str, ...] = ()
    n: int | None = None
    ms: int | None = None
    w: str | None = None
    s: str | None = None


class _StatusHead(msgspec.Struct):
    state: State
    due: int | None = None
    rank: float = 0.0
    attempt: int = 0
    snoozes: int = 0
    crashes: tuple[Crash, ...] = ()
    token: int = 0
    lease_until_ms: int = 0
    worker: str | None = None
    started_at_ms: int | None = None
    finished_at_ms: int | None = None
    waiting_on: frozenset[str] = frozenset()
    blocked_on: str | None = None
    reason: str | None = None
    result_codec: str = "json"
    cancel_requested: bool = False
    settled_token: int = 0
    z: tuple[int, ...] = ()


_decode_task = msgspec.msgpack.Decoder(tuple[str, bytes]).decode
_decode_traits = msgspec.msgpack.Decoder(Traits).decode
_decode_rest = msgspec.msgpack.Decoder(_Rest).decode
_decode_head = msgspec.msgpack.Decoder(_StatusHead).decode
_decode_failure = msgspec.msgpack.Decoder(Failure).decode
_decode_progress = msgspec.msgpack.Decoder(Progress).decode
encode_failure: Callable[[Failure], bytes] = _encode
encode_progress: Callable[[Progress], bytes] = _encode


def write(job: Job) -> bytes | None:
    """The words of a job that has no trait but a priority and a time, else None.

    The store puts the seq and the time of creation before them, and the time to start among them.
    The others need `write_traits`.
    """
    if _has_traits(job):
        return None
    task = _encode((job.task, job.payload))
    if job.priority:
        traits = _encode({"p": job.priority})
        head = _LENGTHS(len(traits) >> 8, len(traits) & 255, len(task))
        return b"".join((head, traits, task, _rest(job) if _has_rest(job) else b""))
    head = _LENGTHS(0, 0, len(task))
    return head + task + _rest(job) if _has_rest(job) else head + task


def write_traits(job: Job) -> tuple[bytes, bytes, bytes]:
    """A job as traits, task and payload, and the rest.

    Times that are relative stay so until the store's clock is known.
    """
    _check_numbers(job)
    rest = _rest(job) if _has_rest(job) else b""
    return _encode(_traits(job)), _encode((job.task, job.payload)), rest


def _check_numbers(job: Job) -> None:
    """Raise Unsupported for what the numbers of a script would not hold exactly."""
    unique = job.unique
    numbers = [(name, getattr(job, name)) for name in _NUMBERS]
    if unique is not None:
        numbers += [(f"unique {name}", getattr(unique, name)) for name in _UNIQUE_NUMBERS]
    for name, value in numbers:
        if value is not None and not -_EXACT <= value <= _EXACT:
            raise Unsupported(
                f"job {job.id}: {name}={value} is beyond the 2**53 that Redis counts exactly; give "
                "a number nearer to 0"
            )


def _has_traits(job: Job) -> bool:
    at_ms = job.scheduled_at_ms
    return not (
        job.crash_max == 3
        and (at_ms is None or -_EXACT <= at_ms <= _EXACT)
        and job.retention_ms is None
        and job.expires_after_ms is None
        and job.expires_at_ms is None
        and job.deadline_after_ms is None
        and job.deadline_at_ms is None
        and job.unique is None
        and job.ordering_key is None
        and job.fair_key is None
        and job.group_key is None
        and not (job.parents or job.unblocks or job.limits or job.revision)
        and job.on_parent_failed == "cancel"
    )


def _has_rest(job: Job) -> bool:
    return not (
        job.codec == "json"
        and not job.headers
        and not job.tags
        and job.attempt_max is None
        and job.timeout_ms is None
        and job.workflow_id is None
        and job.schedule_id is None
    )


def _traits(job: Job) -> Traits:
    unique = job.unique
    return Traits(
        p=job.priority,
        t=job.task if job.group_key is not None else "",
        cm=job.crash_max,
        rt=job.retention_ms,
        dl=job.delay_ms,
        ex=job.expires_after_ms,
        dx=job.deadline_after_ms,
        sa=job.scheduled_at_ms,
        ea=job.expires_at_ms,
        da=job.deadline_at_ms,
        u=None
        if unique is None
        else _Unique(
            k=unique.key,
            d=tuple(sorted(unique.during)),
            w=unique.window_ms,
            pp=unique.period_ms,
            dm=unique.delay_max_ms,
            c=unique.on_conflict,
            r=unique.release_on_failure,
        ),
        o=job.ordering_key,
        pa=job.parents,
        ub=tuple(part for id_, queue in job.unblocks for part in (queue or False, id_)),
        of=job.on_parent_failed,
        fk=job.fair_key,
        fw=job.fair_weight,
        li=tuple(part for limit in job.limits for part in (limit.name, limit.key)),
        gk=job.group_key,
        rv=job.revision,
    )


def _rest(job: Job) -> bytes:
    return _encode(
        _Rest(
            c=job.codec,
            h=job.headers,
            g=job.tags,
            n=job.attempt_max,
            ms=job.timeout_ms,
            w=job.workflow_id,
            s=job.schedule_id,
        )
    )


# ------------------------------------------------------------------------------ reading


def seq_of(words: bytes) -> int:
    """Where the job stands in the order of enqueueing."""
    return int.from_bytes(words[:6], "big")


def read_job(id_: str, queue: str, words: bytes) -> Job:
    """The job that a store keeps.

    Raises:
        StorageCorrupt: this is not what a release of Ropeway wrote.
    """
    try:
        _, _, high, low, n_high, n_low, task_n = _HEAD.unpack_from(words)
        n = (n_high << 8) + n_low
        task_at = _HEAD_BYTES + n
        task, payload = _decode_task(words[task_at : task_at + task_n])
        created_at_ms = (high << 32) + low
        if len(words) == _HEAD_BYTES + task_n:
            return Job(id=id_, task=task, payload=payload, queue=queue, created_at_ms=created_at_ms)
        traits = _decode_traits(words[_HEAD_BYTES:task_at]) if n else Traits()
        rest = words[task_at + task_n :]
        return _job(
            id_,
            queue,
            created_at_ms,
            task,
            payload,
            traits,
            _decode_rest(rest) if rest else _Rest(),
        )
    except Exception as error:
        raise StorageCorrupt(f"job {id_!r} in queue {queue!r} is not readable: {error}") from error


def _job(  # noqa: PLR0917 - the parts of one record
    id_: str, queue: str, created_at_ms: int, task: str, payload: bytes, t: Traits, r: _Rest
) -> Job:
    u = t.u
    return Job(
        id=id_,
        task=task,
        payload=payload,
        codec=r.c,
        queue=queue,
        priority=t.p,
        headers=r.h,
        tags=r.g,
        created_at_ms=created_at_ms,
        scheduled_at_ms=t.sa,
        expires_at_ms=t.ea,
        deadline_at_ms=t.da,
        attempt_max=r.n,
        crash_max=t.cm,
        timeout_ms=r.ms,
        unique=None
        if u is None
        else UniqueKey(
            key=u.k,
            during=frozenset(map(State, u.d)),
            window_ms=u.w,
            period_ms=u.pp,
            delay_max_ms=u.dm,
            on_conflict=u.c,
            release_on_failure=u.r,
        ),
        ordering_key=t.o,
        parents=t.pa,
        unblocks=_unblocks(t),
        on_parent_failed=t.of,
        retention_ms=t.rt,
        revision=t.rv,
        fair_key=t.fk,
        fair_weight=t.fw,
        limits=tuple(LimitKey(*pair) for pair in zip(t.li[::2], t.li[1::2], strict=True)),
        group_key=t.gk,
        workflow_id=r.w,
        schedule_id=r.s,
    )


def _unblocks(t: Traits) -> tuple[JobRef, ...]:
    return tuple(
        JobRef(str(id_), str(queue) if queue else None)
        for queue, id_ in zip(t.ub[::2], t.ub[1::2], strict=True)
    )


def read_unblocks(traits: bytes) -> tuple[JobRef, ...]:
    """Which pending jobs wait for the job with these traits."""
    return _unblocks(_decode_traits(traits))


def _due_ms(job: Job) -> int:
    """When a job is due that nobody has put off since: see `due_of` in `lua/row.lua`."""
    return max(job.created_at_ms, job.scheduled_at_ms or 0)


def _untouched(job: Job) -> State:
    """The state of a job that nothing has happened to."""
    is_delayed = (job.scheduled_at_ms or 0) > job.created_at_ms
    return State.SCHEDULED if is_delayed else State.AVAILABLE


def read_status(job: Job, words: bytes, packed: bytes) -> Status:
    """The status of a job; `packed` is empty while nothing has happened to it.

    Raises:
        StorageCorrupt: this is not what a release of Ropeway wrote.
    """
    seq = seq_of(words)
    if not packed:
        return Status(state=_untouched(job), seq=seq, due_ms=_due_ms(job))
    try:
        end = 4 + int.from_bytes(packed[:4], "big")
        head = _decode_head(packed[4:end])
        parts: list[bytes | None] = []
        for size in head.z:
            parts.append(packed[end : end + size - 1] if size else None)
            end += max(size - 1, 0)
        result, saved, progress = parts[:3] if parts else (None, None, None)
        errors = tuple(_decode_failure(part) for part in parts[3:] if part is not None)
        return Status(
            state=head.state,
            seq=seq,
            due_ms=_due_ms(job) if head.due is None else head.due,
            rank=head.rank,
            attempt=head.attempt,
            snoozes=head.snoozes,
            crashes=head.crashes,
            token=head.token,
            lease_until_ms=head.lease_until_ms,
            worker=head.worker,
            started_at_ms=head.started_at_ms,
            finished_at_ms=head.finished_at_ms,
            waiting_on=head.waiting_on,
            blocked_on=head.blocked_on,
            reason=head.reason,
            errors=errors,
            progress=None if progress is None else _decode_progress(progress),
            saved=saved,
            result=result,
            result_codec=head.result_codec,
            cancel_requested=head.cancel_requested,
            settled_token=head.settled_token,
        )
    except Exception as error:
        raise StorageCorrupt(
            f"the status of job {job.id!r} in queue {job.queue!r} is not readable: {error}"
        ) from error


def read(id_: str, queue: str, words: bytes, packed: bytes) -> JobRecord:
    """A whole record."""
    job = read_job(id_, queue, words)
    return JobRecord(job, read_status(job, words, packed))
