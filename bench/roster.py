"""Who takes part: name, settings, acknowledgement, and how each is installed and called."""

import sys
from dataclasses import dataclass
from typing import Final, Literal

from bench.places import BIN, ENVIRONMENTS, PROGRAMS

Kind = Literal["ropeway", "python", "go"]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One row of the table: a rival set up in one way.

    Attributes:
        concurrency: jobs at a time, in the drains of no-op jobs.
        ack: when a job leaves the store, which is what a crash costs.
        rate: jobs a second to be expected, as an order of magnitude: it sizes the drains.
        note: what is special about it.

    """

    name: str
    concurrency: int
    ack: str
    rate: int
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Rival:
    """A system, its settings (the first one is its default) and its program.

    Attributes:
        busy: the setting and concurrency for jobs that wait or compute.
        delayed: the setting that runs delayed jobs, if it takes a special one.

    """

    name: str
    version: str
    kind: Kind
    settings: tuple[Setting, ...]
    server: Literal["redis", "faktory"] = "redis"
    busy: tuple[str, int] = ("best", 100)
    delayed: str = ""

    @property
    def default(self) -> Setting:
        """As its documentation starts."""
        return self.settings[0]

    def setting(self, name: str) -> Setting:
        """By name; the default one where there is no such."""
        return next((one for one in self.settings if one.name == name), self.default)

    def program(self) -> list[str]:
        """The command that the harness calls, without arguments."""
        if self.kind == "go":
            return [str(BIN / self.name)]
        python = (
            sys.executable
            if self.kind == "ropeway"
            else str(ENVIRONMENTS / self.name / "bin" / "python")
        )
        return [python, str(PROGRAMS / "python" / f"{self.name}_rival.py")]


_LEASE_10: Final = "late, lease 10 s"

RIVALS: Final = (
    Rival(
        name="ropeway",
        version="",
        kind="ropeway",
        settings=(
            Setting(name="default", concurrency=10, ack=_LEASE_10, rate=80_000),
            Setting(name="best", concurrency=100, ack=_LEASE_10, rate=80_000),
            Setting(
                name="processes", concurrency=100, ack=_LEASE_10, rate=80_000, note="2 processes"
            ),
        ),
    ),
    Rival(
        name="taskq",
        version="3.2.9",
        kind="go",
        settings=(
            Setting(name="default", concurrency=10, ack="late, reserved 5 min", rate=20_000),
            Setting(
                name="best",
                concurrency=100,
                ack="late, reserved 5 min",
                rate=20_000,
                note="reads 100 messages at a time",
            ),
        ),
    ),
    Rival(
        name="gocraft",
        version="work 0.5.1",
        kind="go",
        settings=(
            Setting(name="default", concurrency=10, ack="late, reaper", rate=15_000),
            Setting(name="best", concurrency=50, ack="late, reaper", rate=15_000),
        ),
    ),
    Rival(
        name="asynq",
        version="0.26.0",
        kind="go",
        settings=(
            Setting(name="default", concurrency=10, ack="late, lease 30 s", rate=7_000),
            Setting(
                name="best",
                concurrency=50,
                ack="late, lease 30 s",
                rate=7_000,
                note="idle poll 10 ms, delayed poll 100 ms",
            ),
        ),
    ),
    Rival(
        name="machinery",
        version="2.0.13",
        kind="go",
        settings=(
            Setting(name="default", concurrency=10, ack="pop", rate=8_000, note="no results"),
            Setting(
                name="best",
                concurrency=50,
                ack="pop",
                rate=8_000,
                note="no results; polls every ms",
            ),
        ),
    ),
    Rival(
        name="faktory",
        version="1.9.3, Go worker 1.7.0",
        kind="go",
        server="faktory",
        settings=(
            Setting(name="default", concurrency=10, ack="late, reserved 30 min", rate=4_000),
            Setting(name="best", concurrency=50, ack="late, reserved 30 min", rate=4_000),
        ),
    ),
    Rival(
        name="celery",
        version="5.7.0",
        kind="python",
        settings=(
            Setting(name="early", concurrency=10, ack="early", rate=700),
            Setting(name="late", concurrency=10, ack="late, redelivered after 1 h", rate=600),
            Setting(
                name="best",
                concurrency=2,
                ack="early",
                rate=800,
                note="one process a core, prefetch 100 each, no gossip",
            ),
        ),
        busy=("early", 10),
    ),
    Rival(
        name="dramatiq",
        version="2.2.1",
        kind="python",
        settings=(
            Setting(name="default", concurrency=10, ack="late, heartbeat 60 s", rate=2_000),
            Setting(
                name="best",
                concurrency=16,
                ack="late, heartbeat 60 s",
                rate=3_000,
                note="2 processes of 8 threads",
            ),
        ),
    ),
    Rival(
        name="taskiq",
        version="0.13.0, taskiq-redis 1.2.4",
        kind="python",
        settings=(
            Setting(name="list", concurrency=10, ack="pop", rate=2_000),
            Setting(name="stream", concurrency=10, ack="late, idle 10 min", rate=2_000),
            Setting(
                name="stream-best",
                concurrency=100,
                ack="late, idle 10 min",
                rate=3_000,
                note="2 processes, prefetch 100",
            ),
        ),
        busy=("stream-best", 100),
    ),
    Rival(
        name="rq",
        version="3.0.0",
        kind="python",
        settings=(
            Setting(
                name="fork", concurrency=10, ack="late, then failed", rate=50, note="forks a job"
            ),
            Setting(name="simple", concurrency=10, ack="late, then failed", rate=350),
            Setting(name="simple-2", concurrency=2, ack="late, then failed", rate=350),
        ),
        busy=("simple", 10),
        delayed="scheduler",
    ),
    Rival(
        name="arq",
        version="0.28.0",
        kind="python",
        settings=(
            Setting(name="default", concurrency=10, ack="late, 310 s", rate=200),
            Setting(
                name="best", concurrency=100, ack="late, 310 s", rate=850, note="polls every 10 ms"
            ),
        ),
    ),
    Rival(
        name="saq",
        version="0.26.4",
        kind="python",
        settings=(
            Setting(name="default", concurrency=10, ack="late, then aborted", rate=1_300),
            Setting(name="best", concurrency=100, ack="late, then aborted", rate=1_300),
        ),
    ),
    Rival(
        name="huey",
        version="3.5.4",
        kind="python",
        settings=(
            Setting(name="default", concurrency=10, ack="pop", rate=1_600),
            Setting(name="best", concurrency=50, ack="pop", rate=2_000, note="greenlets"),
        ),
    ),
    Rival(
        name="streaq",
        version="7.2.0",
        kind="python",
        settings=(
            Setting(name="default", concurrency=10, ack="late, idle 60 s", rate=800),
            Setting(name="best", concurrency=32, ack="late, idle 60 s", rate=800, note="uvloop"),
        ),
    ),
)

NAMES: Final = tuple(rival.name for rival in RIVALS)
