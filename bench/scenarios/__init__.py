"""What is measured. Each scenario lists its cases; a case measures one setting of one rival."""

from collections.abc import Callable, Sequence
from typing import Final

from bench.roster import Rival
from bench.scenarios import classic, crash, delayed, drain, enqueue, latency, ranked
from bench.scenarios.case import Case

SCENARIOS: Final[dict[str, Callable[[Sequence[Rival]], list[Case]]]] = {
    "enqueue": enqueue.cases,
    "drain": drain.cases,
    "sleep1ms": drain.sleep_cases,
    "cpu": drain.cpu_cases,
    "latency": latency.cases,
    "ranked": ranked.cases,
    "delayed": delayed.cases,
    "classic": classic.cases,
    "crash": crash.cases,
}
QUICK: Final = ("enqueue", "drain", "latency", "crash")
