"""The rules in the file: read once, and again when `meta.rules` says that they changed."""

from collections.abc import Sequence
from typing import Final

import msgspec

from ropeway.brokers.sqlite.connection import Connection
from ropeway.errors import ConfigError
from ropeway.flow.gate import Hold, KeyId, Place
from ropeway.flow.limit import KeyState
from ropeway.flow.rules import GroupRule, LimitRule, QueueRule, Rule, RuleInfo, check, kind_of

SCHEMA: Final = """
CREATE TABLE rules (
  kind TEXT NOT NULL, name TEXT NOT NULL, declared BLOB, override BLOB, PRIMARY KEY (kind, name)
) STRICT, WITHOUT ROWID;
"""

_encode = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Rule).decode
KEYS_KNOWN_MAX: Final = 100_000
_NO_QUEUE_RULE: Final = QueueRule(name="-")
_BUMP = "UPDATE meta SET rules = rules + 1"


class Rules(msgspec.Struct, gc=False):
    """What is in force, as of a version.

    `fair`: queues and priorities that know fair keys; `holds`: what follows for single jobs.
    """

    version: int = 0
    limits: dict[str, LimitRule] = {}
    queues: dict[str, QueueRule] = {}
    groups: dict[str, GroupRule] = {}
    fair: frozenset[tuple[str, int]] = frozenset()
    holds: dict[Place, Hold] = {}

    def queue(self, name: str) -> QueueRule:
        """What holds for a queue as a whole."""
        return self.queues.get(name, _NO_QUEUE_RULE)


class KnownKeys(msgspec.Struct, gc=False):
    """The states of limits' keys that were read or written, as of a version of `meta.keys`.

    `texts`: what stands for those that were looked for; `rich`: those with more than slots in use.
    """

    version: int = -1
    states: dict[KeyId, KeyState] = {}
    texts: dict[KeyId, str] = {}
    rich: set[KeyId] = set()


class FlowCache:
    """The rules, and the states of keys, as one connection last saw them.

    A writer that finds no other one's hand in between need not read them again.
    """

    __slots__ = ("keys", "rules", "swept_ms")

    def __init__(self) -> None:
        self.rules: Rules = Rules()
        self.keys: KnownKeys = KnownKeys()
        self.swept_ms: int = 0  # when idle keys and tenants were last deleted from here

    def forget(self) -> None:
        """A step was rolled back: what it read or counted may never have been."""
        self.rules = Rules(version=-1)
        self.keys = KnownKeys()

    def read(self, sql: Connection) -> Rules:
        """The rules as of the open transaction. One look at two numbers when nothing changed."""
        ((rules, keys),) = sql.rows("SELECT rules, keys FROM meta")
        if rules != self.rules.version:
            self.rules = _load(sql, rules)
        if keys != self.keys.version or len(self.keys.states) > KEYS_KNOWN_MAX:
            self.keys = KnownKeys(version=keys)
        return self.rules


def _load(sql: Connection, version: int) -> Rules:
    rules = Rules(version=version)
    for (blob,) in sql.rows("SELECT coalesce(override, declared) FROM rules"):
        rule = _decode(blob)
        if isinstance(rule, LimitRule):
            rules.limits[rule.name] = rule
        elif isinstance(rule, QueueRule):
            rules.queues[rule.name] = rule
        else:
            rules.groups[rule.name] = rule
    rules.fair = frozenset(sql.rows("SELECT queue, priority FROM fair"))
    return rules


def bump(sql: Connection) -> None:
    """Tell every cache that there is something new."""
    sql.run(_BUMP)


def infos(sql: Connection) -> list[RuleInfo]:
    """All rules, by kind and name."""
    found = sql.rows("SELECT declared, override FROM rules ORDER BY kind, name")
    return [RuleInfo(declared=_or_none(d), override=_or_none(o)) for d, o in found]


def declare(sql: Connection, rules: Sequence[Rule]) -> list[Rule]:
    """Write the code's word; those of the rules that are new or changed."""
    for rule in rules:
        check(rule)
    changed: list[Rule] = []
    for rule in rules:
        if _get(sql, rule)[0] == _encode(rule):
            continue
        changed.append(rule)
        sql.run(
            "INSERT INTO rules (kind, name, declared) VALUES (?, ?, ?)"
            " ON CONFLICT DO UPDATE SET declared = excluded.declared",
            (kind_of(rule), rule.name, _encode(rule)),
        )
    if changed:
        bump(sql)
    return changed


def override(sql: Connection, rules: Sequence[Rule]) -> None:
    """Write an operator's word.

    Raises:
        ConfigError: a rule that cannot be meant, or of a limit or batch that nobody declared.
    """
    for rule in rules:
        check(rule)
        if not isinstance(rule, QueueRule) and _get(sql, rule)[0] is None:
            kind = kind_of(rule)
            known = [name for (name,) in sql.rows("SELECT name FROM rules WHERE kind = ?", (kind,))]
            raise ConfigError(
                f"no {kind} {rule.name!r} is declared; known are: {', '.join(known) or 'none'}"
            )
    for rule in rules:
        sql.run(
            "INSERT INTO rules (kind, name, override) VALUES (?, ?, ?)"
            " ON CONFLICT DO UPDATE SET override = excluded.override",
            (kind_of(rule), rule.name, _encode(rule)),
        )
    bump(sql)


def reset(sql: Connection, rules: Sequence[Rule]) -> int:
    """Forget overrides; how many there were."""
    count = 0
    for rule in rules:
        named = (kind_of(rule), rule.name)
        sql.run(
            "UPDATE rules SET override = NULL WHERE kind = ? AND name = ? AND override IS NOT NULL",
            named,
        )
        count += sql.changes
        sql.run("DELETE FROM rules WHERE kind = ? AND name = ? AND declared IS NULL", named)
    if count:
        bump(sql)
    return count


def _get(sql: Connection, rule: Rule) -> tuple[bytes | None, bytes | None]:
    found = sql.first(
        "SELECT declared, override FROM rules WHERE kind = ? AND name = ?",
        (kind_of(rule), rule.name),
    )
    return (found[0], found[1]) if found else (None, None)


def _or_none(blob: bytes | None) -> Rule | None:
    return None if blob is None else _decode(blob)
