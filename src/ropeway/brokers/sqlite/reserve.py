"""Handing out jobs: due ones first made available, overdue ones buried, then leases."""

from collections.abc import Mapping
from dataclasses import dataclass

import apsw
import msgspec

from ropeway import crash, lifecycle
from ropeway.broker import Queues
from ropeway.brokers.sqlite.rows import CODE, Flag, decode_jobs, load_seqs, numbers
from ropeway.brokers.sqlite.step import Step
from ropeway.flow.gate import KeyId
from ropeway.flow.limit import UNBOUNDED
from ropeway.job import Lease, State
from ropeway.weighted import Shares

_ARRAY_32 = b"\xdd"  # msgpack: an array with its length in the next 4 bytes
_AVAILABLE, _RUNNING = CODE[State.AVAILABLE], CODE[State.RUNNING]

# The next jobs of a queue as ONE row: how many, their words as concatenated msgpack, the columns
# that decide about each. One row a job would ask for the interpreter's lock once a job.
_NEXT = """
SELECT count(*), CAST(group_concat(job, '') AS BLOB),
  json_group_array(json_array(seq, attempt, flags, coalesce(overdue_at_ms, 0), extra IS NOT NULL))
FROM (
  SELECT seq, attempt, flags, overdue_at_ms, extra, job FROM jobs
  WHERE queue = ? AND blocked = 0 AND state = 2
  ORDER BY priority DESC, rank, due_ms, seq LIMIT ?
)
"""
# ?1 seqs, ?2 token, ?3 end of the lease, ?4 worker, ?5 now: as `lifecycle.start` has it.
_START = """
UPDATE jobs SET state = 3, attempt = attempt + 1, token = ?2, lease_until_ms = ?3, worker = ?4,
  started_at_ms = ?5
WHERE seq IN (SELECT value FROM carray(?1))
"""
_DUE = """
SELECT seq, state, flags FROM jobs WHERE queue = ? AND state IN (1, 4) AND due_ms <= ?
ORDER BY due_ms LIMIT ?
"""
_PROMOTE = "UPDATE jobs SET state = 2 WHERE seq IN (SELECT value FROM carray(?))"
_TOKEN = "UPDATE meta SET token = token + 1 RETURNING token"  # noqa: S105 - a lease's, no secret

# What has to hear of each of them when it becomes available.
_PROMOTED_ALONE = Flag.UNIQUE_PARTLY | Flag.FAIR | Flag.GROUPED

_Next = msgspec.json.Decoder(list[tuple[int, int, int, int, int]])


@dataclass(frozen=True, slots=True)
class Request:
    """The arguments of one call of `reserve`; `shares` deals among weighted queues."""

    queues: Queues
    worker: str
    limit: int
    lease_ms: int
    shares: Shares | None = None


class _Hand:
    """What one call hands out."""

    def __init__(self, step: Step, request: Request) -> None:
        self.step = step
        self.request = request
        self.until_ms = step.mono_ms + request.lease_ms
        self.token = 0
        self.leases: list[Lease] = []
        self.may_park = 4 * request.limit + 64  # so many refused jobs are set aside in one call
        self.passed_over: str | None = None  # the first queue whose suspect had to wait

    @property
    def left(self) -> int:
        """How many more leases fit; none beside a suspect."""
        if _is_suspect(self.leases):
            return 0
        return self.request.limit - len(self.leases)

    def draw_token(self) -> int:
        """This call's token, drawn when the first lease needs it."""
        if not self.token:
            self.token = draw_token(self.step)
        return self.token


def draw_token(step: Step) -> int:
    """A token that was never given out before."""
    ((token,),) = step.sql.rows(_TOKEN)
    return token


def reserve(step: Step, request: Request) -> list[Lease]:
    """Up to `limit` leases, queue by queue or by shares."""
    leases = _reserve(step, request)
    if leases:
        crash.point("reserve.written")
    return leases


def _reserve(step: Step, request: Request) -> list[Lease]:
    hand = _Hand(step, request)
    paused = paused_queues(step)
    if step.flow.rules.limits:
        step.flow.keys.wake(2 * request.limit, step.now_ms)
    open_queues = [queue for queue in request.queues if queue not in paused]
    if request.shares is None or not isinstance(request.queues, Mapping):
        for queue in open_queues:
            if hand.left > 0:
                _take(hand, queue, hand.left)
        return hand.leases
    exhausted = paused & set(request.queues)
    before = request.shares.credits()
    while hand.left > 0 and len(exhausted) < len(request.queues):
        dealt = request.shares.deal(hand.left, exhausted=frozenset(exhausted))
        for queue, places in dealt.items():
            if 0 < places <= hand.left and _take(hand, queue, places) < places:
                exhausted.add(queue)
    if not hand.leases:
        request.shares.restore(before)
    if hand.passed_over is not None or _is_suspect(hand.leases):
        request.shares.favour(hand.passed_over)
    return hand.leases


def _is_suspect(leases: list[Lease]) -> bool:
    return bool(leases) and leases[0].suspect


def paused_queues(step: Step) -> set[str]:
    """The names of the paused queues."""
    return {name for (name,) in step.sql.rows("SELECT queue FROM paused")}


def promote(step: Step, queue: str, limit: int) -> int:
    """Make the due jobs of a queue available, at most `limit`; how many."""
    due = step.sql.rows(_DUE, (queue, step.now_ms, limit))
    is_fair = step.flow.is_fair(queue) or any(flags & Flag.FAIR for _, _, flags in due)
    plain = [(seq, state) for seq, state, flags in due if not (flags & _PROMOTED_ALONE or is_fair)]
    if plain:
        step.sql.run(_PROMOTE, (numbers(seq for seq, _ in plain),))
        for _, state in plain:
            step.counts[queue, state] -= 1
        step.counts[queue, _AVAILABLE] += len(plain)
        step.woke = True
    others = [seq for seq, _, flags in due if flags & _PROMOTED_ALONE or is_fair]
    for row in load_seqs(step.sql, others):
        step.put(row, lifecycle.promote(row.status))
    return len(due)


def _take(hand: _Hand, queue: str, places: int) -> int:
    """Hand out up to `places` jobs of one queue; how many."""
    before = len(hand.leases)
    promote(hand.step, queue, 2 * hand.request.limit)
    places = min(places, _room(hand.step, queue))
    buries = 2 * hand.request.limit
    while buries > 0:
        wanted = places - (len(hand.leases) - before)
        buried, more = _take_next(hand, queue, wanted)
        buries -= buried
        if not more or hand.may_park <= 0:
            break
    return len(hand.leases) - before


def _room(step: Step, queue: str) -> int:
    """How many jobs the queue's own limits let start."""
    keys = step.flow.keys
    if not step.flow.rules.queue(queue).limits:
        return UNBOUNDED
    return keys.queue_room(queue, step.count_of(queue, State.RUNNING), step.now_ms)


def _take_next(hand: _Hand, queue: str, wanted: int) -> tuple[int, bool]:
    """Hand out the first jobs; how many overdue ones were buried, and whether to go on."""
    step = hand.step
    if wanted <= 0:
        return 0, False
    try:
        ((count, blob, columns),) = step.sql.rows(_NEXT, (queue, wanted))
    except apsw.TooBigError:  # together they exceed what SQLite takes as one value
        return _take_next(hand, queue, wanted // 2)
    if not count:
        return 0, False
    jobs = decode_jobs(_ARRAY_32 + count.to_bytes(4, "big") + blob)
    token = hand.draw_token()
    plain: list[int] = []
    slow: dict[int, int] = {}  # seq → place among the leases
    overdue: list[int] = []
    parked: list[tuple[int, KeyId]] = []
    stopped = frees_a_line = False
    rows = _Next.decode(columns)
    keys = step.flow.keys
    limited = [job for job, row in zip(jobs, rows, strict=True) if row[2] & Flag.LIMITED]
    holds = iter(keys.holds(limited))
    for job, (seq, attempt, flags, overdue_ms, has_extra) in zip(jobs, rows, strict=True):
        hold = next(holds) if flags & Flag.LIMITED else None
        if overdue_ms and overdue_ms <= step.now_ms:
            overdue.append(seq)
            frees_a_line = frees_a_line or bool(flags & Flag.ORDERED)
            continue
        if frees_a_line:  # another job of its line may come before this one
            break
        suspect = bool(flags & Flag.SUSPECT)
        if suspect and hand.leases:
            hand.passed_over = hand.passed_over or queue
            stopped = True
            break
        if hold is not None:
            full = keys.gate.start(hold, step.now_ms)
            if full is not None:
                parked.append((seq, full))
                continue
        if has_extra or flags & Flag.UNIQUE_PARTLY:
            slow[seq] = len(hand.leases)
        else:
            plain.append(seq)
        hand.leases.append(
            Lease(job=job, attempt=attempt + 1, token=token, expires_at_ms=hand.until_ms, seq=seq)
        )
        if suspect:
            stopped = True
            break
    if plain:
        worker = hand.request.worker
        step.sql.run(_START, (numbers(plain), token, hand.until_ms, worker, step.now_ms))
        step.counts[queue, _AVAILABLE] -= len(plain)
        step.counts[queue, _RUNNING] += len(plain)
    _start_slowly(hand, slow)
    if plain or slow:
        step.flow.started(queue, [*plain, *slow])
    keys.gate.flush(step.now_ms)
    keys.park(parked)
    hand.may_park -= len(parked)
    bury_overdue(step, overdue)
    if _is_suspect(hand.leases):
        stopped = True
    return len(overdue), bool(overdue or parked) and not stopped


def _start_slowly(hand: _Hand, places: dict[int, int]) -> None:
    """Jobs with a history: the lifecycle's own function, and a lease that tells of it."""
    for row in load_seqs(hand.step.sql, list(places)):
        status = lifecycle.start(
            row.status,
            worker=hand.request.worker,
            token=hand.token,
            lease_until_ms=hand.until_ms,
            now_ms=hand.step.now_ms,
        )
        hand.step.put(row, status)
        hand.leases[places[status.seq]] = lifecycle.lease(row.job, status)


def bury_overdue(step: Step, seqs: list[int]) -> None:
    """End waiting jobs that were not started in time."""
    for row in load_seqs(step.sql, seqs):
        reason = lifecycle.overdue(row.job, now_ms=step.now_ms) or "expired"
        step.put(row, lifecycle.bury_overdue(row.status, reason=reason, now_ms=step.now_ms))
