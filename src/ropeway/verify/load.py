"""Which queues `verify` uses, and how much it does: the plan of one run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Final
from urllib.parse import urlsplit

from ropeway.errors import ConfigError
from ropeway.verify.faults.network import NETWORK

MAIN_QUEUE: Final = "verify-main"
PAUSED_QUEUE: Final = "verify-paused"
POISON_QUEUE: Final = "verify-poison"
CALM_QUEUE: Final = "verify-calm"
QUIET_QUEUE: Final = "verify-quiet"
CHILD_QUEUE: Final = "verify-child"
QUEUES: Final = (
    *(MAIN_QUEUE, PAUSED_QUEUE, POISON_QUEUE, CALM_QUEUE),
    *(QUIET_QUEUE, CHILD_QUEUE),
)

LIMIT_SLOTS: Final = 2
"""How many of the limited jobs of a key may run at a time."""
KILLS: Final = ("kill_one", "kill_all", "kill_producer", "kill_quiet", "kill_child")
"""The faults that are a SIGKILL; the others are `freeze`, `terminate` and those of `NETWORK`."""
HITS_MIN: Final = 20
RETENTION_S: Final = 7 * 24 * 3600
"""Of the jobs' records: longer than any run, which reads them at its end."""
LEASE_MIN_S: Final = 0.5


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run does.

    Attributes:
        url: of a broker that processes share.
        faults: how often each kind strikes; see `faults_of`.
        minutes: strike no more in the storm after so long (None: until all are done).
        lease_s: of the workers; faults and limits are measured by it.
        workers: processes in the storm, one of which may be frozen.
        subject: the app that the workers run, as `ropeway worker` takes it.
        seed: decides the order of the faults and their victims.

    """

    url: str
    faults: Mapping[str, int]
    minutes: float | None = None
    lease_s: float = 2.0
    workers: int = 5
    subject: str = "ropeway.verify.subject:app"
    seed: int = field(default_factory=lambda: Random().randrange(1_000_000))  # noqa: S311

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.lease_s < LEASE_MIN_S:
            raise ConfigError(f"lease={self.lease_s:g} s is too short; give {LEASE_MIN_S} or more")
        if self.workers < 2:
            raise ConfigError(f"workers={self.workers}: give 2 or more: one takes over")
        if self.minutes is not None and self.minutes <= 0:
            raise ConfigError(f"minutes={self.minutes:g}: give more than 0")

    @property
    def kills(self) -> int:
        """How many strikes are a SIGKILL."""
        return sum(self.faults.get(kind, 0) for kind in KILLS)

    @property
    def hits_min(self) -> Mapping[str, int]:
        """How often each kind must have hit: 20 times; four fifths of the strikes where few are."""
        return {
            kind: HITS_MIN if count >= HITS_MIN + 2 else count * 4 // 5
            for kind, count in self.faults.items()
        }


def faults_of(kills: int, *, url: str) -> dict[str, int]:
    """How often each kind of fault strikes in a run with so many kills, on the broker of a URL.

    Of the kills, a fifth each strikes all workers, a producer, and a worker of an idle queue; one
    in twenty a child of a supervisor (22 at most), the rest single workers. Freezes and rolling
    restarts come on top: a quarter of the number of kills each, 60 at most; so does each fault of
    the network, where the broker is a server. From 120 kills on every kind but the last strikes
    more than 20 times.
    """
    if kills < 5:
        raise ConfigError(f"kills={kills}: give 5 or more, so that every kind of fault occurs")
    fifth = max(1, kills // 5, min(HITS_MIN + 2, kills // 4))
    child = max(1, min(HITS_MIN + 2, kills // 20))
    beside = max(2, min(60, kills // 4))
    return {
        "kill_one": kills - 3 * fifth - child,
        "kill_all": fifth,
        "kill_producer": fifth,
        "kill_quiet": fifth,
        "kill_child": child,
        "freeze": beside,
        "terminate": beside,
        **dict.fromkeys(NETWORK if urlsplit(url).hostname else (), beside),
    }
