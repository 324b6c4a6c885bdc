"""Reasons in other jobs: ordering keys, limits, batches."""

from collections.abc import Sequence
from typing import Final

from ropeway.broker import Filter, KeyInfo
from ropeway.flow.rules import (
    QUEUE_PREFIX,
    GroupRule,
    Limit,
    LimitRule,
    QueueRule,
    Rate,
    Rule,
    Slots,
)
from ropeway.job import UNFINISHED, JobRecord, JobRef, LimitKey, State
from ropeway.limits import limit_of, words
from ropeway.why.reason import Case, Kind, Reason, plural, some

_PAGE: Final = 1_000
_PAGES: Final = 10  # of a queue's jobs that are looked through for the first of an ordering key
_KEYS: Final = 1_000  # of one name: it may be counted in each queue by itself


async def ordering(case: Case) -> list[Reason]:
    """An earlier job of the same ordering key is not finished."""
    key = case.job.ordering_key
    if key is None or case.status.blocked_on != f"ordering:{key}":
        return []
    first = await _first_in_line(case, key)
    who = "an earlier job" if first is None else f"job {first.job.id} ({first.status.state})"
    text = f"{who} of the same ordering key {key!r} is before it"
    jobs = () if first is None else (first.job.ref,)
    return [Reason(kind=Kind.ORDERING, text=text, jobs=jobs)]


async def _first_in_line(case: Case, key: str) -> JobRecord | None:
    """The unfinished job of the key that was enqueued first; None: not among those looked at."""
    for states in (frozenset({State.RUNNING}), UNFINISHED - {State.RUNNING}):
        where = Filter(
            queue=case.job.queue, states=states, created_before_ms=case.job.created_at_ms + 1
        )
        first, cursor = case.record, None
        for _ in range(_PAGES):
            page = await case.store.find(where, after=cursor, limit=_PAGE)
            line = [record for record in page.records if record.job.ordering_key == key]
            first = min((first, *line), key=lambda record: record.status.seq)
            cursor = page.cursor
            if cursor is None:
                break
        if cursor is None and first is not case.record:
            return first
    return None


def gathering(case: Case, rules: Sequence[Rule]) -> list[Reason]:
    """The job waits for others of its batch."""
    key, task = case.job.group_key, case.job.task
    for rule in rules:
        if key is None or not isinstance(rule, GroupRule) or rule.name != task:
            continue
        ready_ms = case.status.due_ms + rule.within_ms
        if ready_ms > case.now_ms:
            text = (
                f"it gathers for a batch of group {key!r}: until there are {rule.size} "
                f"{plural(rule.size, 'job')}, none has come for {rule.grace_ms / 1000:g} s, or"
            )
            return [Reason(kind=Kind.GATHERING, text=text, until_ms=ready_ms)]
    return []


# -- limits ------------------------------------------------------------------------------------


async def limits(case: Case, rules: Sequence[Rule]) -> list[Reason]:
    """Those of the job's limits that have no room; first the one it is parked under."""

    def is_parked(limit: LimitKey) -> bool:
        return case.status.blocked_on == f"limit:{limit.name}:{limit.key}"

    by_name = {rule.name: rule for rule in rules if isinstance(rule, LimitRule)}
    found: list[Reason] = []
    for limit in sorted(case.job.limits, key=is_parked, reverse=True):
        rule = by_name.get(limit.name)
        if rule is None:
            continue
        queue = case.job.queue if rule.scope == "queue" else ""
        what = f"limit {limit.name!r}" + (f" of key {limit.key!r}" if limit.key else "")
        for info in await case.store.keys(limit.name, key=limit.key, limit=_KEYS):
            if info.queue == queue:
                found += await _refusal(case, rule.limit, info, what, is_trying=is_parked(limit))
    return found


async def queue_limits(case: Case, rules: Sequence[Rule]) -> list[Reason]:
    """Those of the queue's own limits that have no room."""
    queue = case.job.queue
    rule = next((r for r in rules if isinstance(r, QueueRule) and r.name == queue), None)
    if rule is None or not rule.limits:
        return []
    found: list[Reason] = []
    for info in await case.store.keys(QUEUE_PREFIX + queue):
        if (limit := limit_of(rule, info)) is not None:
            what = f"queue {queue!r}"
            found += await _refusal(case, limit, info, what, is_trying=info.used > 0)
    return found


async def _refusal(
    case: Case, limit: Limit, info: KeyInfo, what: str, *, is_trying: bool
) -> list[Reason]:
    """Why a key lets no job start; [] when it does.

    `is_trying`: if it is a breaker that does not say when it opens, one job is out on trial.
    """
    opens_ms = info.opens_at_ms
    rests = opens_ms is not None and opens_ms > case.now_ms
    jobs, workers = (), ()
    if isinstance(limit, Slots):
        if info.used < limit.n:
            return []
        kind, jobs, workers = Kind.LIMIT, info.running, await _workers_of(case, info.running)
        on = f" on {some(workers, 'worker')}" if workers else ""
        held = f"{info.used} of {limit.n} held by {some([ref.id for ref in jobs], 'job')}{on}"
        text = f"{what} has no free slot: {held}"
    elif isinstance(limit, Rate):
        if not rests:
            return []
        kind, text = Kind.RATE, f"{what} starts no more than {words(limit)}"
    else:
        if not (rests or is_trying):
            return []
        failures = f"{limit.failures} {plural(limit.failures, 'failure')} in a row"
        does = "rests" if rests else "tries one job and waits for its end"
        kind, text = Kind.BREAKER, f"{what} {does} after {failures}"
    return [
        Reason(
            kind=kind,
            text=text,
            until_ms=opens_ms if rests else None,
            limit=LimitKey(info.name, info.key),
            jobs=jobs,
            workers=workers,
            count=info.parked,
        )
    ]


async def _workers_of(case: Case, running: Sequence[JobRef]) -> tuple[str, ...]:
    records = await case.store.get(running)
    ids = (record.status.worker for record in records if record is not None)
    return tuple(dict.fromkeys(id_ for id_ in ids if id_ is not None))
