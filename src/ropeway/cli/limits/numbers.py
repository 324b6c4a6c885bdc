"""The numbers of limits as options of a command."""

from dataclasses import dataclass
from typing import Annotated

import typer

from ropeway.cli.exits import usage
from ropeway.cli.input.quantity import DURATION_HELP, per, seconds
from ropeway.flow.options import CircuitBreaker, Concurrency, RateLimit


@dataclass(frozen=True)
class Numbers:
    """Up to one limit of each kind."""

    slots: Annotated[int | None, typer.Option(help="Jobs that run at the same time.")] = None
    rate: Annotated[
        str | None, typer.Option(metavar="N/TIME", help="Starts per time: 100/1m, 10/s.")
    ] = None
    burst: Annotated[
        int | None,
        typer.Option(help="With --rate: starts at once. Default: those of 100 ms, at least 1."),
    ] = None
    failures: Annotated[
        int | None, typer.Option(help="Failures in a row, after which no job starts for a while.")
    ] = None
    cooldown: Annotated[
        str | None, typer.Option(metavar="TIME", help=f"With --failures: {DURATION_HELP}.")
    ] = None

    def given(self) -> dict[str, Concurrency | RateLimit | CircuitBreaker]:
        """The limits that were given, by the names of a queue's settings.

        Raises a usage failure for an option without its other half, and ConfigError for numbers
        that cannot be meant.
        """
        found: dict[str, Concurrency | RateLimit | CircuitBreaker] = {}
        if self.slots is not None:
            found["concurrency"] = Concurrency(self.slots)
        if self.rate is not None:
            count, time_s = per(self.rate, name="rate")
            found["rate"] = RateLimit(count, time_s, burst=self.burst)
        elif self.burst is not None:
            raise usage("--burst goes with --rate")
        if self.failures is not None and self.cooldown is not None:
            rest_s = seconds(self.cooldown, name="cooldown")
            found["breaker"] = CircuitBreaker(self.failures, rest_s)
        elif self.failures is not None or self.cooldown is not None:
            raise usage("--failures and --cooldown go together")
        return found


Force = Annotated[
    bool,
    typer.Option("--force", help="Also when more jobs run than there will be slots; they go on."),
]
