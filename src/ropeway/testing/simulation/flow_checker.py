"""What must hold of a history under flow control, whatever went wrong in it.

L1 at no instant are there more live leases of a key than it has slots, or starts of a key than its
rate allows · B1 a bounded queue takes no job beyond its length, and drops none that has started ·
G1 a batch is no larger than its size and not handed out before it is ready. That a killed holder's
slot comes back, and that nobody waits for a key with room, shows in N1: all is done in the end.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Final

from ropeway.testing.simulation.flow_workload import BATCH, LENGTHS, RATE, SLOTS
from ropeway.testing.simulation.history import Event, History

Found = Iterator[str]


def _said(event: Event, text: str) -> str:
    return f"{event.at_ms / 1000:.3f} s: {text}"


def slots_are_kept(history: History) -> Found:
    """L1: whoever holds a live lease holds a slot, so there are never too many of them."""
    live: dict[str, tuple[int, int, str, str]] = {}  # job → token, until, worker, key
    for event in history:
        facts = event.facts
        match event.kind:
            case "grant":
                live.pop(event.job, None)
                for limit in facts["limits"].split():
                    name, _, key = limit.partition(":")
                    if name != "slots":
                        continue
                    live[event.job] = facts["token"], facts["until_ms"], facts["worker"], key
                    now = [job for job, held in live.items() if _counts(held, key, event.at_ms)]
                    if len(now) > SLOTS.n:
                        yield _said(event, f"L1: {key!r} is held by {', '.join(now)} at once")
            case "settle" if facts["answer"] == "ok":
                live.pop(event.job, None)
            case "extend" if event.job in live and facts["answer"] != "lost":
                token, _, worker, key = live[event.job]
                if facts["token"] == token:
                    live[event.job] = token, facts["until_ms"], worker, key
            case "act" if facts["answer"] == "done":
                live.pop(event.job, None)
            case "abandon":
                gone = set(facts["workers"].split(","))
                live = {job: held for job, held in live.items() if held[2] not in gone}
            case _:
                pass


def _counts(held: tuple[int, int, str, str], key: str, now_ms: int) -> bool:
    return held[3] == key and now_ms < held[1]


def rates_are_kept(history: History) -> Found:
    """L1: in any span t at most burst + t / T starts of a key."""
    starts: defaultdict[str, list[Event]] = defaultdict(list)
    for event in history:
        if event.kind == "grant":
            for limit in event.facts["limits"].split():
                starts[limit].append(event)
    for limit, events in starts.items():
        if not limit.startswith("rate:"):
            continue
        tat_ms = 0.0  # of the bucket that lets exactly as much through as the bound
        for event in events:
            now_ms = event.facts["wall_ms"]
            ahead = (tat_ms - now_ms) * RATE.n / RATE.period_ms
            if ahead > RATE.burst - 1 + 0.01:
                yield _said(event, f"L1: {event.job} started too soon for {limit!r}")
            tat_ms = max(tat_ms, now_ms) + RATE.period_ms / RATE.n


def bounds_are_kept(history: History) -> Found:
    """B1: of those that nobody has touched since, never more than the length wait.

    Jobs that have started and came back may be more: what was admitted always comes back. So does
    what an operator has reopened, and the place of one that never started may be given on to a new
    job when that one is dropped.
    """
    dropped = {e.job for e in history if e.kind == "record" and e.facts["reason"] == "dropped"}
    waiting: defaultdict[str, set[str]] = defaultdict(set)
    started: set[str] = set()
    places = dict(LENGTHS)
    queues: dict[str, str] = {}
    for event in history:
        if event.kind == "enqueue" and event.facts["queue"] in LENGTHS:
            queue = queues[event.job] = event.facts["queue"]
            if event.facts["answer"] == "ok" and event.job not in dropped:
                waiting[queue].add(event.job)
                if len(waiting[queue]) > places[queue]:
                    yield _said(event, f"B1: {event.job} is one too many in {queue!r}")
        elif event.kind in ("grant", "act"):
            for jobs in waiting.values():
                jobs.discard(event.job)
            if event.kind == "act" and event.job not in started and event.job in queues:
                places[queues[event.job]] += 1
        if event.kind == "grant":
            started.add(event.job)
    for job in sorted(started & dropped):
        yield f"B1: {job} was dropped, and it had started"


def batches_are_ready(history: History) -> Found:
    """G1: not too large; full, or no job came for the grace period, or the oldest waited enough."""
    since_ms: dict[str, int] = {}
    batches: defaultdict[int, list[Event]] = defaultdict(list)
    touched: set[str] = set()  # due at another time than when they were enqueued
    for event in history:
        if event.kind == "enqueue":
            since_ms.setdefault(event.job, event.facts["wall_ms"])
        elif event.kind == "act":
            touched.add(event.job)
        elif event.kind == "grant" and event.facts["task"] == BATCH.name:
            batches[event.facts["token"]].append(event)
    starts: Counter[str] = Counter()
    for members in batches.values():
        first = members[0]
        jobs = [event.job for event in members]
        if len(jobs) > BATCH.size:
            yield _said(first, f"G1: a batch of {len(jobs)}: {', '.join(jobs)}")
        starts.update(jobs)
        is_fresh = all(starts[job] == 1 and job not in touched for job in jobs)
        if len(jobs) >= BATCH.size or not is_fresh:
            continue
        came_ms = [since_ms[job] for job in jobs]
        ready_ms = min(min(came_ms) + BATCH.within_ms, max(came_ms) + BATCH.grace_ms)
        if first.facts["wall_ms"] < ready_ms:
            early_ms = ready_ms - first.facts["wall_ms"]
            yield _said(first, f"G1: {', '.join(jobs)} came {early_ms} ms before they were ready")


FLOW: Final = (slots_are_kept, rates_are_kept, bounds_are_kept, batches_are_ready)
