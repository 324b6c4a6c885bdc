"""Measure the same thing several times, each time on a new database of its own."""

import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from ropeway.bench.figures import Answer, Figures, settings
from ropeway.bench.tasks import Subject, make_subject


class Plan(Protocol):
    """What every measurement is told."""

    @property
    def url(self) -> str:
        """Of the broker."""
        ...

    @property
    def concurrency(self) -> int | str:
        """Of the worker."""
        ...

    @property
    def repeat(self) -> int:
        """How many runs."""
        ...


async def repeated(
    name: str,
    plan: Plan,
    shape: Mapping[str, Any],
    run: Callable[[Subject, Path], Awaitable[Figures]],
) -> Answer:
    """Call `run` as often as `plan` says, with an open app and a directory for its files.

    `shape` is what the answer tells of the plan besides the settings that all plans share.
    """
    runs: list[Figures] = []
    told: dict[str, Any] = {}
    for _ in range(plan.repeat):
        with tempfile.TemporaryDirectory(prefix="ropeway-bench-") as made:
            place = Path(made)
            subject = make_subject(plan.url, place)
            async with subject.app:
                capabilities = subject.app.store.capabilities
                told = told or settings(plan.url, capabilities, concurrency=plan.concurrency)
                runs.append(await run(subject, place))
    return Answer.of(name, {**told, **shape}, runs)
