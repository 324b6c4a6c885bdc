"""Limits' keys as rows: read when a job refers to them, written back at the end of the step."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache, partial
from typing import Any, Final

import msgspec

from ropeway.brokers.sqlite.connection import Connection
from ropeway.brokers.sqlite.flow.rules import KnownKeys, Rules
from ropeway.brokers.sqlite.rows import texts
from ropeway.flow import queue as whole
from ropeway.flow.gate import Gate, Hold, KeyId
from ropeway.flow.limit import End, KeyState
from ropeway.flow.rules import Limit
from ropeway.job import Job

# A key's id is an L and JSON: its queue ("" for a limit of the app), the limit's name, the key.
# A queue's own limits have the empty name, and their kind for a key.
SCHEMA: Final = """
CREATE TABLE limit_keys (
  id TEXT PRIMARY KEY,
  name TEXT NOT NULL,
  used INTEGER NOT NULL,
  tat_ms REAL NOT NULL DEFAULT 0,
  failures INTEGER NOT NULL DEFAULT 0,
  open_until_ms INTEGER NOT NULL DEFAULT 0,
  parked INTEGER NOT NULL DEFAULT 0,
  wake_at_ms INTEGER           -- when to look at the parked jobs; NULL: when a run has ended
) STRICT, WITHOUT ROWID;
CREATE INDEX limit_keys_wake ON limit_keys (wake_at_ms) WHERE wake_at_ms IS NOT NULL;
"""
_STATE = "used, tat_ms, failures, open_until_ms, parked"
_LOAD = f"""
SELECT json_group_array(json_array(id, {_STATE})) FROM limit_keys
WHERE id IN (SELECT value FROM carray(?))
"""
_SAVE = f"""
INSERT INTO limit_keys (id, name, {_STATE}, wake_at_ms)
SELECT value->>0, value->>1, value->>2, CAST(value->>3 AS REAL), value->>4, value->>5, value->>6,
  value->>7 FROM json_each(?) WHERE true
ON CONFLICT DO UPDATE SET used = excluded.used, tat_ms = excluded.tat_ms,
  failures = excluded.failures, open_until_ms = excluded.open_until_ms, parked = excluded.parked,
  wake_at_ms = excluded.wake_at_ms
"""
# Of keys of one limit, ?1, that have nothing but slots in use, now as before: ?2: how many, in 8
# digits, and the id. Twice as fast as by JSON.
_SAVE_USED = """
INSERT INTO limit_keys (id, name, used)
SELECT substr(value, 9), ?1, CAST(substr(value, 1, 8) AS INTEGER) FROM carray(?2) WHERE true
ON CONFLICT DO UPDATE SET used = excluded.used
"""
_DUE = "SELECT id FROM limit_keys WHERE wake_at_ms <= ? ORDER BY wake_at_ms LIMIT ?"
# Blocked still if another one is the head of its ordering key meanwhile.
_UNPARK = """
UPDATE jobs SET parked_on = NULL, blocked = ordering_key IS NOT NULL AND EXISTS (
  SELECT 1 FROM jobs AS earlier WHERE earlier.queue = jobs.queue AND earlier.state < 5
    AND earlier.ordering_key = jobs.ordering_key AND earlier.seq < jobs.seq)
WHERE seq IN (
  SELECT seq FROM jobs WHERE parked_on = ? ORDER BY priority DESC, rank, due_ms, seq LIMIT ?)
"""
_PARK = "UPDATE jobs SET blocked = 2, parked_on = ? WHERE seq = ?"
_BUMP = "UPDATE meta SET keys = keys + 1 RETURNING keys"
_IDLE = """
DELETE FROM limit_keys WHERE used = 0 AND parked = 0 AND failures = 0 AND tat_ms <= ?
"""
_Loaded = msgspec.json.Decoder(list[tuple[str, int, float, int, int, int]])
_decode_id: Final = msgspec.json.Decoder(tuple[str, str, str]).decode


@lru_cache(maxsize=65_536)
def text_of(id_: KeyId) -> str:
    """A key's id as it is stored, there and in `jobs.parked_on`."""
    return "L" + msgspec.json.encode(id_).decode()


def id_of(text: str) -> KeyId:
    """The id that a text stands for."""
    return KeyId(*_decode_id(text[1:]))


class Keys:
    """The keys that one transaction has to do with."""

    __slots__ = ("_known", "_rules", "_sql", "gate")

    def __init__(self, sql: Connection, rules: Rules, known: KnownKeys | None = None) -> None:
        self._sql = sql
        self._rules = rules
        self._known = KnownKeys() if known is None else known
        self.gate: Gate = Gate(rules.limits, rules.holds, self._known.states)

    def load(self, ids: Iterable[KeyId]) -> None:
        """Read states that are not known yet, by one statement."""
        known = self._known.texts
        by_text = {text_of(id_): id_ for id_ in ids if id_ not in known}
        if not by_text:
            return
        ((found,),) = self._sql.rows(_LOAD, (texts(by_text),))
        states = self.gate.states
        for text, used, tat_ms, failures, open_until_ms, parked in _Loaded.decode(found):
            id_ = by_text[text]
            state = states.setdefault(id_, KeyState())
            state.used = used
            if tat_ms or failures or open_until_ms or parked:
                state.tat_ms, state.failures = tat_ms, failures
                state.open_until_ms, state.parked = open_until_ms, parked
                self._known.rich.add(id_)
        known.update((id_, text) for text, id_ in by_text.items())

    def read_all(self, name: str) -> list[KeyId]:
        """Read all states of one limit; their ids."""
        found = self._sql.rows("SELECT id FROM limit_keys WHERE name = ?", (name,))
        ids = [id_of(text) for (text,) in found]
        self.load(ids)
        return ids

    def touch(self, name: str) -> None:
        """Look at a limit's keys again when the step is written: its rule has changed."""
        self.gate.changed.update(id_ for id_ in self.read_all(name) if id_ in self.gate.states)

    def holds(self, jobs: Iterable[Job]) -> list[Hold]:
        """What the jobs count under, one by one; the states are read."""
        hold = self.gate.hold
        holds = [hold(job.queue, job.limits) for job in jobs]
        self.load(id_ for one in holds for id_ in one.ids)
        return holds

    def park(self, parked: Sequence[tuple[int, KeyId]]) -> None:
        """Set available jobs (seq, key) aside; their keys were loaded."""
        self._sql.run_many(_PARK, [(text_of(id_), seq) for seq, id_ in parked])
        for _, id_ in parked:
            self.gate.park(id_, 1)

    def wake(self, most: int, now_ms: int) -> int:
        """Let up to `most` parked jobs come back, at most as many as their keys have room for."""
        ids = [id_of(text) for (text,) in self._sql.rows(_DUE, (now_ms, most))]
        self.load(ids)
        woken = 0
        for id_ in ids:
            wanted = min(self.gate.wakes(id_, now_ms), most - woken)
            if wanted > 0:
                self._sql.run(_UNPARK, (text_of(id_), wanted))
                self.gate.park(id_, -self._sql.changes)
                woken += self._sql.changes
            self.gate.changed.add(id_)  # for its next time, if any
        return woken

    def unpark(self, text: str) -> None:
        """A job does not wait for its key any more, whatever comes next."""
        id_ = id_of(text)
        self.load([id_])
        self.gate.park(id_, -1)

    def ended(self, job: Job, end: End, now_ms: int) -> None:
        """A run of the job has ended."""
        (hold,) = self.holds([job])
        self.gate.end(hold, end, now_ms)

    # ------------------------------------------------------------------ queues

    def queue_room(self, queue: str, running: int, now_ms: int) -> int:
        """How many more jobs of the queue its own limits let start."""
        limits = self._rules.queue(queue).limits
        return whole.room(limits, partial(self._of, queue), running, now_ms)

    def queue_started(self, queue: str, n: int, now_ms: int) -> None:
        """So many jobs of the queue have started."""
        whole.started(self._rules.queue(queue).limits, partial(self._of, queue), n, now_ms)

    def queue_ended(self, queue: str, end: End, now_ms: int) -> None:
        """A run of a job of the queue has ended."""
        whole.ended(self._rules.queue(queue).limits, partial(self._of, queue), end, now_ms)

    def queue_opens_ms(self, queue: str, now_ms: int) -> int | None:
        """When time alone gives the queue room; None when it has room or runs must end first."""
        limits = self._rules.queue(queue).limits
        return whole.opens_at_ms(limits, partial(self._of, queue), now_ms)

    def _of(self, queue: str, limit: Limit) -> KeyState:
        id_ = queue_key(queue, limit)
        self.load([id_])
        return self.gate.state(id_)

    # ------------------------------------------------------------------ the end of the step

    def save(self, now_ms: int) -> None:
        """Write what changed. States that say nothing are left to `forget_idle`."""
        gate = self.gate
        if not gate.changed:
            return
        known = self._known
        plain: defaultdict[str, list[str]] = defaultdict(list)
        rich: list[tuple[Any, ...]] = []
        for id_ in gate.changed:
            state, text = gate.states[id_], known.texts[id_]
            if state.tat_ms or state.failures or state.parked or id_ in known.rich:
                numbers = (state.failures, state.open_until_ms, state.parked)
                wake_ms = gate.wake_at_ms(id_, now_ms) if state.parked else None
                rich.append((text, id_.name, state.used, state.tat_ms, *numbers, wake_ms))
                known.rich.add(id_)
            else:
                plain[id_.name].append(f"{state.used:08d}{text}")
        for name, rows in plain.items():
            self._sql.run(_SAVE_USED, (name, texts(rows)))
        if rich:
            self._sql.run(_SAVE, (msgspec.json.encode(rich).decode(),))
        gate.changed.clear()
        ((known.version,),) = self._sql.rows(_BUMP)

    def forget(self, name: str) -> None:
        """Delete the states of one limit."""
        self._sql.run("DELETE FROM limit_keys WHERE name = ?", (name,))
        known = self._known
        for id_ in [id_ for id_ in known.texts if id_.name == name]:
            known.states.pop(id_, None)
            del known.texts[id_]
        ((known.version,),) = self._sql.rows(_BUMP)


def queue_key(queue: str, limit: Limit) -> KeyId:
    """The key under which the state of a queue's own limit is kept."""
    return KeyId(queue, "", str(limit.__struct_config__.tag))


def forget_idle(sql: Connection, now_ms: int) -> None:
    """Delete the keys of rates that nobody has used for long enough to matter."""
    sql.run(_IDLE, (now_ms,))
