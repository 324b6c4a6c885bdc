"""A broker that fails when told to: the network between a worker and its store."""

import inspect
from collections import Counter, deque
from typing import Any, Literal

from ropeway.broker import JobStore
from ropeway.errors import Disconnected

Fault = Literal["before", "after"]
"""`before`: the call never arrives. `after`: it is done, but its answer is lost."""


class FlakyBroker:
    """Passes every call on to `broker`, except those for which a fault is planned.

    `isinstance` aside it is a `JobStore`: hand it over as `flaky.store`.

    Attributes:
        calls: how often each verb was called, failed calls included.
        is_down: True fails every call, until it is set to False.

    """

    def __init__(self, broker: JobStore) -> None:
        self._broker = broker
        self._plans: dict[str, deque[Fault | None]] = {}
        self.calls: Counter[str] = Counter()
        self.is_down = False

    @property
    def store(self) -> JobStore:
        """Itself, for the type checker."""
        store: Any = self
        return store

    def plan(self, verb: str, *faults: Fault | None) -> None:
        """What happens to the next calls of `verb`, in this order; None lets one pass."""
        self._plans.setdefault(verb, deque()).extend(faults)

    def __getattr__(self, verb: str) -> Any:
        """The broker's own attribute; a verb comes wrapped."""
        found = getattr(self._broker, verb)
        if not inspect.iscoroutinefunction(found):
            return found

        async def call(*args: Any, **kwargs: Any) -> Any:
            self.calls[verb] += 1
            planned = self._plans.get(verb)
            fault = planned.popleft() if planned else None
            if self.is_down or fault == "before":
                raise Disconnected(f"{verb}: no connection (planned)")
            answer = await found(*args, **kwargs)
            if fault == "after":
                raise Disconnected(f"{verb}: the answer is lost (planned)")
            return answer

        return call
