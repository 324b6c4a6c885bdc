"""What a worker and its handler processes say to each other: msgpack records over a pipe.

Only data travels. The child finds the function by the module and name that the worker's own
program gave; nothing stored in a broker names code.
"""

from typing import Literal

import msgspec

from ropeway.definition import CodecName
from ropeway.job import Lease


class RunJob(msgspec.Struct, frozen=True, kw_only=True, tag="run"):
    """To the child: run this job."""

    module: str
    qualname: str
    lease: Lease
    wants_ctx: bool
    codec: CodecName
    result_max_bytes: int
    stop_at: float | None  # time.monotonic(), which all processes of a host share
    soft_at: float | None
    log_level: int


class SaveDone(msgspec.Struct, frozen=True, tag="saved"):
    """To the child: the cursor is durable, or the lease is gone."""

    ok: bool


class SetProgress(msgspec.Struct, frozen=True, tag="progress"):
    """To the worker: `ctx.progress`."""

    fraction: float
    note: str


class AddLine(msgspec.Struct, frozen=True, tag="line"):
    """To the worker: `ctx.tell`, `ctx.log`."""

    kind: str
    data: str


class LogLine(msgspec.Struct, frozen=True, tag="log"):
    """To the worker: a record of the child's logging, already formatted."""

    logger: str
    level: int
    text: str


class SaveCursor(msgspec.Struct, frozen=True, tag="save"):
    """To the worker: `ctx.save`; the child waits for `SaveDone`."""

    data: bytes


class Returned(msgspec.Struct, frozen=True, tag="returned"):
    """To the worker: the handler's result, encoded; None for None."""

    data: bytes | None
    codec: str


class Decided(msgspec.Struct, frozen=True, kw_only=True, tag="decided"):
    """To the worker: the handler raised or returned a verdict."""

    verdict: Literal["retry", "snooze", "cancel", "bury"]
    reason: str
    after_ms: int | None = None
    counted: bool = True


class Raised(msgspec.Struct, frozen=True, kw_only=True, tag="raised"):
    """To the worker: the handler failed. `classes` are the (module, name) of its MRO."""

    classes: list[tuple[str, str]]
    message: str
    traceback: str


class Unfit(msgspec.Struct, frozen=True, tag="unfit"):
    """To the worker: the payload or the result cannot be carried."""

    what: Literal["bad payload", "bad result"]
    message: str


ToChild = RunJob | SaveDone
Ended = Returned | Decided | Raised | Unfit
ToWorker = SetProgress | AddLine | LogLine | SaveCursor | Ended

_encoder = msgspec.msgpack.Encoder()
_to_child = msgspec.msgpack.Decoder(ToChild)
_to_worker = msgspec.msgpack.Decoder(ToWorker)


def encode(message: ToChild | ToWorker) -> bytes:
    """A message as bytes for the pipe."""
    return _encoder.encode(message)


def decode_to_child(data: bytes) -> ToChild:
    """Read a message that the worker sent."""
    return _to_child.decode(data)


def decode_to_worker(data: bytes) -> ToWorker:
    """Read a message that a child sent."""
    return _to_worker.decode(data)
