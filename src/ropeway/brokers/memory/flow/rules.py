"""The rules that the memory broker enforces."""

from collections.abc import Sequence

from ropeway.errors import ConfigError
from ropeway.flow.rules import (
    GroupRule,
    LimitRule,
    QueueRule,
    Rule,
    RuleInfo,
    check,
    kind_of,
)

Name = tuple[str, str]  # kind and name
_NO_QUEUE_RULE = QueueRule(name="-")


class Rules:
    """What was declared and overridden, and what is in force."""

    def __init__(self) -> None:
        self.infos: dict[Name, RuleInfo] = {}
        self.limits: dict[str, LimitRule] = {}
        self._queues: dict[str, QueueRule] = {}
        self._groups: dict[str, GroupRule] = {}

    def queue(self, name: str) -> QueueRule:
        """What holds for a queue as a whole."""
        return self._queues.get(name, _NO_QUEUE_RULE)

    def group(self, task: str) -> GroupRule | None:
        """When the task's jobs become a batch."""
        return self._groups.get(task)

    def declare(self, rules: Sequence[Rule]) -> None:
        """Take the code's word. Raises ConfigError before anything is changed."""
        for rule in rules:
            check(rule)
        for rule in rules:
            override = self._override(rule)
            self._set(_name(rule), RuleInfo(declared=rule, override=override))

    def override(self, rules: Sequence[Rule]) -> None:
        """Take an operator's word, which was checked."""
        for rule in rules:
            self._set(_name(rule), RuleInfo(declared=self._declared(rule), override=rule))

    def refuse_override(self, rules: Sequence[Rule]) -> None:
        """Raise ConfigError for rules that cannot be meant or that nobody declared."""
        for rule in rules:
            check(rule)
            if not isinstance(rule, QueueRule) and self._declared(rule) is None:
                known = ", ".join(name for kind, name in self.infos if kind == kind_of(rule))
                raise ConfigError(
                    f"no {kind_of(rule)} {rule.name!r} is declared; known are: {known or 'none'}"
                )

    def reset(self, rules: Sequence[Rule]) -> int:
        """Forget overrides; how many there were."""
        overridden = [rule for rule in rules if self._override(rule) is not None]
        for rule in overridden:
            self._set(_name(rule), RuleInfo(declared=self._declared(rule), override=None))
        return len(overridden)

    def _declared(self, rule: Rule) -> Rule | None:
        info = self.infos.get(_name(rule))
        return info.declared if info is not None else None

    def _override(self, rule: Rule) -> Rule | None:
        info = self.infos.get(_name(rule))
        return info.override if info is not None else None

    def _set(self, name: Name, info: RuleInfo) -> None:
        plain = name[1]
        if info.declared is None and info.override is None:
            del self.infos[name]
            self._queues.pop(plain, None)
            return
        self.infos[name] = info
        rule = info.rule
        if isinstance(rule, LimitRule):
            self.limits[plain] = rule
        elif isinstance(rule, QueueRule):
            self._queues[plain] = rule
        else:
            self._groups[plain] = rule


def _name(rule: Rule) -> Name:
    return kind_of(rule), rule.name
