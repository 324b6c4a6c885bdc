"""Processes for handlers that may crash, leak or must be stoppable (`process=True`).

Each child runs one job at a time and lives on for the next one. A thread of the worker talks
with it, so a child that dies is an end of file in that thread and nothing else.
"""

import contextlib
import logging
import multiprocessing
import os
import sys
import threading
from collections.abc import Mapping
from typing import Any, Final

from ropeway import verdict
from ropeway.errors import CodecError, ConfigError
from ropeway.job import Progress
from ropeway.outcome import Ack, Bury, Outcome
from ropeway.runtime import SYSTEM, Runtime
from ropeway.worker.handlers import ending, messages
from ropeway.worker.handlers.messages import Decided, Ended, Raised, Returned, Unfit
from ropeway.worker.run import Run, Stop

_log = logging.getLogger("ropeway.worker")

# fork would copy the worker's locks, loop and connections in whatever state they are.
_spawn = multiprocessing.get_context("spawn")
CLOSE_S: Final = 1.0


class ChildDied(Exception):
    """The child died under its job: killed, out of memory, segmentation fault, `os._exit`."""

    def __init__(self, exitcode: int | None) -> None:
        super().__init__(f"the handler's process died with exit code {exitcode}")
        self.exitcode = exitcode


class Remote(Exception):
    """Stands for a child's exception whose class this process does not know."""


class Processes:
    """Handler processes, made when needed and kept for the next job."""

    def __init__(self, runtime: Runtime = SYSTEM) -> None:
        self._runtime = runtime
        self._lock = threading.Lock()
        self._idle: list[_Child] = []
        self._closed = False

    def run(self, run: Run) -> Outcome:
        """Run the job in a child and wait for its end. Call it in a thread.

        Raises:
            ChildDied: the child died; unless `run.reason` says why, by the job's own doing.
        """
        child = self._take()
        run.interrupt = lambda _reason: child.kill()
        try:
            if run.reason is not None:  # stopped before anybody could have killed the child
                child.kill()
            ended = child.run(run)
        except (EOFError, OSError) as error:
            child.kill()
            raise ChildDied(child.exitcode) from error
        finally:
            run.interrupt = None
        self._give_back(child)
        return _outcome_of(run, ended, self._runtime)

    def close(self) -> None:
        """End the idle children; those at work are ended by stopping their runs."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for child in idle:
            child.close()

    def _take(self) -> "_Child":
        with self._lock:
            while self._idle:
                child = self._idle.pop()
                if child.alive:
                    return child
        return _Child()

    def _give_back(self, child: "_Child") -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(child)
                return
        child.close()


class _Child:
    """One handler process and this side of its pipe."""

    def __init__(self) -> None:
        # Imported by name in the child; the arguments of the process are our own.
        from ropeway.worker.handlers import child  # noqa: PLC0415 - it needs this package whole

        self._connection, theirs = _spawn.Pipe()
        self._process = _spawn.Process(
            target=child.main, args=(theirs, os.getpid()), name="ropeway-handler", daemon=True
        )
        self._process.start()
        theirs.close()

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    @property
    def exitcode(self) -> int | None:
        self._process.join(CLOSE_S)
        return self._process.exitcode

    def kill(self) -> None:
        with contextlib.suppress(ValueError):
            self._process.kill()

    def close(self) -> None:
        self._connection.close()
        self._process.join(CLOSE_S)
        self.kill()

    def run(self, run: Run) -> Ended:
        """Send the job and answer what the handler asks for, until it ends."""
        self._connection.send_bytes(messages.encode(_request(run)))
        while True:
            message = messages.decode_to_worker(self._connection.recv_bytes())
            match message:
                case messages.SetProgress(fraction=fraction, note=note):
                    run.progress(run.lease, Progress(fraction, note))
                case messages.AddLine(kind=kind, data=data):
                    run.line(run.lease, kind, data)
                case messages.LogLine(logger=name, level=level, text=text):
                    logging.getLogger(name).log(level, "%s", text, extra=run.label)
                case messages.SaveCursor(data=data):
                    self._save(run, data)
                case _:
                    return message

    def _save(self, run: Run, data: bytes) -> None:
        try:
            run.save_blocking(data)
            ok = True
        except Stop:
            ok = False
        self._connection.send_bytes(messages.encode(messages.SaveDone(ok)))


def _request(run: Run) -> messages.RunJob:
    definition = run.definition
    assert definition is not None, "a run without a definition is never started"
    return messages.RunJob(
        module=definition.func.__module__,
        qualname=definition.func.__qualname__,
        lease=run.lease,
        wants_ctx=definition.wants_ctx,
        codec=definition.codec,
        result_max_bytes=definition.result_max_bytes,
        stop_at=None if run.hard_at_ms is None else run.hard_at_ms / 1000,
        soft_at=None if run.soft_at_ms is None else run.soft_at_ms / 1000,
        log_level=logging.getLogger().getEffectiveLevel(),
    )


def _outcome_of(run: Run, ended: Ended, runtime: Runtime) -> Outcome:
    definition = run.definition
    assert definition is not None, "a run without a definition is never started"
    lease = run.lease
    match ended:
        case Returned(data=data, codec=codec):
            return Ack(lease=lease, result=data, result_codec=codec)
        case Unfit(what=what, message=message):
            failure = ending.failure_of(lease, CodecError(message), runtime=runtime)
            return Bury(lease=lease, failure=failure, reason=what)
        case Decided():
            return ending.of_error(lease, definition, _verdict_of(ended), runtime=runtime)
        case Raised():
            return ending.of_error(lease, definition, _error_of(ended), runtime=runtime)


def _verdict_of(ended: Decided) -> verdict.Verdict:
    after_s = None if ended.after_ms is None else ended.after_ms / 1000
    match ended.verdict:
        case "retry":
            return verdict.Retry(after_s, reason=ended.reason, counted=ended.counted)
        case "snooze":
            return verdict.Snooze(after_s or 0, reason=ended.reason)
        case "cancel":
            return verdict.Cancel(ended.reason)
        case "bury":
            return verdict.Bury(ended.reason)


def _error_of(ended: Raised) -> BaseException:
    """An exception of the child's class, or of its nearest base that is loaded here.

    Retry policies go by class. The class's own `__init__` is not run: its arguments are unknown.
    """
    error: Any = None
    for module, qualname in ended.classes:
        kind = _loaded_class(module, qualname)
        if kind is not None:
            with contextlib.suppress(TypeError):
                error = kind.__new__(kind, ended.message)
                break
    error = error or Remote(ended.message)
    module, qualname = ended.classes[0]
    error.remote_type = qualname if module == "builtins" else f"{module}.{qualname}"
    error.remote_traceback = ended.traceback
    return error


def _loaded_class(module: str, qualname: str) -> type[BaseException] | None:
    found: Any = sys.modules.get(module)
    for name in qualname.split("."):
        found = getattr(found, name, None)
    return found if isinstance(found, type) and issubclass(found, BaseException) else None


def check_reachable(tasks: Mapping[str, Any]) -> None:
    """Refuse process tasks whose function another process cannot find by its name.

    Raises:
        ConfigError: a `process=True` task defined inside a function.
    """
    for name, definition in tasks.items():
        qualname = definition.func.__qualname__
        if definition.kind == "process" and "<" in qualname:
            raise ConfigError(
                f"task {name!r} runs in a process of its own, which cannot find {qualname}: "
                "define it at the top level of a module"
            )
