"""`Worker`: the roles of one worker process, started and stopped together.

fetcher ──runs──> runner ──outcomes──> settler        beater: all leases held, three times each
   broker.reserve / exchange    broker.settle         listener, maintainer, watchdog: beside
aggregator ──batches──> runner <──slots── pilot       teller: events for hooks
"""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any, Final, Literal

from ropeway.broker import ExtendAnswer, JobStore, Queues, WorkerInfo
from ropeway.definition import Definition
from ropeway.errors import BrokerError
from ropeway.flow.rules import Rule
from ropeway.runtime import SYSTEM, Runtime
from ropeway.worker.aggregator import Aggregator
from ropeway.worker.autopilot.pilot import AUTO, Pilot, make_climber
from ropeway.worker.beater import Answers, Beater
from ropeway.worker.fetcher import Fetcher
from ropeway.worker.handlers.processes import check_reachable
from ropeway.worker.handlers.telling import Teller
from ropeway.worker.listener import Listener
from ropeway.worker.maintainer import collect, heartbeat, maintain, memory_bytes
from ropeway.worker.options import WorkerOptions
from ropeway.worker.outage import Outage, open_patiently
from ropeway.worker.process import health
from ropeway.worker.process.watchdog import Watchdog
from ropeway.worker.run import CancelRequested, LeaseLost, LeaseUnsure, Run, in_order
from ropeway.worker.runner import Runner
from ropeway.worker.settler import Settler

_log = logging.getLogger("ropeway.worker")

UNWELL_AFTER_MS: Final = 15_000
CANCELLED_MS: Final = 5_000
"""How long handlers that were cancelled at the end may still clean up."""
FLUSH_MS: Final = 5_000
POLL_MS: Final = 2


class Ended(StrEnum):
    """Why `Worker.run` has returned."""

    STOPPED = "stopped"
    BURST = "burst"  # there was nothing left to do
    RECYCLED = "recycled"  # max_jobs or max_memory_bytes: start another one


@dataclass(frozen=True, slots=True)
class _Roles:
    """The parts of a running worker."""

    watchdog: Watchdog
    beater: Beater
    settler: Settler
    runner: Runner
    fetcher: Fetcher
    listener: Listener
    aggregator: Aggregator
    pilot: Pilot
    teller: Teller | None  # where there are hooks


class Worker:
    """Takes jobs from a broker and runs them, until it is told to stop.

    Args:
        broker: opened if it is not; the caller closes it.
        tasks: the tasks that this worker can run, by name.
        options: see `WorkerOptions`.
        lifespan: entered before the first job and left after the last one; what it yields is
            `Context.state`.
        broker_factory: makes another broker on the same store. With it, leases are prolonged
            from a thread of their own; without it, and where a store cannot be shared (memory),
            on the worker's loop.
        rules: what the store shall enforce; told to it once it is open.
        runtime: the worker's own time, for leases, limits and rates; chance; threads.

    Guarantees:
        No error of a handler and no outage of the broker ends the worker. Every job that was
        taken is settled, released or left to its lease, whatever happens.

    Raises:
        ConfigError: a task of `process=True` that no other process can find, or one whose
            annotations cannot be resolved or decoded.

    """

    def __init__(
        self,
        broker: JobStore,
        tasks: Mapping[str, Definition],
        *,
        options: WorkerOptions | None = None,
        lifespan: Callable[[], AbstractAsyncContextManager[Any]] | None = None,
        broker_factory: Callable[[], JobStore] | None = None,
        rules: Sequence[Rule] = (),
        runtime: Runtime = SYSTEM,
    ) -> None:
        check_reachable(tasks)
        for task in tasks.values():
            task.parameters.prepare(task.codec)
        self._broker = broker
        self._tasks = tasks
        self._options = options or WorkerOptions()
        self._lifespan = lifespan
        self._rules = rules
        self._broker_factory = broker_factory
        self._runtime = runtime
        self._clock = clock = runtime.clock
        self._outage = Outage(runtime)
        self._held: set[Run] = set()
        self._state: Literal["running", "quiet", "stopping"] = "running"
        self._ended = Ended.STOPPED
        self._stopping = asyncio.Event()
        self._at_once = asyncio.Event()
        self._started_at_ms = clock.wall_ms()
        self._roles: _Roles | None = None
        self.health_port: int | None = None

    @property
    def id(self) -> str:
        """The name of this worker in its broker."""
        return self._options.id

    def stop(self) -> None:
        """Stop gracefully: fetch no more, let jobs finish within `grace_ms`, release the rest."""
        self._stopping.set()

    def stop_now(self) -> None:
        """Stop at once: cancel handlers and release their jobs, uncounted."""
        self._at_once.set()
        self._stopping.set()

    async def run(self) -> Ended:
        """Work until `stop`, the end of a burst, or the time to be replaced.

        Raises:
            SchemaMismatch, StorageReadOnly, StorageCorrupt: the broker cannot be used.
            Exception: whatever `lifespan` raised.
        """
        await open_patiently(self._broker, self._outage, rules=self._rules)
        async with self._lifespan() if self._lifespan else contextlib.nullcontext() as state:
            roles = self._roles = self._assemble(state)
            try:
                telling = roles.teller.telling() if roles.teller else contextlib.nullcontext()
                async with telling, roles.beater.beating(self._broker_factory), self._health():
                    await self._work(roles)
            finally:
                await roles.runner.close()
                await self._forget()
        return self._ended

    async def _work(self, roles: "_Roles") -> None:
        async with asyncio.TaskGroup() as group:
            fetching = group.create_task(roles.fetcher.run())
            taking = group.create_task(roles.aggregator.run())
            others = [
                group.create_task(role)
                for role in (
                    roles.settler.run(),
                    roles.listener.run(),
                    roles.pilot.run(),
                    roles.watchdog.run(),
                    maintain(self._broker, self._outage),
                    collect(self._broker, self._options.offload, self._runtime.random),
                    self._heartbeat(),
                    self._guard(roles),
                )
            ]
            stopping = group.create_task(self._stopping.wait())
            try:
                await asyncio.wait({fetching, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if not self._stopping.is_set():
                    self._ended = Ended.BURST
            except asyncio.CancelledError:
                self.stop_now()
                raise
            finally:
                fetching.cancel()
                taking.cancel()
                await self._drain(roles)
                for task in (*others, stopping):
                    task.cancel()

    # -- the end -----------------------------------------------------------------------------

    async def _drain(self, roles: "_Roles") -> None:
        """Let running jobs end, cancel those that do not, and settle everything."""
        self._state = "stopping"
        roles.fetcher.be_quiet()
        runner = roles.runner
        if runner.busy and not self._at_once.is_set():
            _log.info(
                "stopping; jobs running: %d, with %g s to finish; a second signal stops at once",
                runner.busy,
                self._options.grace_ms / 1000,
            )
        await _until(
            lambda: not runner.busy or self._at_once.is_set(), within_ms=self._options.grace_ms
        )
        if runner.busy:
            _log.info("stopping the jobs that are still running: %d", runner.busy)
            runner.stop_all()
            await _until(lambda: not runner.busy, within_ms=CANCELLED_MS)
        await _until(lambda: not roles.settler.waiting, within_ms=FLUSH_MS)
        if roles.settler.waiting:
            _log.warning("%d outcomes could not be stored", roles.settler.waiting)

    async def _forget(self) -> None:
        """Take this worker off the list, and end whatever leases it may still hold."""
        with contextlib.suppress(BrokerError, TimeoutError):
            async with asyncio.timeout(1):
                await self._broker.abandon([self.id])

    # -- beside the jobs ---------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _health(self) -> AsyncGenerator[None]:
        if self._options.health_port is None:
            yield
            return
        async with health.serve(self._options.health_port, self._report) as port:
            self.health_port = port
            yield

    def _report(self) -> tuple[bool, str]:
        if self._outage.lasting_ms > UNWELL_AFTER_MS:
            return False, "the broker fails"
        return self._state != "stopping", self._state

    async def _guard(self, roles: "_Roles") -> None:
        """Self-fencing: stop a handler before its lease can end, by this host's clock.

        Jobs that have waited here for a whole beat go back, since others may be free for them.
        """
        while True:
            await asyncio.sleep(self._options.lease_ms / 20_000)
            self._look_after(roles)

    def _look_after(self, roles: "_Roles") -> None:
        runner, options = roles.runner, self._options
        now_ms = self._clock.mono_ms()
        soon_ms, stale_ms = now_ms + options.lease_ms // 10, now_ms - options.beat_ms
        for run in in_order({run for run in self._held if run.fence_at_ms <= soon_ms}):
            if not run.is_stopping:
                roles.fetcher.stop(run, LeaseUnsure("the lease could not be prolonged in time"))
        runner.release_waiting(lambda run: run.reserved_at_ms < stale_ms)
        if options.max_jobs and runner.ended >= options.max_jobs:
            self._recycle(f"{runner.ended} jobs")

    async def _heartbeat(self) -> None:
        await heartbeat(
            self._broker,
            self._outage,
            info=self._info,
            touched=self._options.health_file,
            is_well=lambda: self._report()[0],
            check_memory=self._check_memory,
        )

    def _check_memory(self) -> None:
        limit = self._options.max_memory_bytes
        if limit and (used := memory_bytes()) > limit:
            self._recycle(f"{used} bytes of memory")

    def _recycle(self, what: str) -> None:
        if not self._stopping.is_set():
            _log.info("%s: this worker ends, to be replaced", what)
            self._ended = Ended.RECYCLED
            self.stop()

    def _info(self) -> WorkerInfo:
        roles = self._roles
        assert roles is not None, "there is no heartbeat before the start"
        queues = roles.fetcher.queues
        quiet = "quiet" if roles.fetcher.quiet else "running"
        return WorkerInfo(
            id=self.id,
            host=socket.gethostname(),
            pid=os.getpid(),
            queues=_weights(queues),
            strict=not isinstance(queues, Mapping),
            concurrency=roles.runner.concurrency,
            running=tuple(run.lease.job.id for run in roles.runner.running),
            processed=roles.settler.processed,
            failed=roles.settler.failed,
            started_at_ms=self._started_at_ms,
            state=self._state if self._state == "stopping" else quiet,
            tasks=tuple(sorted(self._tasks)),
        )

    def _heed(self, answers: Answers) -> None:
        """Act on what the broker answered to a beat. On the worker's loop."""
        roles = self._roles
        if roles is None:
            return
        paused = {run for run, answer in answers if answer is ExtendAnswer.PAUSED}
        if paused:
            roles.fetcher.release_waiting(paused.__contains__)
        for run, answer in answers:
            if run not in self._held:
                continue  # settled meanwhile
            if answer is ExtendAnswer.CANCEL_REQUESTED:
                roles.fetcher.stop(run, CancelRequested("the job was cancelled"))
            elif answer is ExtendAnswer.LOST:
                _log.warning("the lease was lost; the job may run elsewhere", extra=run.label)
                roles.fetcher.stop(run, LeaseLost("the lease was lost"))

    def _assemble(self, state: Any) -> "_Roles":
        options, runtime, held, outage = self._options, self._runtime, self._held, self._outage
        broker, lease_ms, loop = self._broker, options.lease_ms, asyncio.get_running_loop()
        watchdog = Watchdog(stall_ms=options.stall_ms, runtime=runtime)

        def deliver(answers: Answers) -> None:
            with contextlib.suppress(RuntimeError):  # the worker's loop has just ended
                loop.call_soon_threadsafe(self._heed, answers)

        beater = Beater(
            broker,
            held,
            lease_ms=lease_ms,
            runtime=runtime,
            outage=outage,
            deliver=deliver,
            is_stuck=watchdog.is_stuck,
        )
        teller = Teller.of(options.hooks, worker=options.id, clock=runtime.clock)
        settler = Settler(
            broker, held, lease_ms=lease_ms, outage=outage, runtime=runtime, teller=teller
        )
        runner = Runner(
            self._tasks, settler, options=options, state=state, runtime=runtime, teller=teller
        )
        fetcher = Fetcher(
            broker, runner, settler, held=held, saves=beater, options=options, outage=outage
        )
        fetcher.fair.update(task.queue for task in self._tasks.values() if task.fair)
        aggregator = Aggregator(
            broker, self._tasks, runner, fetcher, options=options, outage=outage
        )
        has_processes = any(task.kind == "process" for task in self._tasks.values())
        pilot = Pilot(
            runner,
            fetcher,
            make_climber=partial(make_climber, options, has_processes=has_processes),
        )
        if options.concurrency == "auto":
            pilot.tune(AUTO)
        listener = Listener(
            broker,
            runner,
            fetcher,
            name=options.id,
            outage=outage,
            ask=beater.ask,
            stop=self.stop,
        )
        listener.tune = pilot.tune
        return _Roles(
            watchdog, beater, settler, runner, fetcher, listener, aggregator, pilot, teller
        )


def _weights(queues: Queues) -> dict[str, int]:
    """As they are shown: strict queues have falling ones."""
    if isinstance(queues, Mapping):
        return dict(queues)
    return {name: len(queues) - place for place, name in enumerate(queues)}


async def _until(is_so: Callable[[], bool], *, within_ms: int) -> None:
    """Wait until this is so, for a while; the end of a worker, where latency hardly counts."""
    loop = asyncio.get_running_loop()
    give_up_s = loop.time() + within_ms / 1000
    while loop.time() < give_up_s:  # on a busy loop a short sleep takes long
        if is_so():
            return
        await asyncio.sleep(POLL_MS / 1000)
