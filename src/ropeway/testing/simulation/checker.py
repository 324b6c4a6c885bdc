"""What must hold of a history, whatever went wrong in it. Each rule has a letter and a number.

E1 nothing acknowledged is lost · E2 nothing starts that nobody sent · E3 a repeated call gets the
same answers · E4 only an outage keeps a good job out, and says so · A1 what is completed has run
to its end · A2 a job is handed out again only after its lease ended or was settled · A4 no two
handlers of a job at once, except beside one that was frozen or killed · F1 one final state,
written by the current token · F2 final stays final · R3 only a job that kills its workers is
buried for it · U1 one holder of a unique key · S3 never early · P1 nothing from a paused queue ·
X1 cancelled before its start never starts · T1 stopped at its timeout · O1 jobs of one ordering
key one after the other, in order · W1 idle workers start a new job at once · Q1 the counts are
true · L1, B1, G1 flow control: see `flow_checker` · N1 all is done soon after the last fault ·
attempts are counted exactly.

The events: clients note `send`, `sent`, `unknown`; handlers `start`, `end`; the witness at the
broker `enqueue`, `again`, `grant`, `settle`, `extend`, `act`, `pause`, `resume`, `abandon`; the
nemesis `fault`; the audit at the end `record` and `counts`.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from ropeway.testing.simulation.flow_checker import FLOW
from ropeway.testing.simulation.history import Event, History
from ropeway.testing.simulation.workload import TIMEOUT_MS

NEVER_MS: Final = 10**15
FINAL: Final = {"completed", "dead", "cancelled"}
ENDING: Final = {"Ack", "Bury", "Cancel"}
CRASHES_MAX: Final = 3
STOP_MS: Final = 1_000
START_MS: Final = 150
"""How soon an idle worker begins: a poll of the file, two ways, and room for a beat."""

Found = Iterator[str]


@dataclass
class _Trace:
    """What is known of one job at a moment of the history."""

    token: int = 0  # of the last grant
    until_ms: int = 0  # when that lease ends
    worker: str = ""
    held: bool = False  # granted, not settled, not known to be ended
    final: bool = False
    counted: int = 0  # attempts
    crashes: int = 0
    not_before_ms: int = 0  # wall
    asked_for_ms: int = 0  # the earliest start that its sender can have meant
    run_now: bool = False  # an operator has made an end of its first delay
    cancel_requested: bool = False
    finished_run: set[int] = field(default_factory=set[int])  # tokens whose handler ended well
    running: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])


class Reader:
    """Reads a history once and remembers what did not hold."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._jobs: defaultdict[str, _Trace] = defaultdict(_Trace)
        self._sent: set[str] = set()
        self._parents: dict[str, list[str]] = {}
        self._acked: set[str] = set()
        self._paused: set[str] = set()
        self._hurt: defaultdict[str, int] = defaultdict(
            lambda: -(NEVER_MS)
        )  # frozen until, by process
        self._frozen: set[str] = set()
        self._dead: set[str] = set()
        self.found: list[str] = []

    def read(self) -> None:
        """All events, in order."""
        for event in self._history:
            rule: Callable[[Event], Found] | None = getattr(self, f"_on_{event.kind}", None)
            if rule is not None:
                self.found += [f"{event.at_ms / 1000:.3f} s: {said}" for said in rule(event)]

    # -- clients and faults ---------------------------------------------------------------------

    def _on_send(self, event: Event) -> Found:
        self._sent.add(event.job)
        self._jobs[event.job].asked_for_ms = event.at_ms + event.facts["delay_ms"]
        yield from ()

    def _on_unknown(self, event: Event) -> Found:
        if event.facts["error"] != "EnqueueUnknown":
            yield f"E4: {event.job} was refused with {event.facts['error']} for no fault of its own"

    def _on_fault(self, event: Event) -> Found:
        whom = event.facts["whom"]
        match event.facts["what"]:
            case "freeze":
                self._frozen.add(whom)
            case "thaw":
                self._frozen.discard(whom)
                self._hurt[whom] = event.at_ms
            case "kill" | "kill in step":
                self._dead.add(whom)
            case _:
                pass
        yield from ()

    def _on_pause(self, event: Event) -> Found:
        self._paused.add(event.facts["queue"])
        yield from ()

    def _on_resume(self, event: Event) -> Found:
        self._paused.discard(event.facts["queue"])
        yield from ()

    # -- the broker's side ----------------------------------------------------------------------

    def _on_enqueue(self, event: Event) -> Found:
        self._sent.add(event.job)
        parents = event.facts["parents"]
        self._parents[event.job] = parents.split(",") if parents else []
        yield from ()

    def _on_again(self, event: Event) -> Found:
        if not event.facts["same"]:
            yield f"E3: {event.job}: a repeated call was answered differently"

    def _on_grant(self, event: Event) -> Found:
        job, facts = self._jobs[event.job], event.facts
        if event.job not in self._sent:
            yield f"E2: {event.job} was handed out and never sent"
        if job.final:
            yield f"F2: {event.job} was handed out after its end"
        if facts["queue"] in self._paused:
            yield f"P1: {event.job} came from the paused queue {facts['queue']}"
        if job.held:
            if event.at_ms < job.until_ms:
                early_ms = job.until_ms - event.at_ms
                yield f"A2: {event.job} was handed out {early_ms} ms before its lease ended"
            self._expire(job)
        due_ms = max(job.not_before_ms, 0 if job.run_now else facts["not_before_ms"] or 0)
        if facts["wall_ms"] < due_ms:
            yield f"S3: {event.job} was handed out {due_ms - facts['wall_ms']} ms early"
        if event.at_ms < job.asked_for_ms and not job.run_now:
            early_ms = job.asked_for_ms - event.at_ms
            yield f"S3: {event.job} was handed out {early_ms} ms before its delay was over"
        if facts["expires_ms"] is not None and facts["wall_ms"] >= facts["expires_ms"]:
            yield f"S3: {event.job} was handed out after `expires_at`"
        for parent in self._parents.get(event.job, ()):
            if parent not in self._acked:
                yield f"C1: {event.job} was handed out before its parent {parent} was completed"
        if facts["token"] <= job.token:
            yield f"F1: {event.job}: the token {facts['token']} is not above {job.token}"
        job.counted += 1
        if facts["attempt"] != job.counted:
            yield f"attempts: {event.job} says {facts['attempt']}, and it is number {job.counted}"
            job.counted = facts["attempt"]
        job.token, job.until_ms, job.worker = facts["token"], facts["until_ms"], facts["worker"]
        job.held = True

    def _expire(self, job: _Trace) -> None:
        job.held = False
        job.counted -= 1
        job.crashes += 1

    def _on_extend(self, event: Event) -> Found:
        job, facts = self._jobs[event.job], event.facts
        if facts["answer"] == "lost":
            if job.held and facts["token"] == job.token and event.at_ms < job.until_ms:
                yield f"A2: {event.job}: its lease was taken before it ended"
            return
        if not job.held or facts["token"] != job.token:
            yield f"F1: {event.job}: the stale token {facts['token']} was prolonged"
            return
        job.until_ms = facts["until_ms"]

    def _on_settle(self, event: Event) -> Found:
        job, facts = self._jobs[event.job], event.facts
        current = job.held and facts["token"] == job.token
        if facts["answer"] != "ok":
            if current and facts["answer"] == "lost" and event.at_ms < job.until_ms:
                yield f"A2: {event.job}: its lease was taken before it ended"
            return
        outcome = facts["outcome"]
        if not current:
            yield f"F1: {event.job}: {outcome} counted under the stale token {facts['token']}"
            return
        job.held = False
        if outcome == "Ack":
            if not event.job.endswith("-at_most_once") and job.token not in job.finished_run:
                yield f"A1: {event.job} is completed, and its handler did not end"
            self._acked.add(event.job)
        if outcome in ENDING or job.cancel_requested:
            job.final = True
        else:
            job.not_before_ms = facts["wall_ms"] + (facts["delay_ms"] or 0)
            if outcome != "Retry" or not facts["counted"]:
                job.counted -= 1

    def _on_abandon(self, event: Event) -> Found:
        workers = set(event.facts["workers"].split(","))
        for job in self._jobs.values():
            if job.held and job.worker in workers:
                job.until_ms = min(job.until_ms, event.at_ms)
        yield from ()

    def _on_act(self, event: Event) -> Found:
        job, facts = self._jobs[event.job], event.facts
        if facts["answer"] == "requested":
            job.cancel_requested = True
        if facts["answer"] != "done":
            return
        if job.held and facts["action"] != "RetryJob":
            self._expire(job)  # it was taken back before, or it would have been a request
        if facts["action"] == "CancelJob":
            if job.final:
                yield f"F1: {event.job} was cancelled after its end"
            job.final = True
        elif facts["action"] == "RetryJob":
            self._jobs[event.job] = _Trace(token=job.token, run_now=True, running=job.running)
            self._parents.pop(event.job, None)  # it runs whatever they do
        elif facts["action"] == "RunNow":
            job.run_now, job.not_before_ms = True, 0

    # -- handlers -------------------------------------------------------------------------------

    def _on_start(self, event: Event) -> Found:
        job = self._jobs[event.job]
        for who, (token, since_ms) in job.running.items():
            excused = who in self._dead or who in self._frozen or self._hurt[who] >= since_ms
            if not excused and who != event.who:
                yield (
                    f"A4: {event.job} started on {event.who} (token {event.facts['token']}) while "
                    f"{who} ran it (token {token})"
                )
        job.running[event.who] = (event.facts["token"], event.at_ms)

    def _on_end(self, event: Event) -> Found:
        job = self._jobs[event.job]
        _, since_ms = job.running.pop(event.who, (0, event.at_ms))
        if event.facts["how"] == "ok":
            job.finished_run.add(event.facts["token"])
        excused = event.who in self._frozen or self._hurt[event.who] >= since_ms
        if event.job.endswith("-overruns") and not excused:
            late_ms = event.at_ms - since_ms - TIMEOUT_MS
            if late_ms > STOP_MS:
                yield f"T1: {event.job} was stopped {late_ms} ms after its timeout"


# ------------------------------------------------------------------------------ at the end


def _records(history: History) -> dict[str, Event]:
    return {event.job: event for event in history if event.kind == "record"}


def nothing_lost(history: History) -> Found:
    """E1, N1: what was acknowledged is there, and all there is has come to its end."""
    records = _records(history)
    for event in history:
        stored = event.kind == "sent" and event.facts["answer"] in ("ok", "duplicate_id")
        if stored and event.job not in records:
            yield f"E1: {event.job} was acknowledged and is not there"
    for name, record in records.items():
        if record.facts["state"] not in FINAL:
            yield f"E1: {name} is still {record.facts['state']} long after the last fault"


def poison_is_found(history: History) -> Found:
    """R3: who kills its workers is buried after four starts, and nobody else.

    A start is not counted against a job when its worker was heard of again after the lease: that
    looks like life, although it may be a call that was long on its way.
    """
    heard = {
        (event.job, event.facts["token"])
        for event in history
        if event.kind in ("extend", "settle") and event.facts["answer"] == "lost"
    }
    starts: Counter[str] = Counter()
    deadly: Counter[str] = Counter()
    for event in history:
        if event.kind == "start":
            starts[event.job] += 1
            deadly[event.job] += (event.job, event.facts["token"]) not in heard
    for name, record in _records(history).items():
        poison = name.endswith("-poison")
        if record.facts["reason"] == "crashed_worker" and not poison:
            yield f"R3: {name} was buried for crashes that were not its own"
        if poison and deadly[name] > CRASHES_MAX + 1:
            yield f"R3: {name} started {starts[name]} times"
        if name.endswith("-at_most_once") and starts[name] > 1:
            yield f"A1: {name} may start once and started {starts[name]} times"


def one_holder_of_a_key(history: History) -> Found:
    """U1: the lives of jobs of one unique key never overlap; a refusal names a living holder."""
    lives: defaultdict[str, list[tuple[int, int, str]]] = defaultdict(list)
    for name, record in _records(history).items():
        key, finished_ms = record.facts["key"], record.facts["finished_ms"]
        if key is not None:
            end_ms = NEVER_MS if finished_ms is None else finished_ms
            lives[key].append((record.facts["created_ms"], end_ms, name))
    for key, spans in lives.items():
        spans.sort()
        for (_, end_ms, first), (begin_ms, _, second) in pairwise(spans):
            if begin_ms < end_ms:
                yield f"U1: {first} and {second} held the key {key!r} at once"


def lines_keep_order(history: History) -> Found:
    """O1: when a job of an ordering key starts, all before it have come to their end."""
    lines: defaultdict[str, list[Event]] = defaultdict(list)
    for record in _records(history).values():
        if record.facts["line"] is not None:
            lines[record.facts["line"]].append(record)
    first_grants: dict[str, int] = {}
    for event in history:
        if event.kind == "grant" and event.facts["line"] is not None:
            first_grants.setdefault(event.job, event.facts["wall_ms"])
    for line, members in lines.items():
        members.sort(key=lambda record: record.facts["seq"])
        latest_ms, latest = 0, ""
        for record in members:
            granted_ms = first_grants.get(record.job)
            if granted_ms is not None and granted_ms < latest_ms:
                yield f"O1: {record.job} of {line!r} started before {latest} had ended"
            finished_ms = record.facts["finished_ms"] or NEVER_MS
            if finished_ms > latest_ms:
                latest_ms, latest = finished_ms, record.job


def counts_are_true(history: History) -> Found:
    """Q1: what the queues say is what their records are."""
    real: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for record in _records(history).values():
        real[record.facts["queue"]][record.facts["state"]] += 1
    for event in history:
        if event.kind == "counts":
            queue = event.facts["queue"]
            told = {name: n for name, n in event.facts.items() if name != "queue"}
            if told != dict(real[queue]):
                yield f"Q1: {queue} says {told}, and it has {dict(real[queue])}"


def idle_workers_wake(history: History) -> Found:
    """W1: after the storm, a new job starts at once."""
    starts: dict[str, int] = {}
    for event in history:
        if event.kind == "start":
            starts.setdefault(event.job, event.at_ms)
    for event in history:
        if event.kind == "sent" and event.who == "probe":
            waited_ms: int = starts.get(event.job, NEVER_MS) - event.at_ms
            if waited_ms > START_MS:
                said = f"after {waited_ms} ms" if event.job in starts else "never"
                yield f"W1: {event.job} started {said}"


AT_THE_END: Final[tuple[Callable[[History], Found], ...]] = (
    nothing_lost,
    poison_is_found,
    one_holder_of_a_key,
    lines_keep_order,
    counts_are_true,
    idle_workers_wake,
    *FLOW,
)


def violations(history: History) -> list[str]:
    """What did not hold, in words; empty when all is well."""
    reader = Reader(history)
    reader.read()
    return reader.found + [said for rule in AT_THE_END for said in rule(history)]
