"""Forged histories: what a ledger, a store and a witness would say of a run that went so."""

from collections.abc import Iterable
from typing import Any

from ropeway.job import State
from ropeway.verify.history import Ending, History
from ropeway.verify.ledger import Event, What

LEASE_S = 2.0
ALICE, BOB = 100, 200


class Forgery:
    """A run in which `job` was asked for and completed; each method adds what happened besides."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.records: dict[str, Ending] = {}
        self.finals: dict[str, int] = {}
        self.revived: list[str] = []
        self.sizes: tuple[int, int] | None = None

    def add(self, what: What, at_s: float, *, pid: int = ALICE, **fields: Any) -> "Forgery":
        self.events.append(Event(what=what, at_s=at_s, wall_s=1e9 + at_s, pid=pid, **fields))
        return self

    def ask(
        self, job: str = "job", kind: str = "plain", at_s: float = 1.0, **fields: Any
    ) -> "Forgery":
        self.add("ask", at_s, pid=1, job=job, kind=kind, **fields)
        return self.add("ack", at_s + 0.01, pid=1, job=job, kind=kind, detail=job)

    def run(
        self,
        start_s: float,
        end_s: float | None,
        job: str = "job",
        *,
        pid: int = ALICE,
        token: int = 1,
        what: What = "end",
    ) -> "Forgery":
        self.add("start", start_s, pid=pid, job=job, token=token)
        if end_s is not None:
            self.add(what, end_s, pid=pid, job=job, token=token)
        return self

    def final(self, job: str = "job", state: State = State.COMPLETED, **fields: Any) -> "Forgery":
        self.records[job] = Ending(state, **fields)
        self.finals[job] = self.finals.get(job, 0) + 1
        return self

    def done(
        self, start_s: float, end_s: float, job: str = "job", kind: str = "plain", **fields: Any
    ) -> "Forgery":
        """A job's whole life, as it should be; asked for just before it starts."""
        token = fields.pop("token", 1)
        self.ask(job, kind, fields.pop("at_s", start_s - 0.1), **fields)
        return self.run(start_s, end_s, job, token=token).final(job)

    def history(self, events: Iterable[Event] = ()) -> History:
        return History(
            events=sorted((*self.events, *events), key=lambda event: event.at_s),
            lease_s=LEASE_S,
            records=self.records,
            finals=self.finals,
            revived=self.revived,
            queue_sizes=self.sizes or (len(self.records), 0),
        )
