"""What a worker can be told, checked once."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from ropeway.broker import Queues
from ropeway.errors import ConfigError
from ropeway.hooks import Hooks
from ropeway.offload import Offload
from ropeway.runtime import new_id
from ropeway.worker.process.exits import ID_VARIABLE

LEASE_MIN_MS: Final = 100
AUTO_START: Final = 64
"""Jobs that a worker of `concurrency="auto"` begins with: about right for mixed work."""
AUTO_MAX: Final = 1_024

Concurrency = int | Literal["auto"]
"""Jobs at the same time; "auto": the worker finds the number while it works."""


def new_worker_id() -> str:
    """The id that a supervisor chose for this process, else a new random one."""
    return os.environ.get(ID_VARIABLE) or new_id()


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerOptions:
    """How a worker works. Durations are milliseconds, sizes bytes.

    Attributes:
        queues: a sequence is strict (first the first), a mapping gives weights.
        concurrency: jobs that run at the same time, wherever they run; "auto": as many as bring
            the highest throughput, found while they run.
        concurrency_max: the highest number that "auto" may choose.
        prefetch: jobs that may wait here for a free slot, at most. The worker fetches ahead only
            what it finished in the last 100 ms, so jobs never wait behind slow ones.
        lease_ms: how long a job is safe from other workers after the last beat; a beat is sent
            every third of it. A killed worker's jobs run again that much later.
        grace_ms: how long a graceful stop waits for running jobs.
        stall_ms: when the event loop has been stuck for so long, no lease is prolonged any
            more; 0: the loop is not watched at all, nor is there a warning when it is blocked.
        wait_ms: how long one idle call to the broker may last.
        max_jobs: end after this many jobs, to be replaced (0: never).
        max_memory_bytes: end when the process is larger than this (0: never).
        health_file: touched every few seconds while the worker is well.
        health_port: serves `GET /health` on 127.0.0.1 (0: any free port; None: no server).
        burst: return when no job can be run now: those that gather for a batch may be left.
        offload: where the app's big payloads and results are; None: in their records.
        hooks: told what happens to the jobs of this process.
        id: names this process in the broker; a new one per start.

    Raises:
        ConfigError: a value is out of its range.

    """

    queues: Queues = ("default",)
    concurrency: Concurrency = 50
    concurrency_max: int = AUTO_MAX
    prefetch: int = 1_000
    lease_ms: int = 10_000
    grace_ms: int = 30_000
    stall_ms: int = 60_000
    wait_ms: int = 1_000
    max_jobs: int = 0
    max_memory_bytes: int = 0
    health_file: Path | None = None
    health_port: int | None = None
    burst: bool = False
    offload: Offload | None = None
    hooks: Hooks = field(default_factory=Hooks)
    id: str = field(default_factory=new_worker_id)

    def __post_init__(self) -> None:
        check_queues(self.queues)
        for name, least in (
            ("concurrency", 1),
            ("concurrency_max", 1),
            ("prefetch", 0),
            ("lease_ms", LEASE_MIN_MS),
            ("grace_ms", 0),
            ("stall_ms", 0),
            ("wait_ms", 1),
            ("max_jobs", 0),
            ("max_memory_bytes", 0),
        ):
            value = getattr(self, name)
            if name == "concurrency" and value == "auto":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(
                    f"worker option {name}={value!r}: give a whole number of at least {least}"
                )
        if self.health_port is not None and not 0 <= self.health_port <= 65_535:
            raise ConfigError(f"worker option health_port={self.health_port}: give 0..65535")
        if not self.id:
            raise ConfigError("worker option id='': leave it out, or give a name of your own")

    @property
    def slots(self) -> int:
        """Jobs that run at the same time to begin with."""
        if self.concurrency == "auto":
            return min(AUTO_START, self.concurrency_max)
        return self.concurrency

    @property
    def beat_ms(self) -> int:
        """Between two beats: a third of the lease, so that one may fail."""
        return self.lease_ms // 3


def check_queues(queues: Queues) -> None:
    """Raise ConfigError unless this names at least one queue, each once, with weights over 0."""
    if isinstance(queues, str) or not isinstance(queues, (Sequence, Mapping)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigError(f"queues={queues!r}: give a list of names, or names with weights")
    if not queues:
        raise ConfigError("queues: give at least one name")
    names = list(queues)
    if len(set(names)) != len(names) or not all(isinstance(n, str) and n for n in names):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ConfigError(f"queues={names!r}: each must be a name, and given once")
    if isinstance(queues, Mapping):
        for name, weight in queues.items():
            if isinstance(weight, bool) or not isinstance(weight, int) or weight < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
                raise ConfigError(f"queues: {name}={weight!r}: a weight is a whole number over 0")


def parse_concurrency(text: str) -> tuple[Concurrency, int]:
    """Read "50", "auto" or "auto:256"; returns the concurrency and the highest one of "auto".

    Raises:
        ConfigError: it is none of these, or a number below 1.
    """
    word, colon, most = text.strip().partition(":")
    if word == "auto" and not colon:
        return "auto", AUTO_MAX
    number = most if word == "auto" else text
    if not number.strip().isdecimal() or int(number) < 1:
        raise ConfigError(
            f"concurrency {text!r}: give a number of at least 1, auto, or auto:256 with the most"
        )
    return ("auto", int(number)) if word == "auto" else (int(number), AUTO_MAX)


def parse_queues(words: Sequence[str]) -> Queues:
    """Read queues as written on a command line: "name" each, or "name=weight" each.

    Raises:
        ConfigError: mixed forms, or whatever `check_queues` refuses.
    """
    if not any("=" in word for word in words):
        queues: Queues = tuple(words)
        check_queues(queues)
        return queues
    weights: dict[str, int] = {}
    for word in words:
        name, _, weight = word.partition("=")
        if not weight.isdecimal() or name in weights:
            raise ConfigError(
                f"queue {word!r}: give every queue once and as name=weight, or all without weights"
            )
        weights[name] = int(weight)
    check_queues(weights)
    return weights
