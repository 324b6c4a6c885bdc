"""A worker as a program: signals of the system, exit codes, one process or several."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Final

from ropeway.broker import JobStore
from ropeway.definition import Definition
from ropeway.errors import ConfigError
from ropeway.flow.rules import Rule
from ropeway.worker.options import WorkerOptions
from ropeway.worker.process.exits import EXIT_OK, EXIT_RECYCLED, ID_VARIABLE, PARENT_VARIABLE
from ropeway.worker.process.supervisor import Supervisor
from ropeway.worker.runner import SLOT_NAME
from ropeway.worker.worker import Ended, Worker

_log = logging.getLogger("ropeway.worker")

PARENT_POLL_S: Final = 0.5
SWITCH_S: Final = 0.000_5
GC_THRESHOLD: Final = 50_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """What a worker process runs; see `Worker`."""

    broker: JobStore
    tasks: Mapping[str, Definition]
    lifespan: Callable[[], AbstractAsyncContextManager[Any]] | None = None
    broker_factory: Callable[[], JobStore] | None = None
    rules: Sequence[Rule] = ()


def run_worker(
    load: Callable[[], Program],
    options: WorkerOptions,
    *,
    processes: int = 1,
    command: Sequence[str] = (),
) -> int:
    """Work until SIGTERM or SIGINT: the first one stops gracefully, the second at once.

    Args:
        load: makes the program; called once in each process.
        options: of each worker.
        processes: over 1, or with a limit after which a worker is replaced, this process only
            supervises.
        command: starts a child, which then calls this function itself. Without one nothing is
            supervised.

    Raises:
        ConfigError: several processes, but a broker that serves only one.

    Returns:
        The exit code of the process; see `exits.py`.

    """
    # Not for programs that a handler starts: they are not children of our supervisor.
    os.environ.pop(ID_VARIABLE, None)
    parent = os.environ.pop(PARENT_VARIABLE, None)
    is_replaced = bool(options.max_jobs or options.max_memory_bytes)
    program = load()
    is_shared = program.broker.capabilities.shared
    if processes > 1 and not is_shared:
        raise ConfigError(
            f"processes={processes}: {program.broker.capabilities.name} serves one process; use a "
            "broker that processes share, e.g. sqlite:///jobs.db"
        )
    tune_interpreter()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        if command and parent is None and is_shared and (processes > 1 or is_replaced):
            return runner.run(_supervise(program, command, processes, options.grace_ms))
        return runner.run(_work(program, options, parent))


async def _supervise(
    program: Program, command: Sequence[str], processes: int, grace_ms: int
) -> int:
    supervisor = Supervisor(command, processes=processes, broker=program.broker, grace_ms=grace_ms)
    _on_signals(supervisor.stop)
    try:
        return await supervisor.run()
    finally:
        await program.broker.close()


async def _work(program: Program, options: WorkerOptions, parent: str | None) -> int:
    worker = Worker(
        program.broker,
        program.tasks,
        options=options,
        lifespan=program.lifespan,
        broker_factory=program.broker_factory,
        rules=program.rules,
    )
    told = False

    def stop() -> None:
        nonlocal told
        (worker.stop_now if told else worker.stop)()
        told = True

    _on_signals(stop)
    watching = asyncio.create_task(_watch_parent(parent, worker.stop))
    try:
        ended = await worker.run()
    finally:
        watching.cancel()
        await program.broker.close()
    code = EXIT_RECYCLED if ended is Ended.RECYCLED else EXIT_OK
    _leave_behind(code)
    return code


async def _watch_parent(parent: str | None, stop: Callable[[], None]) -> None:
    """Stop when the supervisor was killed: nobody would hand our leases back or restart us."""
    while parent is not None:
        if os.getppid() != int(parent):
            _log.warning("the supervisor is gone; stopping")
            stop()
            return
        await asyncio.sleep(PARENT_POLL_S)


def _on_signals(stop: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, stop)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda _number, _frame: loop.call_soon_threadsafe(stop) and None)


def _leave_behind(code: int) -> None:
    """End the process although handlers ignore that they were cancelled."""
    if any(task.get_name() == SLOT_NAME for task in asyncio.all_tasks()):
        _log.warning("leaving handlers behind that ignore their cancellation")
        logging.shutdown()
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        os._exit(code)


def tune_interpreter() -> None:
    """Settings of a process that is ours, made once its program is loaded.

    A thread that comes back from a call into the store waits for the interpreter's lock while the
    loop is busy, for a tenth of the default 5 ms here. What is loaded by now stays to the end, so
    the collector need not look at it again; handlers' cycles are collected less often.
    """
    sys.setswitchinterval(SWITCH_S)
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The constructor of uvloop's event loop where it is installed: 1.5 to 2 times as fast."""
    try:
        import uvloop  # noqa: PLC0415 - an extra
    except ImportError:
        return None
    return uvloop.new_event_loop
