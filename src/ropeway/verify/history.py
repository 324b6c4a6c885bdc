"""The ledger's events put together: what was asked for, which runs there were, what went wrong."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ropeway.job import State
from ropeway.verify.faults.network import NETWORK
from ropeway.verify.ledger import Event
from ropeway.verify.load import KILLS

FOREVER = float("inf")
ORPHAN_S = 0.1


@dataclass(slots=True)
class Run:
    """One start of a handler, and its end if it wrote one."""

    began: Event
    ended: Event | None = None
    died_s: float = FOREVER  # when its worker was killed
    replaced_s: float = FOREVER  # when the job began again: this run held no lease any more

    @property
    def start_s(self) -> float:
        """When it began."""
        return self.began.at_s

    @property
    def end_s(self) -> float:
        """When it wrote its last line; for ever when it wrote none."""
        return FOREVER if self.ended is None else self.ended.at_s

    @property
    def returned(self) -> bool:
        """Whether the handler came to its end."""
        return self.ended is not None and self.ended.what == "end"

    def is_open_at(self, at_s: float) -> bool:
        """Whether it held its lease then: begun, not ended, its worker alive until that moment."""
        return self.start_s <= at_s < min(self.end_s, self.replaced_s) and at_s <= self.died_s


@dataclass(slots=True)
class Asked:
    """A job as its producers asked for it, perhaps more than once."""

    first: Event
    acked: Event | None = None  # the last answer
    cancelled: Event | None = None

    @property
    def is_stored(self) -> bool:
        """Whether a broker has acknowledged this job itself, not another one of its key."""
        return self.acked is not None and self.acked.detail == self.acked.job


@dataclass(frozen=True, slots=True)
class Ending:
    """A job's record when all was over."""

    state: State
    crashes: int = 0
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Interval:
    """From `start_s` to `end_s`."""

    start_s: float
    end_s: float

    def meets(self, start_s: float, end_s: float) -> bool:
        """Whether the two have a moment in common."""
        return self.start_s <= end_s and start_s <= self.end_s


@dataclass(slots=True)
class History:
    """Everything that is known about a run.

    Attributes:
        lease_s: of the workers.
        records: what the store says at the end, by job.
        finals: how often the witness saw a job become final, by job; None without a witness.
        revived: jobs that the witness saw leave a final state.
        queue_sizes: what the store counts at the end: records in all, and unfinished ones.

    """

    events: Sequence[Event]
    lease_s: float
    records: Mapping[str, Ending]
    finals: Mapping[str, int] | None = None
    revived: Sequence[str] = ()
    queue_sizes: tuple[int, int] | None = None
    asked: dict[str, Asked] = field(default_factory=dict[str, Asked], init=False)
    runs: dict[str, list[Run]] = field(default_factory=dict[str, list[Run]], init=False)
    by_pid: dict[int, list[Run]] = field(default_factory=dict[int, list[Run]], init=False)
    faults: list[Event] = field(default_factory=list[Event], init=False)
    pauses: dict[int, list[Interval]] = field(init=False)
    lines: dict[str, list[Event]] = field(init=False)  # by job
    asks_s: dict[int, list[float]] = field(init=False)  # by producer process
    terminated: dict[int, Interval] = field(default_factory=dict[int, Interval], init=False)
    _buried: dict[int, float] = field(default_factory=dict[int, float], init=False)
    away: list[Interval] = field(default_factory=list[Interval], init=False)

    def __post_init__(self) -> None:
        """Put the events together, in order of time."""
        self.pauses = defaultdict(list)
        self.lines = defaultdict(list)
        self.asks_s = defaultdict(list)
        open_runs: dict[tuple[str, int, int], Run] = {}
        for event in self.events:
            self.lines[event.job].append(event)
            match event.what:
                case "ask" | "ack" | "cancel":
                    self._asked(event)
                case "start":
                    run = Run(event)
                    # A handler process may begin just before it notices that its worker is gone.
                    if event.at_s - self._buried.get(event.pid, -FOREVER) < ORPHAN_S:
                        run.died_s = event.at_s
                    runs = self.runs.setdefault(event.job, [])
                    if runs:
                        runs[-1].replaced_s = run.start_s
                    runs.append(run)
                    self.by_pid.setdefault(event.pid, []).append(run)
                    open_runs[event.job, event.token, event.pid] = run
                case "end" | "fail" | "stop" | "die":
                    run = open_runs.get((event.job, event.token, event.pid))
                    if run is not None:
                        run.ended = event
                case "fault":
                    self._struck(event)
                case "stall":
                    self.pauses[event.pid].append(Interval(event.at_s, event.until_s))
                case "away":
                    self.away.append(Interval(event.at_s, event.until_s))
                case _:
                    pass

    def _asked(self, event: Event) -> None:
        asked = self.asked.setdefault(event.job, Asked(event))
        if event.what == "ask":
            self.asks_s[event.pid].append(event.at_s)
        if event.what == "ack":
            asked.acked = event
        elif event.what == "cancel":
            asked.cancelled = event

    def _struck(self, event: Event) -> None:
        self.faults.append(event)
        if event.kind in KILLS or event.kind == "poison":
            self._died(event)
        elif event.kind == "freeze" or event.kind in NETWORK:
            self.pauses[event.pid].append(Interval(event.at_s, event.until_s))
        elif event.kind == "terminate":
            self.terminated[event.pid] = Interval(event.at_s, event.until_s)

    def _died(self, fault: Event) -> None:
        """The system may give the process id to another worker later, so runs keep their own."""
        for run in self.by_pid.get(fault.pid, ()):
            if run.died_s == FOREVER and run.end_s > fault.at_s - self.lease_s:
                run.died_s = fault.at_s
        self._buried[fault.pid] = fault.at_s

    def kind_of(self, job: str) -> str:
        """What kind of job was asked for; "" when nobody asked."""
        asked = self.asked.get(job)
        return asked.first.kind if asked else ""

    def jobs(self, *kinds: str) -> list[Asked]:
        """Those of these kinds."""
        return [asked for asked in self.asked.values() if asked.first.kind in kinds]

    def struck_runs(self, fault: Event) -> list[Run]:
        """The runs that the process held when it was struck."""
        return [r for r in self.by_pid.get(fault.pid, ()) if r.is_open_at(fault.at_s)]

    def next_start(self, job: str, after_s: float) -> Run | None:
        """The first start of the job at or after that time."""
        runs = self.runs.get(job, [])
        place = bisect_left(runs, after_s, key=lambda run: run.start_s)
        return runs[place] if place < len(runs) else None

    def first_end_s(self, job: str) -> float:
        """When a run of the job returned first: before that the job cannot be final."""
        return min((r.end_s for r in self.runs.get(job, ()) if r.returned), default=FOREVER)

    def was_paused(self, pid: int, start_s: float, end_s: float) -> bool:
        """Whether the process did not run, or the store did not answer, at a time in between."""
        return any(p.meets(start_s, end_s) for p in (*self.pauses.get(pid, ()), *self.away))
