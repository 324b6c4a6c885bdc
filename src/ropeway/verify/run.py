"""One run of `verify`: storm, idle queue, probes; then the question what it all came to."""

import asyncio
import contextlib
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ropeway.app import Ropeway
from ropeway.broker import Filter, JobStore, WorkerInfo
from ropeway.brokers.registry import ENTRIES
from ropeway.connection import URL_VARIABLE
from ropeway.errors import ConfigError, Disconnected
from ropeway.job import UNFINISHED
from ropeway.verify.faults.fleet import Fleet
from ropeway.verify.faults.nemesis import Nemesis, Sight
from ropeway.verify.faults.network import Network
from ropeway.verify.history import Ending, History
from ropeway.verify.ledger import Ledger, read
from ropeway.verify.load import (
    CALM_QUEUE,
    MAIN_QUEUE,
    PAUSED_QUEUE,
    POISON_QUEUE,
    QUEUES,
    QUIET_QUEUE,
    Plan,
)
from ropeway.verify.probes import Probes
from ropeway.verify.report import Report, report_of
from ropeway.verify.witness import Witness, witness_of

PRODUCERS: Final = 2
CONCURRENCY: Final = 20
QUIET_WORKERS: Final = 3
STUCK_AFTER_S: Final = 20.0
"""Without progress for so long and five leases, what is left is counted as lost."""
LOOK_S: Final = 0.1
TELL_EVERY_S: Final = 20.0
PROBE_EVERY_S: Final = 0.2
PAUSE_S: Final = 1.6
PAUSE_EVERY_S: Final = 2.0
PAGE: Final = 1_000

Tell = Callable[[str], None]
"""Takes a line about what happens now."""


def verify(plan: Plan, *, tell: Tell = lambda _line: None, keep: Path | None = None) -> Report:
    """Run the plan and answer what it has shown.

    Args:
        plan: which broker, and what is done to it.
        tell: called with a line at each phase.
        keep: where the ledger is written to; else it is removed at the end.

    Interrupted or terminated, it ends its processes and removes its jobs all the same.

    Raises:
        ConfigError: the broker cannot be verified, or the ledger not be written.
        KeyboardInterrupt: SIGINT or SIGTERM.
        RopewayError: a process of the run ended by itself.
        BrokerError: the store failed.

    """
    return asyncio.run(_verify(plan, tell, keep))


async def _verify(plan: Plan, tell: Tell, keep: Path | None) -> Report:
    asyncio.get_running_loop().add_signal_handler(
        signal.SIGTERM, signal.raise_signal, signal.SIGINT
    )
    witness = witness_of(plan.url)
    began_s = time.monotonic()
    async with Ropeway(plan.url) as app:
        store = app.store
        await _clear(store)
        await asyncio.to_thread(witness.install)
        place = Path(tempfile.mkdtemp(prefix="ropeway-verify-"))
        try:
            stage = _Stage(plan, app, witness, place, keep or place / "ledger", tell)
            complaints = await stage.play()
            history = await _history(plan, store, witness, stage.ledger_path)
            facts = _facts(plan, store, history, time.monotonic() - began_s)
            report = report_of(history, plan, facts, unfinished=complaints)
        finally:
            shutil.rmtree(place, ignore_errors=True)
            await asyncio.to_thread(witness.remove)
            await _clear(store)
    return report


def _facts(plan: Plan, store: JobStore, history: History, seconds: float) -> dict[str, Any]:
    return {
        "broker": store.capabilities.name,
        "durability": store.capabilities.durability,
        "lease_s": plan.lease_s,
        "workers": plan.workers,
        "seed": plan.seed,
        "seconds": round(seconds, 1),
        "jobs": len(history.records),
        "runs": sum(map(len, history.runs.values())),
        "stalls": sum(event.what == "stall" for event in history.events),
    }


@dataclass
class _Stage:
    """The processes and files of one run."""

    plan: Plan
    app: Ropeway[None]
    witness: Witness
    place: Path
    ledger_path: Path
    tell: Tell

    def __post_init__(self) -> None:
        """Create the ledger, in which nothing has happened yet."""
        try:
            self.ledger_path.write_bytes(b"")
        except OSError as error:
            raise ConfigError(f"ledger {self.ledger_path}: {error.strerror}") from error
        self.ledger = Ledger(self.ledger_path)
        env = {
            URL_VARIABLE: self.plan.url,
            "ROPEWAY_VERIFY_LEDGER": str(self.ledger_path.absolute()),
            "ROPEWAY_VERIFY_LEASE_S": str(self.plan.lease_s),
        }
        scheme = self.plan.url.partition(":")[0]
        self.fleet = Fleet(self.place, env, ENTRIES[scheme].module, self.ledger)
        self.network = Network(self.plan.url)
        self.sight = Sight(self.ledger_path)
        self.complaints: list[str] = []

    async def play(self) -> list[str]:
        """All phases, one after the other; what went wrong with the run itself."""
        probes = Probes(self.plan, self.app, self.fleet, self.sight, self.ledger)
        watching = asyncio.create_task(self._watch_store())
        try:
            await self._storm(probes)
            await self._idle(probes)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            self.fleet.end()
            await self.network.close()
            self.sight.close()
            self.ledger.close()
        return self.complaints

    async def _storm(self, probes: Probes) -> None:
        struck = {k: n for k, n in self.plan.faults.items() if n}
        self.tell(f"storm: {', '.join(f'{n} {k}' for k, n in struck.items())}")
        queues = f"{MAIN_QUEUE}=3,{PAUSED_QUEUE}=1"
        for number in range(self.plan.workers):
            await self._add(f"worker-{number}", *self._worker(queues))
        for number in range(PRODUCERS):
            await self._add(f"producer-{number}", "ropeway.verify.producer", f"p{number}")
        self.fleet.add("calm-0", *self._worker(CALM_QUEUE))
        for number in range(2):
            self.fleet.add(f"poison-{number}", *self._worker(POISON_QUEUE))
        await probes.poison()
        await probes.block()
        nemesis = Nemesis(self.plan, self.fleet, self.sight, self.network)
        async with self._pausing(), self._reviving():
            async with self._telling(nemesis):
                await nemesis.storm()
            self.tell("quiet: waiting until every job has ended")
            self.fleet.kill("last", *self.fleet.names("producer"))
            self.fleet.forget("producer")
            await self._drain()
        await self.fleet.dismiss("worker")
        await self.fleet.dismiss("poison")

    async def _idle(self, probes: Probes) -> None:
        faults = self.plan.faults
        if faults.get("kill_quiet"):
            self.tell(f"idle queue: {faults['kill_quiet']} kill_quiet")
            for number in range(QUIET_WORKERS):
                self.fleet.add(f"quiet-{number}", *self._worker(QUIET_QUEUE))
            await probes.quiet_kills(faults["kill_quiet"])
            await self._drain()
            await self.fleet.dismiss("quiet")
        if faults.get("kill_child"):
            self.tell(f"supervisor: {faults['kill_child']} kill_child")
            await probes.child_kills(faults["kill_child"], self._worker)
            await self._drain()
            await self.fleet.dismiss("supervisor")
        self.tell("probes: wake-up, cancel, timeout, store away")
        await probes.wake()
        await probes.stop()
        await probes.away(self.witness)
        await self._drain()
        await self.fleet.dismiss("calm")

    async def _add(self, name: str, *arguments: str) -> None:
        """Start a process that the network may fail."""
        self.fleet.add(name, *arguments, env={URL_VARIABLE: await self.network.url_for(name)})

    def _worker(self, queues: str) -> list[str]:
        return [
            *("ropeway", "worker", self.plan.subject, "--queues", queues),
            *("--lease", f"{round(self.plan.lease_s * 1000)}ms", "--grace", "5s"),
            *("--concurrency", str(CONCURRENCY), "--log-level", "warning"),
        ]

    async def _drain(self) -> None:
        """Wait until no job is unfinished, or nothing has moved for long."""
        store, before, moved_s = self.app.store, -1, time.monotonic()
        limit_s = STUCK_AFTER_S + 5 * self.plan.lease_s
        while True:
            left = await _count(store, unfinished=True)
            if not left:
                return
            if left != before:
                before, moved_s = left, time.monotonic()
            elif time.monotonic() - moved_s > limit_s:
                self.complaints.append(f"{left} jobs were unfinished for {limit_s:g} s")
                return
            await asyncio.sleep(LOOK_S)

    async def _watch_store(self) -> None:
        """Write a little all the time, and note when that takes long: the store is away."""
        me = WorkerInfo(id="verify", host="", pid=0)
        while True:
            began_s = time.monotonic()
            while True:
                try:
                    await self.app.store.heartbeat(me)
                except Disconnected:
                    await asyncio.sleep(PROBE_EVERY_S)
                else:
                    break
            ended_s = time.monotonic()
            if ended_s - began_s > self.plan.lease_s / 4:
                self.ledger.note("away", at_s=began_s, until_s=ended_s)
            await asyncio.sleep(PROBE_EVERY_S)

    @contextlib.asynccontextmanager
    async def _pausing(self) -> AsyncGenerator[None]:
        """Pause one of the queues now and then."""

        async def pause_again_and_again() -> None:
            while True:
                await asyncio.sleep(PAUSE_EVERY_S)
                await self.app.queues.pause(PAUSED_QUEUE)
                self.ledger.note("pause", key=PAUSED_QUEUE)
                try:
                    await asyncio.sleep(PAUSE_S)
                finally:
                    self.ledger.note("resume", key=PAUSED_QUEUE)
                    await self.app.queues.resume(PAUSED_QUEUE)

        async with _beside(pause_again_and_again()):
            yield

    @contextlib.asynccontextmanager
    async def _telling(self, nemesis: Nemesis) -> AsyncGenerator[None]:
        """Say now and then how far the storm is."""

        async def tell_again_and_again() -> None:
            while True:
                await asyncio.sleep(TELL_EVERY_S)
                self.tell(f"  {nemesis.struck} of {nemesis.planned} strikes")

        async with _beside(tell_again_and_again()):
            yield

    @contextlib.asynccontextmanager
    async def _reviving(self) -> AsyncGenerator[None]:
        """Start again the workers that poison has killed."""

        async def revive_again_and_again() -> None:
            while True:
                self.fleet.revive("poison")
                await asyncio.sleep(LOOK_S)

        async with _beside(revive_again_and_again()):
            yield


@contextlib.asynccontextmanager
async def _beside(work: Coroutine[Any, Any, None]) -> AsyncGenerator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _history(plan: Plan, store: JobStore, witness: Witness, ledger: Path) -> History:
    records: dict[str, Ending] = {}
    for queue in QUEUES:
        cursor: str | None = None
        while True:
            page = await store.find(Filter(queue=queue), after=cursor, limit=PAGE)
            for record in page.records:
                status = record.status
                records[record.job.id] = Ending(status.state, len(status.crashes), status.reason)
            if (cursor := page.cursor) is None:
                break
    return History(
        events=read(ledger),
        lease_s=plan.lease_s,
        records=records,
        finals=await asyncio.to_thread(witness.finals),
        revived=await asyncio.to_thread(witness.revived),
        queue_sizes=(
            await _count(store, unfinished=False),
            await _count(store, unfinished=True),
        ),
    )


async def _count(store: JobStore, *, unfinished: bool) -> int:
    """By the store's own counters."""
    found = [queue for queue in await store.queues() if queue.name in QUEUES]
    return sum(
        count
        for queue in found
        for state, count in queue.counts.items()
        if not unfinished or state in UNFINISHED
    )


async def _clear(store: JobStore) -> None:
    """Remove what this or an earlier run has stored, with what its dead workers hold."""
    ours = [worker.id for worker in await store.workers() if set(QUEUES) & set(worker.queues)]
    await store.abandon([*ours, "verify"])
    for queue in QUEUES:
        await store.resume(queue)
        await store.purge(queue)
