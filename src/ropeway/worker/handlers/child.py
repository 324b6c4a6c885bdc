"""The inside of a handler process: takes one job at a time from its pipe, until the pipe ends."""

import asyncio
import contextlib
import importlib
import inspect
import logging
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from operator import attrgetter
from typing import Any, Final

from ropeway import codec, verdict
from ropeway.context import CURRENT, Context
from ropeway.definition import Definition
from ropeway.errors import CodecError, ConfigError, SoftTimeout
from ropeway.job import Lease, Progress
from ropeway.signature import Parameters
from ropeway.worker.handlers import messages
from ropeway.worker.handlers.messages import Ended, RunJob
from ropeway.worker.run import HardTimeout, LeaseLost

PARENT_POLL_S: Final = 0.5


def main(connection: Connection, worker: int) -> None:
    """Serve until the process `worker` closes its end or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's; the worker decides
    threading.Thread(target=_end_with_parent, args=(worker,), daemon=True).start()
    pipe = _Pipe(connection)
    logging.getLogger().addHandler(_Forward(pipe))
    with contextlib.suppress(EOFError, OSError):
        while True:
            request = messages.decode_to_child(connection.recv_bytes())
            if isinstance(request, RunJob):
                logging.getLogger().setLevel(request.log_level)
                pipe.send(_serve(request, pipe, worker))


def find_function(module: str, qualname: str) -> Callable[..., Any]:
    """The handler's function: a plain one, or the one behind a task object of that name.

    Raises:
        ConfigError: there is none; a function inside a function cannot be found from here.
    """
    try:
        found: Any = attrgetter(qualname)(importlib.import_module(module))
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"{module}.{qualname} cannot be found by a process of its own ({error}); define the "
            "task at the top level of a module that can be imported"
        ) from error
    definition = getattr(found, "definition", None)
    if isinstance(definition, Definition):
        return definition.func
    return inspect.unwrap(found)


class _Pipe:
    """The `Reporter` of a handler here: everything goes to the worker, one message at a time."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self.request: RunJob | None = None

    def stop_reason(self) -> BaseException | None:
        """By the clock alone: for anything else the worker kills this process."""
        now, request = time.monotonic(), self.request
        if request is None:
            return None
        if request.stop_at is not None and now >= request.stop_at:
            return HardTimeout("the run went past its timeout", limit="timeout")
        if request.soft_at is not None and now >= request.soft_at:
            return SoftTimeout("the task's soft time limit has passed")
        return None

    def progress(self, lease: Lease, progress: Progress) -> None:  # noqa: ARG002
        self.send(messages.SetProgress(progress.fraction, progress.note))

    def line(self, lease: Lease, kind: str, data: str) -> None:  # noqa: ARG002
        self.send(messages.AddLine(kind, data))

    def save(self, lease: Lease, data: bytes) -> None:  # noqa: ARG002
        self.send(messages.SaveCursor(data))
        answer = messages.decode_to_child(self._connection.recv_bytes())
        if not isinstance(answer, messages.SaveDone) or not answer.ok:
            raise LeaseLost("the lease was lost before the cursor was saved")

    def send(self, message: messages.ToWorker) -> None:
        with self._lock:
            self._connection.send_bytes(messages.encode(message))


class _Forward(logging.Handler):
    """Sends log records to the worker, which knows where they are to go."""

    def __init__(self, pipe: _Pipe) -> None:
        super().__init__()
        self._pipe = pipe

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):
            self._pipe.send(messages.LogLine(record.name, record.levelno, self.format(record)))


def _serve(request: RunJob, pipe: _Pipe, worker: int) -> Ended:
    try:
        func = find_function(request.module, request.qualname)
        parameters = Parameters.of(func, skip_first=request.wants_ctx)
        job = request.lease.job
        args, kwargs = parameters.decode(job.payload, job.codec)
    except CodecError as error:
        return messages.Unfit("bad payload", str(error))
    except Exception as error:  # noqa: BLE001 - importing the module runs the user's code
        return _raised(error)
    context: Context[Any] = Context(request.lease, None, pipe, request.stop_at)
    pipe.request = request
    token = CURRENT.set(context)
    # The request may have waited in the pipe while this process was starting, and nobody holds
    # the lease of a worker that has died meanwhile.
    if os.getppid() != worker:
        os._exit(1)
    try:
        value = func(context, *args, **kwargs) if request.wants_ctx else func(*args, **kwargs)
        if inspect.iscoroutine(value):
            value = asyncio.run(value)
    except BaseException as error:  # noqa: BLE001 - a handler's SystemExit is its failure
        return _raised(error)
    finally:
        CURRENT.reset(token)
    return _returned(request, value)


def _returned(request: RunJob, value: object) -> Ended:
    if isinstance(value, verdict.Verdict):
        return _raised(value)
    if value is None:
        return messages.Returned(None, "json")
    try:
        encoded = codec.encode(
            value,
            codec=request.codec,
            limit_bytes=request.result_max_bytes,
            what=f"result of {request.lease.job.task}",
        )
    except CodecError as error:
        return messages.Unfit("bad result", str(error))
    return messages.Returned(encoded.data, encoded.codec)


def _raised(error: BaseException) -> Ended:
    match error:
        case verdict.Retry():
            return messages.Decided(
                verdict="retry", reason=error.reason, after_ms=error.after_ms, counted=error.counted
            )
        case verdict.Snooze():
            return messages.Decided(verdict="snooze", reason=error.reason, after_ms=error.after_ms)
        case verdict.Cancel():
            return messages.Decided(verdict="cancel", reason=error.reason)
        case verdict.Bury():
            return messages.Decided(verdict="bury", reason=error.reason)
        case _:
            return messages.Raised(
                classes=[(kind.__module__, kind.__qualname__) for kind in type(error).__mro__],
                message=_text_of(error),
                traceback=_traceback_of(error),
            )


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:  # noqa: BLE001 - the handler's own __str__
        return f"<its text cannot be shown: {broken!r}>"


def _traceback_of(error: BaseException) -> str:
    trace = error.__traceback__
    try:
        return "".join(
            traceback.format_exception(type(error), error, trace.tb_next if trace else None)
        )
    except Exception as broken:  # noqa: BLE001 - the handler's own __str__
        return f"<its traceback cannot be shown: {broken!r}>"


def _end_with_parent(parent: int) -> None:
    """A worker killed at once cannot close the pipe of a busy child; its jobs run elsewhere."""
    while os.getppid() == parent:
        time.sleep(PARENT_POLL_S)
    os._exit(1)
