"""One cell to be filled: a scenario, a rival, a setting."""

from collections.abc import Callable
from dataclasses import dataclass

from bench.arena import Arena, Figures
from bench.roster import Rival, Setting


@dataclass(frozen=True, kw_only=True)
class Case:
    """A measurement and how to make it.

    Attributes:
        run: measures once, in an empty store.
        once: it takes long, and its figures are no speeds that vary with the machine's mood.
        apart: most of it is waiting, so it gets a Redis of its own and runs beside others.

    """

    scenario: str
    rival: Rival
    setting: Setting
    concurrency: int
    run: Callable[["Case", Arena], Figures]
    once: bool = False
    apart: bool = False
