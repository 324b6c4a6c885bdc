"""A run: every case as often as asked, in turns, so that a slow minute strikes all alike."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import product

from bench.arena import Conditions, Figures, arena
from bench.programs import Unsupported
from bench.roster import Rival
from bench.scenarios import SCENARIOS
from bench.scenarios.case import Case
from bench.servers import Redis


@dataclass
class Row:
    """A case and what came of it: figures of each run, or why there are none."""

    case: Case
    runs: list[Figures] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    unsupported: str = ""
    refused: str = ""  # why it cannot even be tried


def rows_of(rivals: Sequence[Rival], scenarios: Sequence[str]) -> list[Row]:
    """One a case, empty yet."""
    return [Row(case) for name in scenarios for case in SCENARIOS[name](rivals)]


@dataclass(frozen=True)
class Rounds:
    """Fills rows in turns; a case that fails or hangs is a row that says so."""

    conditions: Conditions
    repeat: int
    tell: Callable[[str], None]

    def fill(self, rows: Sequence[Row]) -> None:
        """Measure all of them."""
        if speeds := [row for row in rows if not row.case.apart]:
            self._in_turns(speeds)
        if waits := [row for row in rows if row.case.apart]:
            self._beside_each_other(waits)

    def _in_turns(self, rows: Sequence[Row]) -> None:
        by_scenario: dict[str, list[Row]] = {}
        for row in rows:
            by_scenario.setdefault(row.case.scenario, []).append(row)
        with Redis(self.conditions.folder / "redis", self.conditions.fsync) as redis:
            for turn, some in product(range(self.repeat), by_scenario.values()):
                for row in some[turn:] + some[:turn]:  # another one begins each time
                    if turn == 0 or not row.case.once:
                        self._measure(row, redis, lambda: None)

    def _beside_each_other(self, rows: Sequence[Row]) -> None:
        """Each with a Redis of its own; two are busy, while the others only wait."""
        busy = threading.Semaphore(2)

        def one(at: int, row: Row) -> None:
            busy.acquire()
            turn = ExitStack()
            turn.callback(busy.release)  # once: when the waiting begins, or at the end
            folder = self.conditions.folder / f"redis-{at}"
            with turn, Redis(folder, self.conditions.fsync) as redis:
                self._measure(row, redis, turn.close)

        with ThreadPoolExecutor(len(rows)) as pool:
            for done in [pool.submit(one, at, row) for at, row in enumerate(rows)]:
                done.result()

    def _measure(self, row: Row, redis: Redis, only_waits: Callable[[], None]) -> None:
        case = row.case
        if row.unsupported or row.refused:
            return
        began_s = time.monotonic()
        try:
            with arena(case.rival, self.conditions, redis, only_waits) as place:
                figures = case.run(case, place)
        except Unsupported as error:
            row.unsupported = outcome = str(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the other rivals go on
            row.reasons.append(str(error) or type(error).__name__)
            outcome = f"failed: {error}"
        else:
            row.runs.append(figures)
            outcome = "  ".join(f"{name} {value:,.4g}" for name, value in figures.items())
        took_s = time.monotonic() - began_s
        name = f"{case.scenario} {case.rival.name} {case.setting.name}"
        self.tell(f"{name:<32} {took_s:5.1f} s  {outcome}")
