"""What happened in a simulation: events in order, as seen by nobody's broker but by the world."""

import hashlib
from typing import Any, NamedTuple


class Event(NamedTuple):
    """One thing that happened.

    Attributes:
        at_ms: broker's monotonic time, which is the world's.
        who: the process; "world" for the nemesis.
        kind: see `checker.py` for all of them.
        job: its id, or "" when the event is about no single job.
        facts: the rest.

    """

    at_ms: int
    who: str
    kind: str
    job: str
    facts: dict[str, Any]

    def __str__(self) -> str:
        facts = " ".join(f"{name}={value}" for name, value in self.facts.items())
        return (
            f"{self.at_ms / 1000:10.3f} {self.who:<8} {self.kind:<12} {self.job} {facts}".rstrip()
        )


class History(list[Event]):
    """All events of one run, in the order in which they happened."""

    def text(self) -> str:
        """One line an event."""
        return "\n".join(map(str, self)) + "\n"

    def digest(self) -> str:
        """Short, and different for every other history."""
        return hashlib.sha256(self.text().encode()).hexdigest()[:16]

    def about(self, job: str) -> str:
        """The events of one job, and the faults around them."""
        return "\n".join(str(e) for e in self if e.job == job or e.kind == "fault")
