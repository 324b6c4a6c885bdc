"""Fair queues as rows: who is where, per queue and priority."""

from collections.abc import Sequence
from typing import Final

import msgspec

from ropeway.brokers.sqlite.connection import Connection
from ropeway.brokers.sqlite.flow.rules import Rules, bump
from ropeway.brokers.sqlite.rows import numbers, texts
from ropeway.flow.fair import KEYLESS, Turns
from ropeway.job import Job

SCHEMA: Final = """
CREATE TABLE fair (
  queue TEXT NOT NULL, priority INTEGER NOT NULL, reached REAL NOT NULL,
  PRIMARY KEY (queue, priority)
) STRICT, WITHOUT ROWID;
CREATE TABLE turns (
  queue TEXT NOT NULL, priority INTEGER NOT NULL, key TEXT NOT NULL, rank REAL NOT NULL,
  PRIMARY KEY (queue, priority, key)
) STRICT, WITHOUT ROWID;
"""
_LOAD = """
SELECT json_group_array(json_array(key, rank)) FROM turns
WHERE queue = ? AND priority = ? AND key IN (SELECT value FROM carray(?))
"""
_SAVE = """
INSERT OR REPLACE INTO turns
SELECT ?1, ?2, value->>0, CAST(value->>1 AS REAL) FROM json_each(?3)
"""
_SERVE = """
UPDATE fair SET reached = served.rank FROM (
  SELECT priority, max(rank) AS rank FROM jobs WHERE seq IN (SELECT value FROM carray(?2))
  GROUP BY priority) AS served
WHERE fair.queue = ?1 AND fair.priority = served.priority AND fair.reached < served.rank
"""
_PASSED = """
DELETE FROM turns WHERE rank <= (
  SELECT reached FROM fair WHERE fair.queue = turns.queue AND fair.priority = turns.priority)
"""

_Loaded = msgspec.json.Decoder(list[tuple[str, float]])
Place = tuple[str, int]  # queue, priority


class AllTurns:
    """The turns that one transaction has to do with."""

    __slots__ = ("_asked", "_joined", "_kept", "_places", "_rules", "_sql")

    def __init__(self, sql: Connection, rules: Rules) -> None:
        self._sql = sql
        self._rules = rules
        self._joined: set[Place] = set()  # fair from here on
        self._kept: frozenset[Place] = frozenset()  # those of them that are saved
        self._places: dict[Place, Turns] = {}
        self._asked: dict[Place, set[str]] = {}

    def concern(self, job: Job) -> bool:
        """Whether the job takes turns with others; those that gather take none."""
        if job.group_key is not None:
            return False
        place = job.queue, job.priority
        return job.fair_key is not None or place in self._rules.fair or place in self._joined

    def load(self, jobs: Sequence[Job]) -> None:
        """Read what is known of the tenants of these jobs, by one statement a place."""
        wanted: dict[Place, set[str]] = {}
        for job in jobs:
            if self.concern(job):
                wanted.setdefault((job.queue, job.priority), set()).add(job.fair_key or KEYLESS)
        for place, keys in wanted.items():
            turns = self._at(place)
            missing = keys - self._asked[place]
            if missing:
                ((found,),) = self._sql.rows(_LOAD, (*place, texts(missing)))
                turns.last.update(_Loaded.decode(found))
                self._asked[place] |= missing

    def join(self, job: Job) -> float:
        """The rank of a job that becomes available."""
        place = job.queue, job.priority
        asked = self._asked.get(place, ())
        if job.group_key is not None or (job.fair_key or KEYLESS) not in asked:
            if not self.concern(job):
                return 0.0
            self.load([job])
        if place not in self._joined:
            self._joined.add(place)
            if place not in self._rules.fair:
                self._sql.run("INSERT OR IGNORE INTO fair VALUES (?, ?, 0)", place)
                bump(self._sql)
        return self._places[place].join(job.fair_key, job.fair_weight)

    def leave(self, job: Job) -> None:
        """An available job is gone without being run."""
        if self.concern(job):
            self.load([job])
            self._at((job.queue, job.priority)).leave(job.fair_key, job.fair_weight)

    def served(self, queue: str, seqs: Sequence[int]) -> None:
        """These jobs of a queue were handed out."""
        if any(queue == fair for fair, _ in self._rules.fair):
            self.save()
            self._sql.run(_SERVE, (queue, numbers(seqs)))
            self.drop()

    def _at(self, place: Place) -> Turns:
        turns = self._places.get(place)
        if turns is None:
            found = self._sql.first(
                "SELECT reached FROM fair WHERE queue = ? AND priority = ?", place
            )
            turns = self._places[place] = Turns(found[0] if found else 0.0)
            self._asked[place] = set()
        return turns

    def drop(self) -> None:
        """Forget what was not saved: it was rolled back."""
        self._places.clear()
        self._asked.clear()
        self._joined = set(self._kept)

    def save(self) -> None:
        """Write what changed."""
        if self._joined:
            self._kept = frozenset(self._joined)
        for place, turns in self._places.items():
            if turns.changed:
                rows = [(key, turns.last[key]) for key in turns.changed]
                self._sql.run(_SAVE, (*place, msgspec.json.encode(rows).decode()))
                turns.changed.clear()


def forget_passed(sql: Connection) -> None:
    """Delete the tenants that have nothing waiting: they start again at what was reached."""
    sql.run(_PASSED)
