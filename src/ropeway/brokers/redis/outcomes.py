"""Outcomes as the script of `settle` reads them: jobs that were handed out together go together."""

from collections.abc import Sequence
from itertools import repeat
from typing import Any, Final

from ropeway.brokers.redis.records import encode_failure
from ropeway.brokers.redis.segments import Segments
from ropeway.brokers.redis.wire.client import Word
from ropeway.job import Failure
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


class Packed:
    """Outcomes on their way: the head of the script and its arguments."""

    __slots__ = ("_ids", "_place", "_results", "args", "head", "sizes")

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        self.head: list[Any] = []
        self.args: list[Word] = []
        self.sizes: list[int] = []
        self._place: tuple[str, int] = ("", -1)
        self._ids: list[str] = []
        self._results: list[bytes] = []
        for outcome in outcomes:
            if type(outcome) is Ack and not outcome.then and outcome.result_codec == "json":
                lease = outcome.lease
                place = lease.job.queue, lease.token
                if place != self._place:
                    self._close()
                    self._place = place
                self._ids.append(lease.job.id)
                self._results.append(outcome.result or b"")
            else:
                self._close()
                self._add(outcome)
        self._close()

    def answers(self, reply: Sequence[Any]) -> list[Settled]:
        """The answers by position."""
        answers: list[Settled] = []
        for size, part in zip(self.sizes, reply, strict=True):
            answers += repeat(Settled.OK, size) if part == 0 else map(_SETTLED.__getitem__, part)
        return answers

    def _close(self) -> None:
        """End a run of plain acks."""
        ids, results = self._ids, self._results
        if not ids:
            return
        queue, token = self._place
        if results.count(results[0]) == len(results):
            self.head.append(("A", queue, token, len(ids)))
            self.args.append(results[0])
            self.args += ids
        else:
            self.head.append(("a", queue, token, len(ids)))
            for pair in zip(ids, results, strict=True):
                self.args += pair
        self.sizes.append(len(ids))
        self._ids, self._results, self._place = [], [], ("", -1)

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
        self.sizes.append(1)
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
