"""Hears what is said to workers: cancel, pause, resume, quiet, stop, tune."""

import asyncio
import logging
from collections.abc import Callable

from ropeway.broker import JobStore, Signal
from ropeway.errors import BrokerError, ConfigError
from ropeway.worker.fetcher import Fetcher
from ropeway.worker.options import parse_queues
from ropeway.worker.outage import Outage
from ropeway.worker.run import Run
from ropeway.worker.runner import Runner

_log = logging.getLogger("ropeway.worker")

WAIT_MS = 1_000


class Listener:
    """Waits for signals and passes them on to the role that they concern.

    Args:
        name: this worker's id.
        ask: sends a beat for a run now. A cancel is done when the answer says so, and not when a
            signal does, which may be about an earlier run of the same job.
        stop: called for the signal `stop`.

    Attributes:
        tune: changes the number of slots; 0: the worker shall find it.

    """

    def __init__(
        self,
        broker: JobStore,
        runner: Runner,
        fetcher: Fetcher,
        *,
        name: str,
        outage: Outage,
        ask: Callable[[Run], object],
        stop: Callable[[], None],
    ) -> None:
        self._broker = broker
        self._runner = runner
        self._fetcher = fetcher
        self._name = name
        self._outage = outage
        self._ask = ask
        self._stop = stop
        self.tune: Callable[[int], None] = runner.tune

    async def run(self) -> None:
        """Listen until cancelled."""
        failures = 0
        seen: int | None = None
        while True:
            try:
                if seen is None:
                    seen = max((s.seq for s in await self._broker.signals(after=None)), default=0)
                for signal in await self._broker.signals(after=seen, wait_ms=WAIT_MS):
                    seen = signal.seq
                    if signal.worker in (None, self._name):
                        self._heed(signal)
                self._outage.worked()
                failures = 0
            except BrokerError as error:
                self._outage.failed("signals", error)
                failures += 1
                await asyncio.sleep(self._outage.backoff_s(failures))
            except Exception:  # noqa: BLE001 - a bug in a broker must not end the worker
                _log.exception("listening for signals failed; trying again")
                failures += 1
                await asyncio.sleep(self._outage.backoff_s(failures))

    def _heed(self, signal: Signal) -> None:
        match signal.kind:
            case "cancel" if signal.ref is not None:
                for run in self._runner.named(signal.ref):
                    self._ask(run)
            case "pause":
                self._fetcher.release_waiting(lambda run: run.lease.job.queue == signal.queue)
            case "quiet":
                _log.info("quiet: fetching no more jobs")
                self._fetcher.be_quiet()
            case "stop":
                self._stop()
            case "tune":
                self._tune(signal)
            case _:
                self._fetcher.recheck()

    def _tune(self, signal: Signal) -> None:
        if signal.queues:
            try:
                self._fetcher.queues = parse_queues(signal.queues)
            except ConfigError as error:
                _log.warning("tune refused: %s", error)
                return
        if signal.concurrency is not None:
            self.tune(signal.concurrency)
        _log.info(
            "tuned: concurrency %s, queues %s",
            "as before" if signal.concurrency is None else signal.concurrency or "auto",
            ",".join(signal.queues) if signal.queues else "as before",
        )
        self._fetcher.recheck()
