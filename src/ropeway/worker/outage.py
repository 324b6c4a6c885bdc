"""The broker is away: one line in the log, and how long to wait before the next try."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from ropeway.broker import JobStore
from ropeway.errors import Disconnected
from ropeway.flow.rules import Rule
from ropeway.runtime import Runtime

_log = logging.getLogger("ropeway.worker")

DELAY_MIN_S: Final = 0.1
DELAY_MAX_S: Final = 5.0


class Outage:
    """What the roles of a worker know together about their broker.

    Each role counts its own failures for its backoff; the log tells once that the broker went
    and once that it came back.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._clock = runtime.clock
        self._random = runtime.random
        self.since_ms: int | None = None

    @property
    def lasting_ms(self) -> int:
        """How long every call has failed by now; 0 when the last one worked."""
        return 0 if self.since_ms is None else self._clock.mono_ms() - self.since_ms

    def failed(self, role: str, error: BaseException) -> None:
        """Note that a call to the broker failed."""
        if self.since_ms is None:
            self.since_ms = self._clock.mono_ms()
            _log.warning("the broker fails (%s: %r); the worker keeps trying", role, error)

    def worked(self) -> None:
        """Note that a call to the broker worked."""
        if self.since_ms is not None:
            _log.info("the broker works again after %.1f s", self.lasting_ms / 1000)
            self.since_ms = None

    def backoff_s(self, failures: int) -> float:
        """The wait after that many failures in a row: doubling from 0.1 s to 5 s, 50 % jitter."""
        bounded = min(DELAY_MAX_S, DELAY_MIN_S * 2 ** min(failures - 1, 10))
        return bounded * self._random.uniform(0.5, 1.0)


async def open_patiently(broker: JobStore, outage: Outage, *, rules: Sequence[Rule] = ()) -> None:
    """Open the broker and tell it the rules, trying again while it cannot be reached.

    Raises:
        SchemaMismatch, StorageReadOnly, StorageCorrupt: waiting does not help.
    """
    failures = 0
    while True:
        try:
            await broker.open()
            if rules:
                await broker.declare(rules)
        except Disconnected as error:
            outage.failed("open", error)
            failures += 1
            await asyncio.sleep(outage.backoff_s(failures))
        else:
            outage.worked()
            return
