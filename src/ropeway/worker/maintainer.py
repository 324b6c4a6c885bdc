"""Does what time asks for in the broker, and tells it that this worker lives."""

import asyncio
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Final

from ropeway.broker import JobStore, WorkerInfo
from ropeway.errors import BrokerError
from ropeway.offload import Offload
from ropeway.worker.outage import Outage

_log = logging.getLogger("ropeway.worker")

SLEEP_MAX_S: Final = 0.5
HEARTBEAT_S: Final = 3.0


async def maintain(broker: JobStore, outage: Outage) -> None:
    """Call `broker.maintain` until cancelled: again at once while it has more to do.

    Any number of workers may do this at the same time.
    """
    failures = 0
    while True:
        try:
            done = await broker.maintain()
        except BrokerError as error:
            outage.failed("maintain", error)
            failures += 1
            await asyncio.sleep(outage.backoff_s(failures))
        except Exception:  # noqa: BLE001 - a bug in a broker must not end the worker
            _log.exception("maintenance failed; trying again")
            failures += 1
            await asyncio.sleep(outage.backoff_s(failures))
        else:
            failures = 0
            next_s = SLEEP_MAX_S if done.next_ms is None else done.next_ms / 1000
            await asyncio.sleep(0 if done.more else min(SLEEP_MAX_S, max(next_s, 0.001)))


async def collect(broker: JobStore, offload: Offload | None, random: Random) -> None:
    """Remove the blobs of jobs that are gone, once in a period of grace. Until cancelled.

    The first time comes at random, so that workers which are replaced often do their part too,
    and many of them do not come together.
    """
    if offload is None:
        return
    grace_s = offload.grace_ms / 1000
    await asyncio.sleep(random.uniform(0, grace_s))
    while True:
        try:
            removed = await offload.collect(broker)
        except BrokerError as error:
            _log.warning("blobs of removed jobs stay for now: %s", error)
        except Exception:  # noqa: BLE001 - a bug in a broker must not end the worker
            _log.exception("collecting blobs failed; trying again")
        else:
            _log.debug("removed %d blobs of jobs that are gone", removed)
        await asyncio.sleep(grace_s)


async def heartbeat(
    broker: JobStore,
    outage: Outage,
    *,
    info: Callable[[], WorkerInfo],
    touched: Path | None,
    is_well: Callable[[], bool],
    check_memory: Callable[[], None],
) -> None:
    """Every few seconds: heartbeat, health file, memory. Until cancelled.

    `touched` is the health file; its age says how long the worker has not been well.
    """
    while True:
        try:
            await broker.heartbeat(info())
        except BrokerError as error:
            outage.failed("heartbeat", error)
        except Exception:  # noqa: BLE001 - a bug in a broker must not end the worker
            _log.exception("the heartbeat failed")
        if touched is not None and is_well():
            try:
                touched.touch()  # noqa: ASYNC240 - a local file, a few microseconds
            except OSError as error:
                _log.warning("the health file cannot be touched: %s", error)
        check_memory()
        await asyncio.sleep(HEARTBEAT_S)


def memory_bytes() -> int:
    """The resident memory of this process; the highest so far where only that can be told."""
    if sys.platform.startswith("linux"):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    if sys.platform == "win32":
        return 0
    import resource  # noqa: PLC0415 - there is none on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
