"""Several worker processes under one parent, which restarts them and hands back what they held.

The parent runs no jobs. A child that dies is noticed at once by the operating system, so its jobs
run again within a second instead of when their leases expire.
"""

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from typing import Final

from ropeway.broker import JobStore
from ropeway.errors import BrokerError
from ropeway.runtime import SYSTEM
from ropeway.worker.outage import Outage, open_patiently
from ropeway.worker.process.exits import (
    EXIT_CONFIG,
    EXIT_OK,
    EXIT_RECYCLED,
    ID_VARIABLE,
    PARENT_VARIABLE,
)

_log = logging.getLogger("ropeway.supervisor")

YOUNG_S: Final = 10.0
"""A child that dies younger than this counts as a crash at the start."""
DELAY_MIN_S: Final = 0.1
DELAY_MAX_S: Final = 30.0
KILL_AFTER_S: Final = 15.0
"""How long after its grace, or after the second signal, a child may go on before it is killed."""


class Supervisor:
    """Keeps `processes` children of `command` running until told to stop.

    Each child gets an id in the environment (`ROPEWAY_WORKER_ID`) and a session of its own, so
    that Ctrl-C in a terminal reaches the parent alone. A child that ends with `EXIT_OK` has been
    told to stop and is not replaced; with `EXIT_RECYCLED` it is replaced at once; with
    `EXIT_CONFIG` all stop; otherwise it is replaced, later each time when it dies young.

    Args:
        command: the program and arguments of a child.
        broker: where the leases of a dead child are handed back.
        grace_ms: of the children; they are killed some time after it.
    """

    def __init__(
        self, command: Sequence[str], *, processes: int, broker: JobStore, grace_ms: int
    ) -> None:
        self._command = tuple(command)
        self._processes = processes
        self._broker = broker
        self._grace_ms = grace_ms
        self._children: dict[str, asyncio.subprocess.Process] = {}
        self._stopping = asyncio.Event()
        self._exit_code = EXIT_OK
        self._outage = Outage(SYSTEM)
        self._handing_back: set[asyncio.Task[None]] = set()

    @property
    def children(self) -> dict[str, int]:
        """The process ids of the living children, by worker id."""
        return {worker: child.pid for worker, child in self._children.items()}

    def stop(self) -> None:
        """Tell the children to stop: the first time gracefully, the second time at once."""
        again = self._stopping.is_set()
        self._stopping.set()
        self._send(signal.SIGTERM)
        delay_s = KILL_AFTER_S + (0 if again else self._grace_ms / 1000)
        asyncio.get_running_loop().call_later(delay_s, self._kill)

    async def run(self) -> int:
        """Supervise until every child has ended; returns the exit code for this process."""
        await open_patiently(self._broker, self._outage)
        async with asyncio.TaskGroup() as group:
            for _ in range(self._processes):
                group.create_task(self._keep())
        if self._handing_back:
            await asyncio.wait(self._handing_back, timeout=YOUNG_S)
        return self._exit_code

    async def _keep(self) -> None:
        """Run one child after the other."""
        died_young = 0
        while not self._stopping.is_set():
            began_at = time.monotonic()
            code = await self._run_child()
            if code == EXIT_OK or self._stopping.is_set():
                return
            if code == EXIT_RECYCLED:
                died_young = 0
                continue
            if code == EXIT_CONFIG:
                _log.error("a worker process refuses its configuration; stopping all")
                self._exit_code = EXIT_CONFIG
                self.stop()
                return
            is_young = time.monotonic() - began_at < YOUNG_S
            died_young = died_young + 1 if is_young else 0
            delay_s = min(DELAY_MAX_S, DELAY_MIN_S * 2 ** min(died_young, 20)) if is_young else 0
            _log.warning(
                "a worker process died (%s); starting another one in %.1f s", _cause(code), delay_s
            )
            await self._sleep(delay_s)

    async def _run_child(self) -> int:
        worker = SYSTEM.new_id()
        child = await asyncio.create_subprocess_exec(
            *self._command,
            env={**os.environ, ID_VARIABLE: worker, PARENT_VARIABLE: str(os.getpid())},
            start_new_session=True,
        )
        self._children[worker] = child
        if self._stopping.is_set():  # told to stop while this one was being started
            child.terminate()
        try:
            code = await child.wait()
        finally:
            del self._children[worker]
        task = asyncio.create_task(self._hand_back(worker))
        self._handing_back.add(task)
        task.add_done_callback(self._handing_back.discard)
        return code

    async def _hand_back(self, worker: str) -> None:
        failures = 0
        while True:
            try:
                count = await self._broker.abandon([worker])
            except BrokerError as error:
                self._outage.failed("abandon", error)
                failures += 1
                await asyncio.sleep(self._outage.backoff_s(failures))
            else:
                self._outage.worked()
                if count:
                    _log.info("%d jobs of the dead worker %s go to others", count, worker)
                return

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass

    def _send(self, number: signal.Signals) -> None:
        for child in self._children.values():
            if child.returncode is None:
                child.send_signal(number)

    def _kill(self) -> None:
        if self._children:
            _log.warning("killing %d worker processes that do not stop", len(self._children))
            self._send(signal.SIGKILL if sys.platform != "win32" else signal.SIGTERM)


def _cause(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
