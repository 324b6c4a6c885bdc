"""Batches as rows: how many jobs gather where, and when they are ready."""

from collections.abc import Sequence
from typing import Final

import msgspec

from ropeway.brokers.sqlite.connection import Connection
from ropeway.brokers.sqlite.flow.rules import Rules
from ropeway.brokers.sqlite.rows import texts
from ropeway.job import Job

SCHEMA: Final = """
CREATE TABLE groups (
  id TEXT PRIMARY KEY,         -- JSON: queue, task, key; `jobs.parked_on` of those that gather
  queue TEXT NOT NULL,
  task TEXT NOT NULL,
  n INTEGER NOT NULL,
  first_ms INTEGER NOT NULL,   -- when the first of them was due, and the last
  last_ms INTEGER NOT NULL,
  ready_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX groups_ready ON groups (queue, ready_ms);
"""
_JOIN = """
INSERT INTO groups VALUES (?1, ?2, ?3, 1, ?4, ?4, 0)
ON CONFLICT DO UPDATE SET n = n + 1, first_ms = min(first_ms, ?4), last_ms = max(last_ms, ?4)
"""
# ?2 size (1 without a rule), ?3 within, ?4 grace.
_READY = """
UPDATE groups SET ready_ms = CASE WHEN n >= ?2 THEN first_ms
  ELSE min(first_ms + ?3, last_ms + ?4) END
WHERE id = ?1
"""
_COUNT = """
INSERT OR REPLACE INTO groups
SELECT ?1, ?2, ?3, count(*), min(due_ms), max(due_ms), 0 FROM jobs WHERE parked_on = ?1
HAVING count(*) > 0
"""
_NEXT = """
SELECT id, task FROM groups WHERE queue IN (SELECT value FROM carray(?1)) AND ready_ms <= ?2
ORDER BY ready_ms LIMIT 1
"""
_MEMBERS = """
SELECT seq FROM jobs WHERE parked_on = ? ORDER BY priority DESC, rank, due_ms, seq LIMIT ?
"""


def group_of(job: Job) -> str | None:
    """The group that the job gathers in while it is available."""
    if job.group_key is None:
        return None
    return "G" + msgspec.json.encode((job.queue, job.task, job.group_key)).decode()


class Groups:
    """The groups that one transaction has to do with. Those that lost a job are counted anew."""

    __slots__ = ("_lost", "_rules", "_sql")

    def __init__(self, sql: Connection, rules: Rules) -> None:
        self._sql = sql
        self._rules = rules
        self._lost: dict[str, tuple[str, str]] = {}

    def join(self, job: Job, due_ms: int) -> None:
        """The job gathers from now on; it has been here since it was due."""
        id_ = group_of(job)
        assert id_ is not None, "only a job with a group key gathers"
        self._sql.run(_JOIN, (id_, job.queue, job.task, due_ms))
        self._set_ready(id_, job.task)

    def leave(self, job: Job) -> None:
        """The job does not gather any more."""
        id_ = group_of(job)
        if id_ is not None:
            self._lost[id_] = job.queue, job.task

    def next(self, queues: Sequence[str], now_ms: int) -> list[int] | None:
        """The seqs of the batch that has been ready for longest; None when there is none."""
        self.save()
        found = self._sql.first(_NEXT, (texts(queues), now_ms))
        if found is None:
            return None
        id_, task = found
        rule = self._rules.groups.get(task)
        size = 1 if rule is None else rule.size
        return [seq for (seq,) in self._sql.rows(_MEMBERS, (id_, size))]

    def changed(self, task: str) -> None:
        """The rule of a task's batches has changed."""
        for (id_,) in self._sql.rows("SELECT id FROM groups WHERE task = ?", (task,)):
            self._set_ready(id_, task)

    def save(self) -> None:
        """Count the groups that lost jobs."""
        for id_, (queue, task) in self._lost.items():
            self._sql.run("DELETE FROM groups WHERE id = ?", (id_,))
            self._sql.run(_COUNT, (id_, queue, task))
            self._set_ready(id_, task)
        self._lost.clear()

    def _set_ready(self, id_: str, task: str) -> None:
        rule = self._rules.groups.get(task)
        numbers = (1, 0, 0) if rule is None else (rule.size, rule.within_ms, rule.grace_ms)
        self._sql.run(_READY, (id_, *numbers))
