"""Outcomes as the script of `settle` reads them: jobs that were handed out together go together."""

from collections.abc import Sequence
from typing import Any, Final

from ropeway.brokers.redis.encoding.records import encode_failure
from ropeway.brokers.redis.encoding.segments import Segments
from ropeway.brokers.redis.wire.client import Word
from ropeway.job import Failure, JobRef
from ropeway.outcome import Ack, Bury, Cancel, Crashed, Outcome, Release, Retry, Settled, Snooze

_SETTLED: Final = (Settled.OK, Settled.ALREADY, Settled.LOST)
_KINDS: Final = {
    Ack: "ack",
    Retry: "retry",
    Snooze: "snooze",
    Release: "release",
    Bury: "bury",
    Cancel: "cancel",
    Crashed: "crashed",
}


class _Acks:
    """Plain acks of jobs of one queue that were handed out together."""

    __slots__ = ("ids", "places", "results")

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.results: list[bytes] = []
        self.places: list[int] = []


class Packed:
    """Outcomes on their way: the head of the script and its arguments.

    Those that free a key or add jobs come first, in their order.
    """

    __slots__ = ("_groups", "_n", "_places", "args", "head")

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        self.head: list[Any] = []
        self.args: list[Word] = []
        self._n = len(outcomes)
        self._places: list[Sequence[int]] = []  # by segment: of its outcomes
        self._groups: dict[tuple[str, int], _Acks] = {}
        others = self._gather(outcomes)
        jobs = {outcomes[place].lease.job.ref for place in others}
        for (queue, token), acks in list(self._groups.items()):
            ids = set(acks.ids)
            if len(ids) < len(acks.ids) or any(JobRef(id_, queue) in jobs for id_ in ids if jobs):
                others += acks.places
                del self._groups[queue, token]
        for place in sorted(others):
            self._places.append((place,))
            self._add(outcomes[place])
        for (queue, token), acks in self._groups.items():
            self._add_acks(queue, token, acks)

    def answers(self, reply: Sequence[Any]) -> list[Settled]:
        """The answers by position."""
        answers = [Settled.OK] * self._n
        for places, part in zip(self._places, reply, strict=True):
            if part != 0:
                for place, code in zip(places, part, strict=True):
                    answers[place] = _SETTLED[code]
        return answers

    def _gather(self, outcomes: Sequence[Outcome]) -> list[int]:
        """Put acks together from which nothing follows; the places of the other outcomes."""
        others: list[int] = []
        queue, token, acks = "", -1, _Acks()
        for place, outcome in enumerate(outcomes):
            lease = outcome.lease
            job = lease.job
            if (
                type(outcome) is Ack
                and not outcome.then
                and outcome.result_codec == "json"
                and outcome.result != b""
                and job.unique is None
                and job.ordering_key is None
            ):
                if lease.token != token or job.queue != queue:
                    queue, token = job.queue, lease.token
                    acks = self._groups.setdefault((queue, token), _Acks())
                acks.ids.append(job.id)
                acks.results.append(outcome.result or b"")
                acks.places.append(place)
            else:
                others.append(place)
        return others

    def _add_acks(self, queue: str, token: int, acks: _Acks) -> None:
        ids, results = acks.ids, acks.results
        if results.count(results[0]) == len(results):
            self.head.append(("A", queue, token, len(ids)))
            self.args.append(results[0])
            self.args += ids
        else:
            self.head.append(("a", queue, token, len(ids)))
            for pair in zip(ids, results, strict=True):
                self.args += pair
        self._places.append(acks.places)

    def _add(self, outcome: Any) -> None:
        """One outcome by itself, with what only its kind has."""
        lease = outcome.lease
        told: dict[str, Any] = {
            "k": _KINDS[type(outcome)],
            "q": lease.job.queue,
            "id": lease.job.id,
            "tk": lease.token,
        }
        self.head.append(("o", told))
        if isinstance(outcome, Ack):
            if outcome.result_codec != "json":
                told["codec"] = outcome.result_codec
            if outcome.result is not None:
                told["res"] = True
                self.args.append(outcome.result)
            then = Segments(outcome.then)
            if outcome.then:
                told["th"] = then.head
            self.args += then.args
            return
        if isinstance(outcome, Retry | Snooze):
            told["delay"] = outcome.delay_ms
        if isinstance(outcome, Retry):
            told["counted"] = outcome.counted
        reason = getattr(outcome, "reason", None)
        if reason is not None:
            told["reason"] = reason
        self._add_failure(told, "failure", getattr(outcome, "failure", None))
        self._add_failure(told, "fallback", getattr(outcome, "of_fallback", None))

    def _add_failure(self, told: dict[str, Any], name: str, failure: Failure | None) -> None:
        if failure is not None:
            told[name] = True
            self.args.append(encode_failure(failure))
